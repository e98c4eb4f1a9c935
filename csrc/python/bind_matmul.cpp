// Products of float rows with rows of blocks. The Python layer has resolved formats and dtypes; shapes are
// checked here. The GIL is released around the product.
#include <cstdint>
#include <string>
#include <vector>

#include "matmul/product.hpp"
#include "matmul/strips.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/unlocked.hpp"

namespace py = pybind11;

namespace bq {
namespace {

// Starts on a cache line, so that every vector of a strip is in one.
py::array new_bytes_like(const py::array& w) {
    constexpr py::ssize_t kLine = 64;
    const auto whole = py::array_t<uint8_t>(w.nbytes() + kLine);
    const auto skip = static_cast<py::ssize_t>(-reinterpret_cast<uintptr_t>(whole.data()) % kLine);
    const std::vector<py::ssize_t> shape(w.shape(), w.shape() + w.ndim());
    return py::array(py::dtype::of<uint8_t>(), shape, whole.data() + skip, whole);
}

int checked_lanes(int lanes, const FormatInfo& format) {
    require(lanes == 0 || ((lanes == 8 || lanes == kMaxStripRows) && !format.is_float()),
            "unknown rows of a strip");
    return lanes;
}

bool overlap(const py::array& a, const py::array& b) {
    const auto from = reinterpret_cast<uintptr_t>(a.data()), other = reinterpret_cast<uintptr_t>(b.data());
    return a.nbytes() > 0 && b.nbytes() > 0 && from < other + static_cast<uintptr_t>(b.nbytes()) &&
           other < from + static_cast<uintptr_t>(a.nbytes());
}

bool is_aligned(const py::array& floats) {
    return reinterpret_cast<uintptr_t>(floats.data()) % alignof(float) == 0;
}

WeightMatrix checked_weights(const py::array& w, int format_id, int lanes) {
    const FormatInfo& format = checked_format(format_id);
    require(!format.is_float() && (w.ndim() == 2 || w.ndim() == 3) && is_c_contiguous(w) && w.itemsize() == 1,
            "expected rows of blocks");
    const py::ssize_t bytes = w.shape(w.ndim() - 1);
    require(bytes % format.type_size == 0, "rows are not a multiple of the size of a block");
    return {&format,
            static_cast<const uint8_t*>(w.data()),
            w.ndim() == 3 ? w.shape(0) : 1,
            w.shape(w.ndim() - 2),
            bytes / format.type_size * format.block_size,
            checked_lanes(lanes, format)};
}

// The rows of a strip in which w is multiplied fastest here with `rows` activation rows (0: as it is, and
// nothing is done), and the bytes of w laid out so, or None.
py::tuple lay_out_weights(const py::array& w, int format_id, int64_t rows, int threads) {
    if (checked_format(format_id).is_float()) return py::make_tuple(0, py::none());
    const WeightMatrix weights = checked_weights(w, format_id, 0);
    const int lanes = best_lanes(checked_kernels(), weights.format->id, rows);
    if (lanes == 0 || weights.n < lanes || weights.k == 0) return py::make_tuple(0, py::none());
    auto out = new_bytes_like(w);
    auto* to = static_cast<uint8_t*>(out.mutable_data());
    {
        const Unlocked unlocked;
        lay_out(weights, lanes, to, threads);
    }
    return py::make_tuple(lanes, out);
}

// The rows of blocks that lay_out_weights was given.
py::array take_apart_weights(const py::array& w, int format_id, int lanes, int threads) {
    const WeightMatrix weights = checked_weights(w, format_id, lanes);
    require(lanes != 0, "not laid out");
    auto out = new_bytes_like(w);
    auto* to = static_cast<uint8_t*>(out.mutable_data());
    {
        const Unlocked unlocked;
        take_apart(weights, to, threads);
    }
    return out;
}

// y = x @ w.T: x float32 [..., k], w rows of blocks [n, row_bytes] or [experts, n, row_bytes], y float32
// [..., n]; all C-contiguous. experts is None or int32 with an index for each row of x.
void matmul(const py::array& x, const py::array& w, int format_id, py::array y, int threads, bool exact,
            const py::object& experts, int lanes) {
    const FormatInfo& format = checked_format(format_id);
    const KernelTable& table = checked_kernels();
    const bool many = !experts.is_none();
    require(x.ndim() >= 1 && w.ndim() == (many ? 3 : 2) && y.ndim() == x.ndim(),
            "wrong number of dimensions");
    require(is_c_contiguous(x) && is_c_contiguous(w) && is_c_contiguous(y), "expected C-contiguous arrays");
    require(x.itemsize() == 4 && y.itemsize() == 4, "expected float32 arrays");
    require(is_aligned(x) && is_aligned(y) && !overlap(x, y) && !overlap(w, y),
            "expected aligned arrays, and an output of its own");
    const int64_t k = x.shape(x.ndim() - 1), n = w.shape(many ? 1 : 0);
    int64_t m = 1;
    for (py::ssize_t i = 0; i + 1 < x.ndim(); ++i) {
        m *= x.shape(i);
        require(x.shape(i) == y.shape(i), "output has the wrong shape");
    }
    require(y.shape(y.ndim() - 1) == n, "output has the wrong shape");
    require(k % format.block_size == 0, "row length is not a multiple of the block size");
    const int64_t count = many ? w.shape(0) : 1;
    require(w.shape(w.ndim() - 1) == format.row_bytes(k), "rows of x and w have different lengths");
    const int32_t* expert = nullptr;
    if (many) {
        const auto index = experts.cast<py::array>();
        require(is_c_contiguous(index) && index.itemsize() == 4 && index.size() == m,
                "expected an int32 for each row");
        expert = static_cast<const int32_t*>(index.data());
        for (int64_t r = 0; r < m; ++r)
            if (expert[r] < 0 || expert[r] >= count)
                throw py::index_error(
                    "expert " + std::to_string(expert[r]) + " of row " + std::to_string(r) +
                    (count == 0 ? ": w has no experts" : " is not in 0.." + std::to_string(count - 1)));
    }
    const WeightMatrix weights{&format, static_cast<const uint8_t*>(w.data()), count, n,
                               k,       checked_lanes(lanes, format)};
    const auto* floats = static_cast<const float*>(x.data());
    auto* out = static_cast<float*>(y.mutable_data());
    const Unlocked unlocked;
    multiply(table, weights, floats, m, expert, out, threads, exact);
}

// The same for what needs no conversion: a float32 array that is C-contiguous, weights [n, row_bytes] that
// fit and, unless it is None, an `out` that fits and overlaps neither. Returns the result, or None when
// anything is otherwise, for the Python layer to convert or to say what is wrong.
py::object matmul_plain(const py::object& x, const py::array& w, int format_id, const py::object& out,
                        int threads, bool exact, int lanes) {
    using Floats = py::array_t<float, py::array::c_style>;
    const FormatInfo* format = find_format(static_cast<int64_t>(format_id));
    if (format == nullptr || !format->implemented || !Floats::check_(x) || w.ndim() != 2 ||
        !is_c_contiguous(w))
        return py::none();
    const auto rows = py::reinterpret_borrow<py::array>(x);
    const py::ssize_t axes = rows.ndim();
    if (axes < 1 || axes > 8 || !is_aligned(rows)) return py::none();
    const int64_t k = rows.shape(axes - 1), n = w.shape(0);
    if (k % format->block_size != 0 || w.shape(1) != format->row_bytes(k)) return py::none();
    py::ssize_t shape[8];
    int64_t m = 1;
    for (py::ssize_t i = 0; i + 1 < axes; ++i) m *= shape[i] = rows.shape(i);
    shape[axes - 1] = n;
    py::object result = out;
    if (out.is_none()) {
        result = py::array(py::dtype::of<float>(), std::vector<py::ssize_t>(shape, shape + axes));
    } else {
        if (!Floats::check_(out)) return py::none();
        const auto to = py::reinterpret_borrow<py::array>(out);
        if (to.ndim() != axes || !to.writeable() || !is_aligned(to) || overlap(rows, to) || overlap(w, to))
            return py::none();
        for (py::ssize_t i = 0; i < axes; ++i)
            if (to.shape(i) != shape[i]) return py::none();
    }
    const KernelTable& table = checked_kernels();
    const WeightMatrix weights{format, static_cast<const uint8_t*>(w.data()), 1, n,
                               k,      checked_lanes(lanes, *format)};
    const auto* from = static_cast<const float*>(rows.data());
    auto* to = static_cast<float*>(py::reinterpret_borrow<py::array>(result).mutable_data());
    {
        const Unlocked unlocked;
        multiply(table, weights, from, m, nullptr, to, threads, exact);
    }
    return result;
}

}  // namespace

void bind_matmul(py::module_& m) {
    m.def("matmul", &matmul, py::arg("x"), py::arg("w"), py::arg("format"), py::arg("y"), py::arg("threads"),
          py::arg("exact"), py::arg("experts") = py::none(), py::arg("lanes") = 0,
          "y = x @ w.T over rows of blocks.");
    m.def("matmul_plain", &matmul_plain, py::arg("x"), py::arg("w"), py::arg("format"), py::arg("out"),
          py::arg("threads"), py::arg("exact"), py::arg("lanes") = 0,
          "The same where nothing has to be converted, else None.");
    m.def("lay_out_weights", &lay_out_weights, py::arg("w"), py::arg("format"), py::arg("rows"),
          py::arg("threads"), "(rows of a strip, w in strips), or (0, None) where rows are as fast.");
    m.def("take_apart_weights", &take_apart_weights, py::arg("w"), py::arg("format"), py::arg("lanes"),
          py::arg("threads"), "The rows of strips.");
}

}  // namespace bq
