// y = x * w^T for many activation rows: a panel of weights is unpacked once into the common form, in the
// level-1 cache, and multiplied with every tile of activation rows. See README.md for the formula and the
// layouts.
#pragma once

#include "matmul/packed_rows.hpp"
#include "matmul/panel.hpp"
#include "matmul/tile.hpp"

namespace bq {
namespace {

// One panel against kCount activation rows: out[row][lane]. The pointers are at the panel's first element.
template <class T, class P, int kCount>
struct Tile {
    using Floats = typename T::Floats;
    static constexpr int kLanes = T::kLanes, kRun = P::kRun, kSteps = kRun / 4;
    static constexpr bool kWide = P::kActivations == 256;

    const int8_t* q;
    const int32_t* start;
    const float* scales;
    const float* sums;

    // The integer sums of a run.
    BQ_INLINE void dots(const P& w, int index, typename T::Ints (&whole)[kCount]) const {
        T::template dots<P::kTop, kSteps>(w.q + index * kRun * kLanes, q + index * kRun * kCount,
                                          start + index * kCount, whole);
    }

    // The sums of `count` consecutive runs from `index` on, scaled, onto sum[row].
    template <int kRuns>
    BQ_INLINE void runs(const P& w, int index, Floats (&sum)[kCount]) const {
        unroll<kRuns>([&](auto i) BQ_INLINE_LAMBDA {
            typename T::Ints whole[kCount];
            dots(w, index + i, whole);
            const Floats scale = T::load(w.scales + (index + i) * kLanes);
            unroll<kCount>(
                [&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::mul_add(T::to_floats(whole[r]), scale, sum[r]); });
            if constexpr (P::kMinima) {
                const Floats minimum = T::load(w.minima + (index + i) * kLanes);
                unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                    sum[r] = T::mul_sub_from(minimum, T::splat(sums[(index + i) * kCount + r]), sum[r]);
                });
            }
        });
    }

    // The sums of all runs under an activation scale, times that scale: in registers where there is one for
    // each 32 elements, in `out` where there is one for each 256.
    BQ_INLINE void multiply(const P& w, int depth, float (&out)[kCount][kLanes]) const {
        constexpr int kRuns = P::kActivations / kRun;
        Floats sum[kCount];
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::zero(); });
        for (int block = 0; block < depth / P::kActivations; ++block) {
            Floats part[kCount];
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { part[r] = T::zero(); });
            if constexpr (kWide)
                for (int i = 0; i < kRuns; ++i) runs<1>(w, block * kRuns + i, part);
            else
                runs<kRuns>(w, block * kRuns, part);
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const Floats scale = T::splat(scales[block * kCount + r]);
                if constexpr (kWide)
                    T::store(out[r], block == 0 ? T::mul(part[r], scale)
                                                : T::mul_add(part[r], scale, T::load(out[r])));
                else
                    sum[r] = T::mul_add(part[r], scale, sum[r]);
            });
        }
        if constexpr (!kWide) unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { T::store(out[r], sum[r]); });
    }
};

// One panel, elements at to at + depth - 1, against the tile of kCount rows from `first` on.
template <class T, class P, int kCount>
BQ_NOINLINE void multiply_tile(const P& panel, const PackedRows& x, int64_t first, int64_t at, int depth,
                               float (&out)[kCount][T::kLanes]) {
    constexpr int kRun = P::kRun, kActivations = P::kActivations;
    const Tile<T, P, kCount> tile{x.q + first * x.k + at * kCount,
                                  x.start + first * (x.k / kRun) + at / kRun * kCount,
                                  x.scales + first * (x.k / kActivations) + at / kActivations * kCount,
                                  x.sums + first * (x.k / kRun) + at / kRun * kCount};
    tile.multiply(panel, depth, out);
}

template <class S, class T, FormatId id>
void matmul_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const PackedRows& x,
                   float* y, int64_t ldy) {
    using P = Panel<S, T, id>;
    P panel;
    multiply_panels<T, T::kRows, kPanelDepth, P::kBytes>(
        {begin, end, x.rows, x.k, y, ldy},
        [&](int64_t n, int64_t at) BQ_INLINE_LAMBDA { return P::row_at(w, w_row_bytes, n, at); },
        [&](int64_t n, int64_t at, int depth)
            BQ_INLINE_LAMBDA { panel.fill(w, w_row_bytes, n, end, at, depth); },
        [&](int64_t r, int64_t at, int depth, auto& out)
            BQ_INLINE_LAMBDA { multiply_tile<T, P>(panel, x, r, at, depth, out); });
}

}  // namespace
}  // namespace bq
