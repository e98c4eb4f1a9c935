// The fused dot of a few rows for formats in super-blocks of 256, whose activations have one scale for 256:
// everything within a super-block is integers. See README.md.
#pragma once

#include "matmul/dot.hpp"
#include "simd/super_block.hpp"

namespace bq {
namespace {

// One weight row against kRows activation rows (several weight rows at a time bring nothing here), of which
// the first `valid` exist. B: the vocabulary of block_<isa>.hpp.
template <class B, FormatId id, int kRows>
struct BlockDot {
    using S = typename B::Base;
    using W = SuperBlock<S, id>;
    using Form = CommonForm<id>;
    using Dot = typename B::template Dot<id>;
    static constexpr int kChunk = B::kChunk;

    // Rows lie `kRowStep` bytes apart if that is not 0, chunk by chunk; else each where it is.
    static constexpr int kRowStep = kRows == 8 ? kChunk : 0;
    static constexpr int kChunkStep = kRows == 8 ? kRows * kChunk : kChunk;

    const int8_t* q[kRowStep == 0 ? kRows : 1];
    int64_t start = 0;  // the super-block that q begins with
    const float* scales[kRows];
    const int16_t* sums[kRows];
    typename B::Floats acc[kRows];
    // What minima and offsets take away; where vectors are as long as those of acc it is taken from acc at
    // once.
    static constexpr bool kOwnLess = !IsSame<typename B::Floats, typename S::Floats>::value;
    typename S::Floats less[kOwnLess ? kRows : 1];

    // Row r of those from `first_row` on; the last one again where there are no more.
    static BQ_INLINE int64_t row_of(int64_t first_row, int r, int valid) {
        return first_row + (r < valid ? r : valid - 1);
    }

    BQ_INLINE void begin(const Activations& x, int64_t first_row, int valid) {
        for (int r = 0; r < kRows; ++r) {
            const int64_t row = row_of(first_row, r, valid);
            if constexpr (kRowStep == 0) q[r] = x.q + row * x.k;
            scales[r] = x.scales + row * (x.k / 256);
            sums[r] = x.whole_sums + row * (x.k / 16);
            acc[r] = B::zero();
            if constexpr (kOwnLess) less[r] = S::zero();
        }
    }

    // The sums of a weight row, while another one has its turn. Vector by vector: gcc copies larger structs
    // by an instruction that takes long to start.
    using Sums = typename B::Floats[kRows];
    BQ_INLINE void keep(Sums& to) const {
        unroll<kRows>([&](auto r) BQ_INLINE_LAMBDA { to[r] = acc[r]; });
    }
    BQ_INLINE void go_on(const Sums& from) {
        static_assert(!kOwnLess);
        unroll<kRows>([&](auto r) BQ_INLINE_LAMBDA { acc[r] = from[r]; });
    }

    // What chunk j of super-block i meets of row r.
    BQ_INLINE const int8_t* chunk_of(int r, int64_t i, int j) const {
        return q[kRowStep == 0 ? r : 0] + r * kRowStep + (256 / kChunk * (i - start) + j) * kChunkStep;
    }

    // Block i of the row, at w, one of those that were opened together.
    BQ_INLINE void block(const typename Dot::Opened& opened, int which, const uint8_t* w, int64_t i) {
        typename B::Ints sum[kRows];
        typename S::Words scale{};
        constexpr bool kOwnFactors = requires { Dot::factor(opened, which, 0); };
        if constexpr (!W::kUnitScale && !kOwnFactors) scale = Dot::scales(opened, which, w);
        const auto spread = B::spread(scale);
        const auto factor_of = [&](int j) BQ_INLINE_LAMBDA {
            if constexpr (kOwnFactors)
                return Dot::factor(opened, which, j);
            else
                return B::factor(spread, j);
        };
        S::template repeat<256 / kChunk>([&](int j) BQ_INLINE_LAMBDA {
            const auto c = Dot::chunk(opened, which, w, j);
            const auto factor = factor_of(j);
            unroll<kRows>([&](auto r)
                              BQ_INLINE_LAMBDA { Dot::add(sum[r], j == 0, c, chunk_of(r, i, j), factor); });
        });
        if constexpr (requires { Dot::finish(opened, sum[0], sums[0]); })
            unroll<kRows>([&](auto r)
                              BQ_INLINE_LAMBDA { sum[r] = Dot::finish(opened, sum[r], sums[r] + 16 * i); });
        const float d = W::d(w);
        unroll<kRows>([&](auto r) BQ_INLINE_LAMBDA {
            acc[r] = B::mul_add(B::to_floats(sum[r]), B::splat(d * scales[r][i]), acc[r]);
        });

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
            unroll<kRows>([&](auto r) BQ_INLINE_LAMBDA {
                const auto whole = S::to_floats(S::dot_words(factor, sums[r] + 16 * i));
                const auto scale_here = S::splat8(unit * scales[r][i]);
                if constexpr (kOwnLess)
                    less[r] = S::mul_add(whole, scale_here, less[r]);
                else
                    acc[r] = S::mul_sub_from(whole, scale_here, acc[r]);
            });
        }
    }

