// Encode and decode over the rows of arrays. The Python layer has resolved formats, dtypes and
// shapes; what a kernel relies on is checked here again, cheaply. The GIL is released around every kernel.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>

#include "decode/check_tensor.hpp"
#include "decode/decode_tensor.hpp"
#include "encode/encode.hpp"
#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "python/unlocked.hpp"
#include "runtime/thread_pool.hpp"

namespace py = pybind11;

namespace bq {
namespace {

uint8_t* mutable_bytes(py::array& a) {
    return static_cast<uint8_t*>(a.mutable_data());
}

// Elements that are checked and then encoded, when no imatrix ties a row together: few, so that they are
// still in the level-1 cache, but enough to give each lane of the encoder a block.
int64_t piece_of_row(const FormatInfo& format) {
    constexpr int64_t kLeast = 1024, kMost = 4096, kLanes = 16;
    if (format.run == 256) return kLeast;  // one block at a time
    return std::clamp(kLanes * format.block_size, kLeast, kMost);
}

// Returns the flat index of the first NaN or infinity, or -1 when all rows were encoded.
int64_t encode(const py::array& x, int element_type, int format_id, py::array out, const py::object& imatrix,
               int threads) {
    const FormatInfo& format = checked_format(format_id);
    const KernelTable& table = checked_kernels();
    const EncodeRow encode_row = table[format.id].encode;
    const RowSource source = RowSource::of(x, static_cast<ElementType>(element_type));
    const int64_t k = source.k, row_bytes = format.row_bytes(k);
    require(k % format.block_size == 0, "row length is not a multiple of the block size");
    require(is_c_contiguous(out) && out.nbytes() == source.rows * row_bytes, "output has the wrong size");
    // float [experts, k]: expert e weighs the rows of x[e].
    const float* weights = nullptr;
    int64_t experts = 1;
    if (!imatrix.is_none()) {
        const auto array = imatrix.cast<py::array>();
        require(is_c_contiguous(array) && array.itemsize() == 4 && array.ndim() == 2 && array.shape(1) == k,
                "imatrix has the wrong size");
        experts = array.shape(0);
        require(experts > 0 && source.rows % experts == 0, "imatrix has the wrong number of experts");
        if (encoder_uses_imatrix(format.id)) weights = static_cast<const float*>(array.data());
    }
    const int64_t rows_per_expert = std::max<int64_t>(1, source.rows / experts);
    uint8_t* bytes = mutable_bytes(out);
    const bool plain = source.is_plain_f32();
    const EncodeIfFinite encode_if_finite = weights ? nullptr : table[format.id].encode_if_finite;
    const int64_t pieces = piece_of_row(format);
    std::atomic<int64_t> first_bad{-1};
    {
        const Unlocked unlocked;
        prepare_encoder(format.id);
        parallel_for(k == 0 ? 0 : source.rows, row_grain(k), threads, [&](int64_t begin, int64_t end) {
            const auto scratch =
                plain ? nullptr : std::make_unique_for_overwrite<float[]>(static_cast<size_t>(k) + 1);
            for (int64_t r = begin; r < end; ++r) {
                const float* row = source.load(r, table, scratch.get());
                const float* importance = weights ? weights + r / rows_per_expert * k : nullptr;
                const int64_t piece = importance ? k : std::min(k, pieces);
                for (int64_t at = 0; at < k; at += piece) {
                    const int64_t count = std::min(piece, k - at);
                    uint8_t* const to = bytes + r * row_bytes + format.row_bytes(at);
                    if (encode_if_finite && encode_if_finite(row + at, to, count)) continue;
                    const int64_t bad = table.first_nonfinite(row + at, count);
                    if (bad >= 0) {
                        note_first(first_bad, r * k + at + bad);
                        return;
                    }
                    if (!encode_if_finite) encode_row(row + at, to, count, importance);
                }
            }
        });
    }
    return first_bad;
}

// dtype of out: 0 float32, 1 float16, 2 bfloat16 (as uint16).
void decode(const py::array& data, int format_id, py::array out, int element_type, int threads) {
    const FormatInfo& format = checked_format(format_id);
    const KernelTable& table = checked_kernels();
    require(data.ndim() >= 1 && is_c_contiguous(data) && is_c_contiguous(out),
            "expected C-contiguous arrays");
    require(out.ndim() >= 1 && out.itemsize() == (element_type == 0 ? 4 : 2), "output has the wrong dtype");
    const int64_t k = out.shape(out.ndim() - 1), rows = k == 0 ? 0 : out.size() / k;
    require(k % format.block_size == 0, "row length is not a multiple of the block size");
    const int64_t row_bytes = format.row_bytes(k);
    require(data.nbytes() == rows * row_bytes, "output has the wrong size");
    const auto* blocks = static_cast<const uint8_t*>(data.data());
    void* target = out.mutable_data();
    const Unlocked unlocked;
    decode_tensor(table, format, blocks, target, static_cast<DecodedType>(element_type), rows * k, threads);
}

// (flat index, whether a scale is NaN where decoding does not show it) of the first bad element, or None.
py::object find_bad(const py::array& data, int format_id, int64_t elements, int threads) {
    const FormatInfo& format = checked_format(format_id);
    const KernelTable& table = checked_kernels();
    require(is_c_contiguous(data) && format.implemented, "expected a C-contiguous array");
    require(elements % format.block_size == 0 && data.nbytes() == format.row_bytes(elements),
            "data has the wrong size");
    const auto* blocks = static_cast<const uint8_t*>(data.data());
    BadElement bad;
    {
        const Unlocked unlocked;
        bad = find_bad_element(table, format, blocks, elements, threads);
    }
    if (bad.index < 0) return py::none();
    return py::make_tuple(bad.index, bad.is_nan_scale);
}

}  // namespace

void bind_tensor(py::module_& m) {
    m.def("encode", &encode, py::arg("x"), py::arg("element_type"), py::arg("format"), py::arg("out"),
          py::arg("imatrix"), py::arg("threads"),
          "Encode rows into out; returns the flat index of the first NaN or infinity, or -1.");
    m.def("decode", &decode, py::arg("data"), py::arg("format"), py::arg("out"), py::arg("element_type"),
          py::arg("threads"), "Decode rows of blocks into out.");
    m.def("find_bad", &find_bad, py::arg("data"), py::arg("format"), py::arg("elements"), py::arg("threads"),
          "(flat index, is a NaN scale) of the first element that is not finite, or None.");
}

}  // namespace bq
