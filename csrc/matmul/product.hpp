// Whole products on all threads: chooses between the kernels for few and for many rows.
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

// Rows of blocks [experts, n, k].
struct WeightMatrix {
    const FormatInfo* format;
    const uint8_t* data;
    int64_t experts, n, k;
};

// y[r] = x[r] * w[expert of r]^T for x [m, k] and y [m, n]. `expert` is nullptr (all rows take matrix 0) or
// holds m indices below w.experts. Activations are quantized to int8, or with `exact` and for float weights
// stay floats (bfloat16 weights on a CPU that multiplies them: rounded to bfloat16, unless `exact`). The
// result depends on neither the thread count nor which other rows there are, but on whether at least
// kPanelRows rows take the same matrix: then additions are in another order. k is a multiple of the block
// size. Throws std::bad_alloc.
void multiply(const KernelTable& table, const WeightMatrix& w, const float* x, int64_t m,
              const int32_t* expert, float* y, int threads, bool exact);

// From this many activation rows on, weights are unpacked into panels first.
inline constexpr int64_t kPanelRows = 5;

}  // namespace bq
