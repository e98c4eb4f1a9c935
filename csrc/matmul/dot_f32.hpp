// y = x * w^T with float activations for weights in blocks: the exact path. Weights are decoded in registers;
// products are accumulated in float lanes.
#pragma once

#include "decode/decode.hpp"
#include "matmul/dot.hpp"

namespace bq {
namespace {

// One weight row against kRows activation rows.
template <class S, FormatId id, int kRows>
struct RowDotF32 {
    using Wide = typename S::Wide;
    const float* x[kRows];
    Wide acc[kRows];

    BQ_INLINE RowDotF32(const FloatRows<float>& rows, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            x[r] = rows.x + (first_row + r) * rows.stride;
            acc[r] = S::wide_zero();
        }
    }

    // Two chains of additions for each pair of rows that start anew in each step, so that steps can overlap;
    // the same ones whatever kRows is.
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
    BQ_INLINE void blocks(const uint8_t* w, int64_t at) {
        Parts parts;
        blocks_values<S, id, kBlocks>(w, [&](int j, int i, Wide value) BQ_INLINE_LAMBDA {
            for (int r = 0; r < kRows; ++r)
                parts.sum[r][i % 2] =
                    S::mul_add(value, S::load_f32(x[r] + at + j * 32 + i * S::kWide), parts.sum[r][i % 2]);
        });
        parts.add_to(acc);
    }

    BQ_INLINE void row(const uint8_t* w, int64_t k, float* y, int64_t ldy) {
        using Form = CommonForm<id>;
        constexpr int kGroup = 256 / Form::elements;
        int64_t at = 0;
        for (; at + 256 <= k; at += 256, w += kGroup * Form::bytes) blocks<kGroup>(w, at);
        if constexpr (kGroup > 1)
            for (; at < k; at += Form::elements, w += Form::bytes) blocks<1>(w, at);
        for (int r = 0; r < kRows; ++r) y[r * ldy] = S::wide_sum(acc[r]);
    }
};

template <class S, FormatId id>
void matmul_f32(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const FloatRows<float>& x,
                float* y, int64_t ldy) {
    each_row_group<kRowTile, 1, 1>(
        w, w_row_bytes, begin, end, x.rows,
        [&](const uint8_t* row, auto, auto count, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
            RowDotF32<S, id, decltype(count)::value>(x, r).row(row, x.k, y + r * ldy + n, ldy);
        });
}

}  // namespace
}  // namespace bq
