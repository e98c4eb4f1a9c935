// y = x * w^T with float activations: the exact path, and the only one of float weights. Weights are decoded
// in registers; products are accumulated in float lanes.
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

    // kCount elements of a float format.
    template <int kCount>
    BQ_INLINE void floats(const uint8_t* w, int64_t stride, int64_t at) {
        constexpr int kBytes = id == FormatId::F32 ? 4 : 2;
        Parts parts[kWeights];
        S::template repeat<kCount / S::kWide>([&](int i) BQ_INLINE_LAMBDA {
            for (int v = 0; v < kWeights; ++v) {
                const Wide value = load_floats<S, id>(w + v * stride + i * S::kWide * kBytes);
                for (int r = 0; r < kRows; ++r)
                    parts[v].sum[r][i % 2] =
                        S::mul_add(value, S::load_f32(x[r] + at + i * S::kWide), parts[v].sum[r][i % 2]);
            }
        });
        for (int v = 0; v < kWeights; ++v) parts[v].add_to(acc[v]);
    }

    BQ_INLINE void row(const uint8_t* w, int64_t stride, int64_t k, float* y, int64_t ldy) {
        int64_t at = 0;
        if constexpr (id == FormatId::F32 || id == FormatId::F16 || id == FormatId::BF16) {
            constexpr int kBytes = id == FormatId::F32 ? 4 : 2;
            const uint8_t* next = w + kWeights * stride;  // as in dot.hpp
            for (; at + 128 <= k; at += 128) {
                if constexpr (kWeights > 1) prefetch<kWeights * 128 * kBytes>(next + kWeights * kBytes * at);
                floats<128>(w + at * kBytes, stride, at);
            }
            for (; at + 32 <= k; at += 32) floats<32>(w + at * kBytes, stride, at);
            if (at < k) {  // padded copies of the last elements
                uint8_t weights[kWeights][32 * kBytes] = {};
                float rest[kRows][32] = {};
                for (int v = 0; v < kWeights; ++v)
                    memcpy(weights[v], w + v * stride + at * kBytes, static_cast<size_t>((k - at) * kBytes));
                for (int r = 0; r < kRows; ++r) {
                    memcpy(rest[r], x[r] + at, static_cast<size_t>(k - at) * sizeof(float));
                    x[r] = rest[r];
                }
                floats<32>(weights[0], 32 * kBytes, 0);
            }
        } else {
            using Form = CommonForm<id>;
            constexpr int kGroup = 256 / Form::elements;
            for (; at + 256 <= k; at += 256, w += kGroup * Form::bytes) blocks<kGroup>(w, stride, at);
            if constexpr (kGroup > 1)
                for (; at < k; at += Form::elements, w += Form::bytes) blocks<1>(w, stride, at);
        }
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) y[r * ldy + v] = S::wide_sum(acc[v][r]);
    }
};

template <class S, FormatId id>
void matmul_f32(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const float* x,
                int64_t rows, int64_t k, float* y, int64_t ldy) {
    // The loads of the activations bind F32; the others bring nothing when several rows go together.
    each_row_group<kRowTile, id == FormatId::F32 ? 4 : 1>(
        w, w_row_bytes, begin, end, rows,
        [&](const uint8_t* row, auto weights, auto count, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
            RowDotF32<S, id, decltype(count)::value, decltype(weights)::value>(x, k, r).row(
                row, w_row_bytes, k, y + r * ldy + n, ldy);
        });
}

}  // namespace
}  // namespace bq
