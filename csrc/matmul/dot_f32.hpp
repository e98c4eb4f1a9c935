// y = x * w^T with float activations for weights in blocks: the exact path. Weights are decoded in registers;
// products are accumulated in float lanes.
#pragma once

#include "decode/decode.hpp"
#include "matmul/dot.hpp"

namespace bq {
namespace {

// kWeights weight rows, one of them `stride` bytes after the other, against kRows activation rows.
template <class S, FormatId id, int kRows, int kWeights>
struct RowDotF32 {
    using Wide = typename S::Wide;
    const float* x[kRows];
    Wide acc[kWeights][kRows];

    BQ_INLINE RowDotF32(const float* rows, int64_t k, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            x[r] = rows + (first_row + r) * k;
            for (int v = 0; v < kWeights; ++v) acc[v][r] = S::wide_zero();
        }
    }

    // Two chains of additions for each pair of rows that start anew in each step, so that steps can overlap;
    // the same ones whatever kRows and kWeights are.
    struct Parts {
        Wide sum[kRows][2];
        BQ_INLINE Parts() {
            for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = S::wide_zero();
        }
        BQ_INLINE void add_to(Wide (&acc)[kRows]) const {
            for (int r = 0; r < kRows; ++r) acc[r] = S::add(acc[r], S::add(sum[r][0], sum[r][1]));
        }
    };

    template <int kBlocks>
    BQ_INLINE void blocks(const uint8_t* w, int64_t stride, int64_t at) {
        for (int v = 0; v < kWeights; ++v) {
            Parts parts;
            blocks_values<S, id, kBlocks>(w + v * stride, [&](int j, int i, Wide value) BQ_INLINE_LAMBDA {
                for (int r = 0; r < kRows; ++r)
                    parts.sum[r][i % 2] = S::mul_add(value, S::load_f32(x[r] + at + j * 32 + i * S::kWide),
                                                     parts.sum[r][i % 2]);
            });
            parts.add_to(acc[v]);
        }
    }

    BQ_INLINE void row(const uint8_t* w, int64_t stride, int64_t k, float* y, int64_t ldy) {
        using Form = CommonForm<id>;
        constexpr int kGroup = 256 / Form::elements;
        int64_t at = 0;
        for (; at + 256 <= k; at += 256, w += kGroup * Form::bytes) blocks<kGroup>(w, stride, at);
        if constexpr (kGroup > 1)
            for (; at < k; at += Form::elements, w += Form::bytes) blocks<1>(w, stride, at);
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) y[r * ldy + v] = S::wide_sum(acc[v][r]);
    }
};

template <class S, FormatId id>
void matmul_f32(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const float* x,
                int64_t rows, int64_t k, float* y, int64_t ldy) {
    each_row_group<kRowTile, 1>(
        w, w_row_bytes, begin, end, rows,
        [&](const uint8_t* row, auto weights, auto count, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
            RowDotF32<S, id, decltype(count)::value, decltype(weights)::value>(x, k, r).row(
                row, w_row_bytes, k, y + r * ldy + n, ldy);
        });
}

}  // namespace
}  // namespace bq