    // The super-blocks i to `blocks` - 1 of a row, the first of them at w.
    BQ_INLINE void add(const uint8_t* w, int64_t i, int64_t blocks) {
        constexpr int kTogether = Dot::kTogether;
        if constexpr (requires(typename Dot::Opened opened) { opened.open(w); }) {
            // One super-block ahead: what is opened is stored, and takes a while to be there for loads.
            typename Dot::Opened opened[2];
            if (i < blocks) opened[i % 2].open(w);
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
    }

    BQ_INLINE void store(int valid, float* y, int64_t ldy) const {
        if constexpr (!kOwnLess && kRows % 4 == 0) {
            unroll<kRows / 4>([&](auto i) BQ_INLINE_LAMBDA {
                float four[4];
                S::wide_sums({acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]}, four);
                for (int r = 0; r < 4; ++r)
                    if (4 * i + r < valid) y[(4 * i + r) * ldy] = four[r];
            });
        } else {
            unroll<kRows>([&](auto r) BQ_INLINE_LAMBDA {
                y[r * ldy] = B::total(acc[r]);
                if constexpr (kOwnLess) y[r * ldy] -= S::sum(less[r]);
            });
        }
    }
};

// Whether a weight row meets five to eight activation rows at a time too: unpacking the points of grids and
// trits costs more than what eight rows spare by sharing a panel (measured).
template <class B, FormatId id>
constexpr bool takes_eight_rows() {
    using enum FormatId;
    return B::kEightRows && (id == IQ1_S || id == IQ1_M || id == IQ2_XXS || id == IQ2_XS || id == IQ2_S ||
                             id == IQ3_XXS || id == IQ3_S || id == TQ1_0 || id == TQ2_0);
}

// Eight activation rows, of which `valid` exist, against at most kWeightsOfEight weight rows: part by part of
// k, of which a copy stays in the level-1 cache, where the rows themselves, often 4 KiB apart, would fall
// into a few places.
inline constexpr int64_t kWeightsOfEight = 32;

template <class B, FormatId id>
BQ_INLINE void multiply_eight(const uint8_t* w, int64_t w_row_bytes, int64_t count, const Activations& x,
                              int64_t first, int valid, float* y, int64_t ldy) {
    using Dot = BlockDot<B, id, 8>;
    constexpr int kChunk = B::kChunk, kPart = 2048;
    alignas(64) int8_t part[8 * kPart];
    Dot dot;
    dot.begin(x, first, valid);
    typename Dot::Sums sums[kWeightsOfEight];
    for (int64_t v = 0; v < count; ++v) dot.keep(sums[v]);
    for (int64_t at = 0; at < x.k; at += kPart) {
        const int64_t end = at + kPart < x.k ? at + kPart : x.k;
        dot.q[0] = part;
        dot.start = at / 256;
        int8_t* to = part;
        for (int64_t i = at; i < end; i += kChunk)
            for (int r = 0; r < 8; ++r, to += kChunk)
                memcpy(to, x.q + Dot::row_of(first, r, valid) * x.k + i, kChunk);
        for (int64_t v = 0; v < count; ++v) {
            dot.go_on(sums[v]);
            dot.add(w + v * w_row_bytes + at / 256 * CommonForm<id>::bytes, at / 256, end / 256);
            if (end < x.k)
                dot.keep(sums[v]);
            else
                dot.store(valid, y + v, ldy);
        }
    }
}

template <class B, FormatId id>
void matmul_blocks(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const Activations& x,
                   float* y, int64_t ldy) {
    int64_t first = 0;
    if constexpr (takes_eight_rows<B, id>()) {
        for (; x.rows - first > 4; first += 8) {
            const int valid = static_cast<int>(x.rows - first < 8 ? x.rows - first : 8);
            for (int64_t n = begin; n < end; n += kWeightsOfEight)
                multiply_eight<B, id>(w + n * w_row_bytes, w_row_bytes,
                                      end - n < kWeightsOfEight ? end - n : kWeightsOfEight, x, first, valid,
                                      y + first * ldy + n, ldy);
        }
        if (first >= x.rows) return;
    }
    each_row_group<kRowTile, 1, 1>(w, w_row_bytes, begin, end, x.rows - first,
                                   [&](const uint8_t* row, auto, auto rows, int64_t r, int64_t n)
                                       BQ_INLINE_LAMBDA {
                                           constexpr int kRows = decltype(rows)::value;
                                           BlockDot<B, id, kRows> dot;
                                           dot.begin(x, first + r, kRows);
                                           dot.add(row, 0, x.k / 256);
                                           dot.store(kRows, y + (first + r) * ldy + n, ldy);
                                       });
}

}  // namespace
}  // namespace bq
