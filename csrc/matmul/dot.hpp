// y = x * w^T with int8 activations, a few rows at a time: the weights of a row of blocks are unpacked once
// for up to four activation rows. See README.md for the formula.
#pragma once

#include "simd/unpack.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

// The first kCount of 8 floats, then zeros; reads no further.
template <class S, int kCount>
BQ_INLINE typename S::Floats load_first(const float* p) {
    if constexpr (kCount == 8) {
        return S::load8(p);
    } else {
        float padded[8] = {};
        memcpy(padded, p, kCount * sizeof(float));
        return S::load8(padded);
    }
}

// kWeights weight rows, one of them `stride` bytes after the other, against kRows activation rows.
template <class S, FormatId id, int kRows, int kWeights>
struct RowDot {
    using F = Unpack<S, id>;
    using Form = CommonForm<id>;
    using Floats = typename S::Floats;
    static constexpr int kChunksPerBlock = Form::elements / 32;
    static constexpr int kRunsPerChunk = 32 / F::kRun;
    static constexpr int kActivations = Form::elements == 256 ? 256 : 32;  // elements of one activation scale

    const int8_t* q[kRows];
    const float* scales[kRows];
    const float* sums[kRows];
    Floats acc[kWeights][kRows];

    BQ_INLINE RowDot(const Activations& x, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            q[r] = x.q + (first_row + r) * x.k;
            scales[r] = x.scales + (first_row + r) * (x.k / kActivations);
            sums[r] = x.sums + (first_row + r) * (x.k / 16);
            for (int v = 0; v < kWeights; ++v) acc[v][r] = S::zero();
        }
    }

    // Two chains of additions for each pair of rows that start anew in each step, so that steps can overlap;
    // the same ones whatever kRows and kWeights are. And the scales of weights and activations, multiplied:
    // one or two floats for each chunk.
    struct Parts {
        Floats sum[kRows][2];
        float products[kRows][8 * kRunsPerChunk];
    };

    template <int kBlocks>
    BQ_INLINE void begin(Parts& part, const uint8_t* w, int64_t at) const {
        constexpr int kChunks = kBlocks * kChunksPerBlock;
        Floats scale[2], minimum[2];
        F::template scales<kBlocks>(w, scale, minimum);
        for (int r = 0; r < kRows; ++r) {
            Floats a;
            if constexpr (kActivations == 256)
                a = S::splat8(scales[r][at / 256]);
            else
                a = load_first<S, kChunks>(scales[r] + at / 32);
            if constexpr (kRunsPerChunk == 1) {
                S::store8(part.products[r], S::mul(scale[0], a));
            } else {
                S::store8(part.products[r], S::mul(scale[0], S::double_low(a)));
                S::store8(part.products[r] + 8, S::mul(scale[1], S::double_high(a)));
            }
            keep_in_memory(part.products[r]);
            part.sum[r][0] = part.sum[r][1] = S::zero();
        }

        // Minima, and offsets as if they were minima, against the sums of 16 activations.
        if constexpr (Form::has_minima || F::kOffset != 0) {
            Floats m[2];
            for (int i = 0; i < kRunsPerChunk; ++i) {
                m[i] = Form::has_minima ? minimum[i] : S::mul(scale[i], S::splat8(F::kOffset));
            }
            if constexpr (kRunsPerChunk == 1) {
                m[1] = S::double_high(m[0]);
                m[0] = S::double_low(m[0]);
            }
            for (int r = 0; r < kRows; ++r) {
                const float* s = sums[r] + at / 16;
                Floats(&sum)[2] = part.sum[r];
                constexpr int kSums = 2 * kChunks;
                sum[0] = S::mul_sub_from(m[0], load_first<S, (kSums < 8 ? kSums : 8)>(s), sum[0]);
                if constexpr (kSums > 8)
                    sum[1] = S::mul_sub_from(m[1], load_first<S, kSums - 8>(s + 8), sum[1]);
            }
        }
    }

    // kBlocks blocks of weights, 256 elements at most, against the activations from element `at` on.
    template <int kBlocks>
    BQ_INLINE void step(const uint8_t* w, int64_t stride, int64_t at) {
        Parts parts[kWeights];
        for (int v = 0; v < kWeights; ++v) begin<kBlocks>(parts[v], w + v * stride, at);
        S::template repeat<kBlocks * kChunksPerBlock>([&](int j) BQ_INLINE_LAMBDA {
            for (int v = 0; v < kWeights; ++v) {
                const auto c =
                    F::chunk(w + v * stride + j / kChunksPerBlock * Form::bytes, j % kChunksPerBlock);
                for (int r = 0; r < kRows; ++r) {
                    const auto a = S::load(q[r] + at + 32 * j);
                    const Floats dots =
                        S::to_floats(F::kSigned ? S::dot_signed(c, a) : S::dot_unsigned(c, a));
                    const float* p = parts[v].products[r] + j * kRunsPerChunk;
                    const Floats factor = kRunsPerChunk == 1 ? S::splat8(*p) : S::load_pair(p);
                    Floats& sum = parts[v].sum[r][j % 2];
                    sum = S::mul_add(dots, factor, sum);
                }
            }
        });
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r)
                acc[v][r] = S::add(acc[v][r], S::add(parts[v].sum[r][0], parts[v].sum[r][1]));
    }

    BQ_INLINE void row(const uint8_t* w, int64_t stride, int64_t k, float* y, int64_t ldy) {
        constexpr int kGroup = 256 / Form::elements;
        constexpr int kBytes = kWeights * kGroup * Form::bytes;
        const uint8_t* next = w + bytes_ahead(kWeights, stride);
        int64_t at = 0;
        for (; at + 256 <= k; at += 256, w += kGroup * Form::bytes) {
            prefetch<kBytes>(next);
            next += kBytes;
            step<kGroup>(w, stride, at);
        }
        if constexpr (kGroup > 1)
            for (; at < k; at += Form::elements, w += Form::bytes) step<1>(w, stride, at);
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) y[r * ldy + v] = S::sum(acc[v][r]);
    }
};

