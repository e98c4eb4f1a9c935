// y = x * w^T for many activation rows: a panel of weights is unpacked once into the common form, in the
// level-1 cache, and multiplied with every tile of activation rows. See README.md for the formula and the
// layouts.
#pragma once

#include "matmul/integer_panel.hpp"
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

    // The sums of the run `index`, scaled, onto sum[row].
    BQ_INLINE void add_run(const P& w, int index, Floats (&sum)[kCount]) const {
        typename T::Ints whole[kCount];
        const uint8_t* u = w.q + index * kRun * kLanes;
        const int8_t* p = q + index * kRun * kCount;
        if constexpr (kRun == 256) {
            unroll<kCount>([&](auto r)
                               BQ_INLINE_LAMBDA { whole[r] = T::splat_ints(start[index * kCount + r]); });
            for (int i = 0; i < 8; ++i)
                T::template add_dots<8>(u + i * 32 * kLanes, p + i * 32 * kCount, whole);
        } else if constexpr (P::kFlips) {
            T::template signed_dots<kSteps>(u, p, w.negatives + index * kLanes, whole);
        } else {
            T::template dots<P::kTop, kSteps>(u, p, start + index * kCount, whole);
        }
        const Floats scale = T::load(w.scales + index * kLanes);
        unroll<kCount>([&](auto r)
                           BQ_INLINE_LAMBDA { sum[r] = T::mul_add(T::to_floats(whole[r]), scale, sum[r]); });
        if constexpr (P::kFloatMinima) {
            const Floats minimum = T::load(w.minima + index * kLanes);
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                sum[r] = T::mul_sub_from(minimum, T::splat(sums[index * kCount + r]), sum[r]);
            });
        }
    }

    // The sums of all runs under an activation scale, times that scale, onto `out`, or into it. They wait in
    // memory where registers would not do.
    BQ_INLINE void multiply(const P& w, int depth, bool is_first, float (*out)[kLanes]) const {
        constexpr int kRuns = P::kActivations / kRun;
        constexpr bool kInMemory = kWide && (kRun != 256 || P::kMinimumRun != 0);
        Floats sum[kCount];
        unroll<kCount>(
            [&](auto r) BQ_INLINE_LAMBDA { sum[r] = kInMemory || is_first ? T::zero() : T::load(out[r]); });
        for (int block = 0; block < depth / P::kActivations; ++block) {
            Floats part[kCount];
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { part[r] = T::zero(); });
            if constexpr (P::kMinimumRun != 0) w.integer_minima.template subtract<kCount>(sums, block, part);
            for (int i = 0; i < kRuns; ++i) add_run(w, block * kRuns + i, part);
            const bool sets = is_first && block == 0;
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const Floats scale = T::splat(scales[block * kCount + r]);
                if constexpr (kInMemory)
                    T::store(out[r],
                             sets ? T::mul(part[r], scale) : T::mul_add(part[r], scale, T::load(out[r])));
                else
                    sum[r] = T::mul_add(part[r], scale, sum[r]);
            });
        }
        if constexpr (!kInMemory) unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { T::store(out[r], sum[r]); });
    }
};

template <class T, class P, int kCount>
BQ_INLINE void multiply_runs(const P& panel, const PackedRows& x, int64_t first, int64_t at, int depth,
                             float (*out)[T::kLanes]) {
    constexpr int kRun = P::kRun, kActivations = P::kActivations;
    constexpr int kSumRun =
        P::kMinimumRun != 0 ? 2 * P::kMinimumRun : kRun;  // elements of four bytes of sums
    const Tile<T, P, kCount> tile{x.q + first * x.k + at * kCount,
                                  x.start + first * (x.k / kRun) + at / kRun * kCount,
                                  x.scales + first * (x.k / kActivations) + at / kActivations * kCount,
                                  x.sums + first * (x.k / kSumRun) + at / kSumRun * kCount};
    tile.multiply(panel, depth, at == 0, out);
}

template <class S, class T, FormatId id>
constexpr bool scales_stay_integers() {
    if constexpr (T::kIntegerScales) return SuperBlock<S, id>::kKnown;
    return false;
}
// The panel of a format: O as in Panel.
template <class S, class T, FormatId id, class O = void>
using ChosenPanel =
    typename Choose<scales_stay_integers<S, T, id>(), IntegerPanel<S, T, id>, Panel<S, T, id, O>>::Type;

// One panel, elements at to at + depth - 1, against the tile of kCount rows from `first` on.
template <class T, class P, int kCount>
BQ_NOINLINE void multiply_tile(const P& panel, const PackedRows& x, int64_t first, int64_t at, int depth,
                               float (*out)[T::kLanes]) {
    if constexpr (requires { panel.template multiply<kCount>(x, first, at, depth, out); }) {
        panel.template multiply<kCount>(x, first, at, depth, out);
    } else {
        multiply_runs<T, P, kCount>(panel, x, first, at, depth, out);
    }
}

template <class S, class T, FormatId id, class O = void>
void matmul_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end, const PackedRows& x,
                   float* y, int64_t ldy) {
    using P = ChosenPanel<S, T, id, O>;
    P panel;
    multiply_panels<T, P::kRows, kPanelDepth>(
        {begin, end, x.rows, x.k, x.block_rows, y, ldy},
        [&](int64_t n, int64_t at)
            BQ_INLINE_LAMBDA { prefetch<P::kBytes>(P::row_at(w, w_row_bytes, n, at)); },
        [&](int64_t n, int64_t at, int depth)
            BQ_INLINE_LAMBDA { panel.fill(w, w_row_bytes, n, end, at, depth); },
        [&](int64_t r, auto rows, int64_t at, int depth, float (*sums)[T::kLanes])
            BQ_INLINE_LAMBDA { multiply_tile<T, P, decltype(rows)::value>(panel, x, r, at, depth, sums); });
}

}  // namespace
}  // namespace bq
