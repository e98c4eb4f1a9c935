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

// One weight row against kRows activation rows.
template <class S, FormatId id, int kRows>
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
    Floats acc[kRows];

    BQ_INLINE RowDot(const Activations& x, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            q[r] = x.q + (first_row + r) * x.k;
            scales[r] = x.scales + (first_row + r) * (x.k / kActivations);
            sums[r] = x.sums + (first_row + r) * (x.k / 16);
            acc[r] = S::zero();
        }
    }

    // kBlocks blocks of weights, 256 elements at most, against the activations from element `at` on.
    template <int kBlocks>
    BQ_INLINE void step(const uint8_t* w, int64_t at) {
        constexpr int kChunks = kBlocks * kChunksPerBlock;
        Floats scale[2], minimum[2];
        F::template scales<kBlocks>(w, scale, minimum);

        // The scales of weights and activations, multiplied: one or two floats for each chunk.
        float products[kRows][8 * kRunsPerChunk];
        for (int r = 0; r < kRows; ++r) {
            Floats a;
            if constexpr (kActivations == 256)
                a = S::splat8(scales[r][at / 256]);
            else
                a = load_first<S, kChunks>(scales[r] + at / 32);
            if constexpr (kRunsPerChunk == 1) {
                S::store8(products[r], S::mul(scale[0], a));
            } else {
                S::store8(products[r], S::mul(scale[0], S::double_low(a)));
                S::store8(products[r] + 8, S::mul(scale[1], S::double_high(a)));
            }
            keep_in_memory(products[r]);
        }

        // Two chains of additions for each row that start anew in each step, so that steps can overlap; the
        // same ones whatever kRows is.
        Floats part[kRows][2];
        for (int r = 0; r < kRows; ++r) part[r][0] = part[r][1] = S::zero();

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
                constexpr int kSums = 2 * kChunks;
                part[r][0] = S::mul_sub_from(m[0], load_first<S, (kSums < 8 ? kSums : 8)>(s), part[r][0]);
                if constexpr (kSums > 8)
                    part[r][1] = S::mul_sub_from(m[1], load_first<S, kSums - 8>(s + 8), part[r][1]);
            }
        }

        S::template repeat<kChunks>([&](int j) BQ_INLINE_LAMBDA {
            const auto c = F::chunk(w + j / kChunksPerBlock * Form::bytes, j % kChunksPerBlock);
            for (int r = 0; r < kRows; ++r) {
                const auto a = S::load(q[r] + at + 32 * j);
                const Floats dots = S::to_floats(F::kSigned ? S::dot_signed(c, a) : S::dot_unsigned(c, a));
                const float* p = products[r] + j * kRunsPerChunk;
                const Floats factor = kRunsPerChunk == 1 ? S::splat8(*p) : S::load_pair(p);
                part[r][j % 2] = S::mul_add(dots, factor, part[r][j % 2]);
            }
        });
        for (int r = 0; r < kRows; ++r) acc[r] = S::add(acc[r], S::add(part[r][0], part[r][1]));
    }

    BQ_INLINE void row(const uint8_t* w, int64_t k, float* y, int64_t ldy) {
        constexpr int kGroup = 256 / Form::elements;
        int64_t at = 0;
        for (; at + 256 <= k; at += 256, w += kGroup * Form::bytes) step<kGroup>(w, at);
        if constexpr (kGroup > 1)
            for (; at < k; at += Form::elements, w += Form::bytes) step<1>(w, at);
        for (int r = 0; r < kRows; ++r) y[r * ldy] = S::sum(acc[r]);
    }
};

// Activation rows that stay in the level-2 cache while the weight rows pass once.
inline constexpr int64_t kRowTile = 32;

// body(row, rows, r, n) for the weight rows n and groups of 4, 2 and 1 activation rows from r on; rows is an
// Index. Tiles of activation rows stay in the cache while the weight rows pass.
template <int64_t kTile, class Body>
BQ_INLINE void each_row_group(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, int64_t rows,
                              Body&& body) {
    for (int64_t tile = 0; tile < rows; tile += kTile) {
        const int64_t last = tile + kTile < rows ? tile + kTile : rows;
        for (int64_t n = begin; n < end; ++n) {
            const uint8_t* row = w + n * w_row_bytes;
            int64_t r = tile;
            for (; r + 4 <= last; r += 4) body(row, Index<4>{}, r, n);
            if (r + 2 <= last) {
                body(row, Index<2>{}, r, n);
                r += 2;
            }
            if (r < last) body(row, Index<1>{}, r, n);
        }
    }
}

template <class S, FormatId id>
void matmul_i8(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const Activations& x,
               float* y, int64_t ldy) {
    each_row_group<kRowTile>(w, w_row_bytes, begin, end, x.rows,
                             [&](const uint8_t* row, auto rows, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
                                 RowDot<S, id, decltype(rows)::value>(x, r).row(row, x.k, y + r * ldy + n,
                                                                                ldy);
                             });
}

}  // namespace
}  // namespace bq