// Activation rows that stay in the level-2 cache while the weight rows pass once.
inline constexpr int64_t kRowTile = 32;

// body(row, weights, rows, r, n) for groups of weight rows from n on, which start at `row`, and of 4, 2 and 1
// activation rows from r on; weights and rows are Indexes. One activation row meets kWithOne weight rows at a
// time, two of them kWithTwo, four of them one. Tiles of activation rows stay in the cache while the weight
// rows pass.
template <int64_t kTile, int kWithOne, int kWithTwo, class Body>
BQ_INLINE void each_row_group(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, int64_t rows,
                              Body&& body) {
    const auto pass = [&](auto weights, auto count, int64_t r, int64_t from) BQ_INLINE_LAMBDA {
        for (; from + weights <= end; from += weights) body(w + from * w_row_bytes, weights, count, r, from);
        return from;
    };
    for (int64_t tile = 0; tile < rows; tile += kTile) {
        const int64_t last = tile + kTile < rows ? tile + kTile : rows;
        int64_t r = tile;
        if (r + 4 <= last) {
            const int64_t fours = r + (last - r) / 4 * 4;
            for (int64_t n = begin; n < end; ++n)
                for (int64_t i = r; i < fours; i += 4)
                    body(w + n * w_row_bytes, Index<1>{}, Index<4>{}, i, n);
            r = fours;
        }
        if (r + 2 <= last) {
            const int64_t n = pass(Index<kWithTwo>{}, Index<2>{}, r, begin);
            if constexpr (kWithTwo > 1) pass(Index<1>{}, Index<2>{}, r, n);
            r += 2;
        }
        if (r < last) {
            const int64_t n = pass(Index<kWithOne>{}, Index<1>{}, r, begin);
            if constexpr (kWithOne > 1) pass(Index<1>{}, Index<1>{}, r, n);
        }
    }
}

template <class S, FormatId id>
void matmul_i8(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const Activations& x,
               float* y, int64_t ldy) {
    // Where little is to be unpacked, memory binds, which serves fewer streams better.
    constexpr int kWithOne = S::kOneWeightRow ? 1 : id == FormatId::Q8_0 ? 2 : 4;
    each_row_group<kRowTile, kWithOne, S::kOneWeightRow ? 1 : 2>(
        w, w_row_bytes, begin, end, x.rows,
        [&](const uint8_t* row, auto weights, auto rows, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
            RowDot<S, id, decltype(rows)::value, decltype(weights)::value>(x, r).row(row, w_row_bytes, x.k,
                                                                                     y + r * ldy + n, ldy);
        });
}

}  // namespace
}  // namespace bq
