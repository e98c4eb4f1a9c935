// Whole products on all threads: chooses between the kernels for few and for many rows.
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

// Rows of blocks [experts, n, k], or the same laid out by lay_out: of each matrix all whole strips of `lanes`
// rows, then the rows that are left over, as they were.
struct WeightMatrix {
    const FormatInfo* format;
    const uint8_t* data;
    int64_t experts, n, k;
    int lanes = 0;  // 0: rows
};

// Rows of a strip as products of `activation_rows` rows want them with this table; 0 where rows of blocks are
// as fast.
int best_lanes(const KernelTable& table, FormatId id, int64_t activation_rows);
// The bytes of `w`, rows, laid out in strips of `lanes`, and those of `w`, strips, as rows. As many bytes.
void lay_out(const WeightMatrix& w, int lanes, uint8_t* out, int threads);
void take_apart(const WeightMatrix& w, uint8_t* out, int threads);

// y[r] = x[r] * w[expert of r]^T for x [m, k] and y [m, n]. `expert` is nullptr (all rows take matrix 0) or
// holds m indices below w.experts. Activations are quantized to int8, or with `exact` and for float weights
// stay floats (bfloat16 weights on a CPU that multiplies them: rounded to bfloat16, unless `exact`). The
// result depends on neither the thread count nor which other rows there are, but on whether enough rows take
// the same matrix (as many as FormatKernels says, or StripKernels where there are kernels for the strips of
// w): then additions are in another order. k is a multiple of the block size. Throws std::bad_alloc.
void multiply(const KernelTable& table, const WeightMatrix& w, const float* x, int64_t m,
              const int32_t* expert, float* y, int threads, bool exact);

}  // namespace bq
