// The common form, apart and together again, over the rows of arrays. Shapes and dtypes are resolved in the
// Python layer; what the kernels rely on is checked here again.
#include <pybind11/numpy.h>

#include <atomic>

#include "assemble/assemble.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/unlocked.hpp"
#include "runtime/thread_pool.hpp"

namespace py = pybind11;

namespace bq {
namespace {

// Views of the arrays of one call, all C-contiguous.
struct Parts {
    int64_t k, rows, row_bytes, runs;  // runs of a row
    int8_t* values;
    float* scales;
    float* minima;  // nullptr where the format has none

    static Parts of(const FormatInfo& format, const py::array& data, const py::array& values,
                    const py::array& scales, const py::object& minima) {
        const auto usable = [](const py::array& a, int itemsize) {
            return is_c_contiguous(a) && a.itemsize() == itemsize;
        };
        require(block_assembler(format.id) != nullptr, "the format has no common form");
        require(values.ndim() >= 1 && usable(values, 1) && usable(scales, 4) && usable(data, 1),
                "expected C-contiguous arrays of int8, float32 and uint8");
        Parts p{};
        p.k = values.shape(values.ndim() - 1);
        require(p.k % format.block_size == 0, "row length is not a multiple of the block size");
        p.rows = p.k == 0 ? 0 : values.size() / p.k;
        p.row_bytes = format.row_bytes(p.k);
        p.runs = p.k / format.run;
        require(scales.size() == p.rows * p.runs, "scales have the wrong size");
        require(data.nbytes() == p.rows * p.row_bytes, "data has the wrong size");
        require(format.has_minima != minima.is_none(),
                "minima where there are none, or none where there are");
        p.values = static_cast<int8_t*>(const_cast<void*>(values.data()));
        p.scales = static_cast<float*>(const_cast<void*>(scales.data()));
        if (format.has_minima) {
            const auto array = minima.cast<py::array>();
            require(usable(array, 4) && array.size() == scales.size(), "minima have the wrong size");
            p.minima = static_cast<float*>(const_cast<void*>(array.data()));
        }
        return p;
    }
};

void unpack(const py::array& data, int format_id, py::array values, py::array scales,
            const py::object& minima, int threads) {
    const FormatInfo& format = checked_format(format_id);
    const Parts p = Parts::of(format, data, values, scales, minima);
    const auto* blocks = static_cast<const uint8_t*>(data.data());
    const UnpackRowFn unpack_row = row_unpacker(format.id);
    const Unlocked unlocked;
    parallel_for(p.rows, row_grain(p.k), threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            unpack_row(blocks + r * p.row_bytes, p.values + r * p.k, p.scales + r * p.runs,
                       p.minima ? p.minima + r * p.runs : nullptr, p.k);
    });
}

// None, or (index of the first block that does not fit, why, first element or run in it, how many).
py::object assemble(int format_id, const py::array& values, const py::array& scales, const py::object& minima,
                    bool nearest, const py::object& like, py::array out, int threads) {
    const FormatInfo& format = checked_format(format_id);
    const Parts p = Parts::of(format, out, values, scales, minima);
    const uint8_t* hints = nullptr;
    if (!like.is_none()) {
        const auto array = like.cast<py::array>();
        require(array.nbytes() == out.nbytes() && is_c_contiguous(array), "like has the wrong size");
        hints = static_cast<const uint8_t*>(array.data());
    }
    auto* blocks = static_cast<uint8_t*>(out.mutable_data());
    const AssembleBlockFn assemble_block = block_assembler(format.id);
    const int64_t row_blocks = p.k / format.block_size, runs = format.block_size / format.run;
    const auto assemble_one = [&](int64_t block) {
        const BlockParts parts{p.values + block * format.block_size, p.scales + block * runs,
                               p.minima ? p.minima + block * runs : nullptr};
        const int64_t at = block * format.type_size;
        return assemble_block(parts, nearest ? Rounding::nearest : Rounding::exact,
                              hints ? hints + at : nullptr, blocks + at);
    };
    std::atomic<int64_t> first{-1};
    {
        const Unlocked unlocked;
        parallel_for(p.rows, row_grain(p.k), threads, [&](int64_t begin, int64_t end) {
            for (int64_t block = begin * row_blocks; block < end * row_blocks; ++block)
                if (assemble_one(block).misfit != Misfit::none) {
                    note_first(first, block);
                    return;
                }
        });
    }
    if (first < 0) return py::none();
    const BlockFit fit = assemble_one(first);
    static constexpr const char* kNames[] = {"none", "value", "group", "signs", "scale", "minimum"};
    return py::make_tuple(first.load(), kNames[static_cast<int>(fit.misfit)], fit.at, fit.count);
}

}  // namespace

void bind_assemble(py::module_& m) {
    m.def("unpack", &unpack, py::arg("data"), py::arg("format"), py::arg("values"), py::arg("scales"),
          py::arg("minima"), py::arg("threads"), "Unpack rows of blocks into the common form.");
    m.def(
        "assemble", &assemble, py::arg("format"), py::arg("values"), py::arg("scales"), py::arg("minima"),
        py::arg("nearest"), py::arg("like"), py::arg("out"), py::arg("threads"),
        "Blocks of the common form; None, or (block, misfit, place, count) of the first that does not fit.");
    m.def(
        "assembly_rules",
        [](int format_id) {
            const AssemblyRules rules = assembly_rules(checked_format(format_id).id);
            return py::make_tuple(rules.values, rules.scales, rules.minima);
        },
        py::arg("format"), "What integers, scales and minima a format can hold, in words.");
}

}  // namespace bq
