// The encoders of iq4.cpp in lanes: one run per lane, then the integers in element order.
#pragma once

#include "encode/lanes_scales.hpp"
#include "formats/iq4.hpp"

namespace bq {
namespace {

// The levels as floats, and the points halfway between neighbours, ordered for a search by halving: first the
// middle one, then of each half the middle one, and so on. A value at such a point goes up, which is what
// comparing its distances to both gives, since they are exact near it.
struct Iq4Tables {
    float levels[16];
    float halfway[3][8];  // for the second, third and fourth step
    float middle;
};
constexpr Iq4Tables iq4_tables() {
    Iq4Tables t = {};
    for (int i = 0; i < 16; ++i) t.levels[i] = static_cast<float>(iq4::kLevels[i]);
    const auto between = [&](int i) { return (t.levels[i] + t.levels[i + 1]) / 2; };
    t.middle = between(7);
    for (int step = 0; step < 3; ++step)
        for (int i = 0; i < 2 << step; ++i) t.halfway[step][i] = between((8 >> step) * i + (4 >> step) - 1);
    return t;
}
static constexpr Iq4Tables kIq4 = iq4_tables();

// The index of the nearest level; NaN goes to the top.
template <class S>
BQ_INLINE typename S::Int nearest_level(typename S::Float value) {
    const auto zero = S::splat_int(0), one = S::splat_int(1);
    auto index = S::select(S::less(value, S::splat(kIq4.middle)), zero, one);
    unroll<3>([&](auto step) BQ_INLINE_LAMBDA {
        const auto below = S::less(value, S::lookup8(kIq4.halfway[step], index));
        const auto twice = S::add(index, index);
        index = S::select(below, twice, S::add(twice, one));
    });
    return index;
}

template <class S>
BQ_INLINE typename S::Float iq4_run_scale(const Columns<S, 32>& x, const Columns<S, 32>& weights) {
    using Float = typename S::Float;
    const Float peak = peak_of<S>(x), zero = S::splat(0);
    const auto is_zero = S::less(S::abs(peak), S::splat(search::kZeroRun));
    const Float lowest = S::splat(kIq4.levels[0]);
    Float scale = zero, gain = zero;
    for (int attempt = 0; attempt < 16; ++attempt) {
        // First the peak at the level of largest magnitude, but on the other side; then at and near that
        // level.
        const int shift = attempt - 8;
        const Float inverse = attempt == 0
                                  ? S::div(S::splat(1), S::div(negative<S>(peak), lowest))
                                  : S::div(S::splat(static_cast<float>(shift) + kIq4.levels[0]), peak);
        Float x_level = zero, level_level = zero;
        for (int i = 0; i < 32; ++i) {
            const Float v = column<S>(x, i);
            const Float level = S::lookup16(kIq4.levels, nearest_level<S>(S::mul(inverse, v)));
            const Float weighted = S::mul(column<S>(weights, i), level);
            x_level = S::add(x_level, S::mul(weighted, v));
            level_level = S::add(level_level, S::mul(weighted, level));
        }
        const Float ratio = S::div(x_level, level_level);
        auto better = S::less(zero, level_level);
        if (attempt > 0)
            better = S::both(better, S::less(S::mul(gain, level_level), S::mul(x_level, x_level)));
        scale = S::select(better, ratio, scale);
        // Without a first fit the gain is that of scale 0, which an infinite sum makes a NaN.
        if (attempt == 0) {
            gain = S::mul(scale, x_level);
        } else {
            gain = S::select(better, S::mul(ratio, x_level), gain);
        }
    }
    return S::select(is_zero, zero, scale);
}

// The scales of `count` runs; importance is nullptr or as long as x. mean_square[l] is twice the mean square
// of the block of run l.
template <class S>
BQ_INLINE typename S::Float iq4_scales(const float* x, const float* importance, int64_t count,
                                       const float* mean_square) {
    Columns<S, 32> columns, weights;
    load_runs<S>(x, 32, count, columns);
    if (importance) {
        load_runs<S>(importance, 32, count, weights);
        const auto mean =
            mean_square ? S::load(mean_square) : S::mul(sum_of_squares<S>(columns), S::splat(2.0f / 32));
        importance_weights<S>(columns, mean, weights);
    } else {
        for (int i = 0; i < 32; ++i) {
            const auto v = column<S>(columns, i);
            S::store(weights.values + i * S::kLanes, S::mul(v, v));
        }
    }
    return iq4_run_scale<S>(columns, weights);
}

template <class V>
BQ_INLINE void store_iq4_run(const float* x, float scale, uint8_t* qs) {
    const auto inverse = V::splat(scale != 0 ? 1 / scale : 0.0f);
    uint8_t levels[32];
    fill_levels<V, 32>(
        levels, [&](int i) BQ_INLINE_LAMBDA { return nearest_level<V>(V::mul(inverse, V::load(x + i))); });
    legacy::store_nibbles(levels, qs);
}

template <class S, class V>
void encode_iq4_nl(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    BlockIQ4_NL* blocks = reinterpret_cast<BlockIQ4_NL*>(out);
    for (int64_t n = 0; n < k / 32; n += S::kLanes) {
        const int64_t left = k / 32 - n, count = left < S::kLanes ? left : S::kLanes;
        const auto fit = iq4_scales<S>(x + 32 * n, imatrix ? imatrix + 32 * n : nullptr, count, nullptr);
        float scale[S::kLanes];
        uint16_t d[S::kLanes];
        S::store(scale, fit);
        store_scales_f16<S>(d, fit);
        for (int64_t b = 0; b < count; ++b) {
            blocks[n + b].d = d[b];
            store_iq4_run<V>(x + 32 * (n + b), scale[b], blocks[n + b].qs);
        }
    }
}

template <class S, class V>
void encode_iq4_xs_chunk(const float* x, BlockIQ4_XS* blocks, int64_t count, const float* imatrix) {
    constexpr int kRuns = 8;
    alignas(64) float mean_square[kRuns * V::kLanes], scales[kRuns * V::kLanes];
    if (imatrix)
        spread_over_runs<V, kRuns>(V::mul(squares_of_super_blocks<V>(x, count), V::splat(2.0f / kSuperBlock)),
                                   mean_square);
    for (int64_t r = 0; r < count * kRuns; r += S::kLanes)
        S::store(scales + r, iq4_scales<S>(x + 32 * r, imatrix ? imatrix + 32 * r : nullptr,
                                           count * kRuns - r, mean_square + r));
    // The run scale of largest magnitude becomes -32 times the block's.
    Columns<V, kRuns> columns;
    load_runs<V>(scales, kRuns, count, columns);
    const auto zero = V::splat(0);
    const auto scale = V::div(negative<V>(peak_of<V>(columns)), V::splat(32));
    const auto inverse = V::select(V::equal(scale, zero), zero, V::div(V::splat(1), scale));
    StoredScales<V, kRuns> stored;
    store_scales_f16<V>(stored.d, scale);
    alignas(64) float run_scales[kRuns * V::kLanes];
    for (int j = 0; j < kRuns; ++j) {
        const auto integer = clamp<V>(round_to_int<V>(V::mul(inverse, column<V>(columns, j))), -32, 31);
        store_column(stored, j, V::add(integer, V::splat_int(32)));
        V::store(run_scales + j * V::kLanes, V::mul(scale, V::to_float(integer)));
    }
    for (int64_t b = 0; b < count; ++b, x += kSuperBlock) {
        uint8_t integers[kRuns];
        read_column(stored, static_cast<int>(b), integers);
        blocks[b].d = stored.d[b];
        store_scales(integers, blocks[b]);
        for (int j = 0; j < kRuns; ++j)
            store_iq4_run<V>(x + 32 * j, run_scales[j * V::kLanes + b], blocks[b].qs + 16 * j);
    }
}

template <class S, class V>
void encode_iq4_xs(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_chunk<V, BlockIQ4_XS>(x, out, k, imatrix, encode_iq4_xs_chunk<S, V>);
}

}  // namespace
}  // namespace bq
