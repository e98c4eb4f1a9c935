// Views of the arrays that Python hands in: shapes and strides are checked in the Python layer and here once,
// before any kernel runs.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "formats/format.hpp"
#include "targets/kernels.hpp"

namespace bq {

enum class ElementType : int { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };

// Rows of floats with any strides: the last axis is the row.
struct RowSource {
    const char* data = nullptr;
    ElementType type = ElementType::f32;
    int64_t rows = 1, k = 0, element_stride = 0;
    std::vector<int64_t> shape, strides;  // of the leading axes, in bytes

    static RowSource of(const pybind11::array& x, ElementType type);
    const char* row(int64_t index) const;
    // Row `index` as floats: the array itself where it already is contiguous float32, else converted into
    // scratch.
    const float* load(int64_t index, const KernelTable& table, float* scratch) const;
    // Whether load() never needs scratch: every row is aligned, contiguous float32.
    bool is_plain_f32() const;
};

// Rows are handed out to threads in pieces of about this many elements, so that small inputs stay on one.
inline constexpr int64_t kElementsPerPiece = 8192;
int64_t row_grain(int64_t k);  // rows of k elements in a piece

// ValueError unless the condition holds.
void require(bool condition, const char* message);
bool is_c_contiguous(const pybind11::array& a);

// Keeps the smallest index; negative means none yet.
void note_first(std::atomic<int64_t>& first, int64_t index);

// The entry of a ggml type id that comes from the Python layer, which has checked it.
const FormatInfo& checked_format(int ggml_type);
// The table in use; ValueError when BLOCKQUANT_ISA or BLOCKQUANT_NUM_THREADS asks for what cannot be had.
const KernelTable& checked_kernels();

}  // namespace bq
