// The fused dot of a few rows for formats in super-blocks of 256, whose activations have one scale for 256:
// everything within a super-block is integers. See README.md.
#pragma once

#include "matmul/dot.hpp"
#include "simd/super_block.hpp"

namespace bq {
namespace {

// One weight row against kRows activation rows (several weight rows at a time bring nothing here). B: the
// vocabulary of block_<isa>.hpp.
template <class B, FormatId id, int kRows>
struct BlockDot {
    using S = typename B::Base;
    using W = SuperBlock<S, id>;
    using Form = CommonForm<id>;
    using Dot = typename B::template Dot<id>;
    static constexpr int kChunk = B::kChunk;

    const int8_t* q[kRows];
    const float* scales[kRows];
    const int16_t* sums[kRows];
    typename B::Floats acc[kRows];
    typename S::Floats less[kRows];  // what minima and offsets take away

    BQ_INLINE BlockDot(const Activations& x, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            q[r] = x.q + (first_row + r) * x.k;
            scales[r] = x.scales + (first_row + r) * (x.k / 256);
            sums[r] = x.whole_sums + (first_row + r) * (x.k / 16);
            acc[r] = B::zero();
            less[r] = S::zero();
        }
    }

    // Block i of the row, at w, one of those that were opened together.
    BQ_INLINE void block(const typename Dot::Opened& opened, int which, const uint8_t* w, int64_t i) {
        typename B::Ints sum[kRows];
        typename S::Words scale{};
        constexpr bool kOwnFactors = requires { Dot::factor(opened, which, 0); };
        if constexpr (!W::kUnitScale && !kOwnFactors) scale = Dot::scales(opened, which, w);
        const auto spread = B::spread(scale);
        S::template repeat<256 / kChunk>([&](int j) BQ_INLINE_LAMBDA {
            const auto c = Dot::chunk(opened, which, w, j);
            auto factor = B::factor(spread, j);
            if constexpr (kOwnFactors) factor = Dot::factor(opened, which, j);
            for (int r = 0; r < kRows; ++r) Dot::add(sum[r], j == 0, c, q[r] + 256 * i + kChunk * j, factor);
        });
        if constexpr (requires { Dot::finish(opened, sum[0], sums[0]); })
            for (int r = 0; r < kRows; ++r) sum[r] = Dot::finish(opened, sum[r], sums[r] + 16 * i);
        const float d = W::d(w);
        for (int r = 0; r < kRows; ++r)
            acc[r] = B::mul_add(B::to_floats(sum[r]), B::splat(d * scales[r][i]), acc[r]);

        if constexpr (Form::has_minima || Dot::kOffset != 0) {
            typename S::Words factor;
            float unit;
            if constexpr (Form::has_minima) {
                static_assert(Dot::kOffset == 0);
                factor = W::minima(w);
                unit = W::dmin(w);
            } else {
                factor = W::kUnitScale ? S::splat_words(1) : scale;
                unit = d * static_cast<float>(Dot::kOffset);
            }
            for (int r = 0; r < kRows; ++r)
                less[r] = S::mul_add(S::to_floats(S::dot_words(factor, sums[r] + 16 * i)),
                                     S::splat8(unit * scales[r][i]), less[r]);
        }
    }

    BQ_INLINE void row(const uint8_t* w, int64_t k, float* y, int64_t ldy) {
        constexpr int kTogether = Dot::kTogether;
        const int64_t blocks = k / 256;
        int64_t i = 0;
        if constexpr (requires(typename Dot::Opened opened) { opened.open(w); }) {
            // One super-block ahead: what is opened is stored, and takes a while to be there for loads.
            typename Dot::Opened opened[2];
            if (blocks > 0) opened[0].open(w);
            for (; i < blocks; ++i, w += Form::bytes) {
                prefetch<Form::bytes>(w + kBytesAhead);
                if (i + 1 < blocks) opened[(i + 1) % 2].open(w + Form::bytes);
                block(opened[i % 2], 0, w, i);
            }
        } else {
            for (; i + kTogether <= blocks; i += kTogether, w += kTogether * Form::bytes) {
                prefetch<kTogether * Form::bytes>(w + kBytesAhead);
                const typename Dot::Opened opened(w, w + (kTogether - 1) * Form::bytes);
                for (int j = 0; j < kTogether; ++j) block(opened, j, w + j * Form::bytes, i + j);
            }
            if (kTogether > 1 && i < blocks) block(typename Dot::Opened(w, w), 0, w, i);
        }
        for (int r = 0; r < kRows; ++r) y[r * ldy] = B::total(acc[r]) - S::sum(less[r]);
    }
};

template <class B, FormatId id>
void matmul_blocks(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const Activations& x,
                   float* y, int64_t ldy) {
    each_row_group<kRowTile, 1, 1>(
        w, w_row_bytes, begin, end, x.rows,
        [&](const uint8_t* row, auto, auto rows, int64_t r, int64_t n) BQ_INLINE_LAMBDA {
            BlockDot<B, id, decltype(rows)::value>(x, r).row(row, x.k, y + r * ldy + n, ldy);
        });
}

}  // namespace
}  // namespace bq
