// The encoders of iq1.cpp in lanes: one run per lane sorts and tries all splits, each lane in the scalar
// order; then each run's points, candidates side by side as in lanes_grid.hpp.
#pragma once

#include "encode/iq1_runs.hpp"
#include "encode/lanes_grid.hpp"

namespace bq {
namespace {

using encode::TernaryRun;

// Runs sorted by value, equal elements in their order: what is left of them is the order, as element numbers.
template <class S, int n>
struct RunOrder {
    alignas(64) int32_t element[n * S::kLanes];
};

// Batcher's odd-even merge sort.
template <class S, int n>
BQ_INLINE void sort_columns(const Columns<S, n>& x, RunOrder<S, n>& order) {
    Columns<S, n> values = x;
    for (int i = 0; i < n; ++i) S::store_int(order.element + i * S::kLanes, S::splat_int(i));
    const auto compare = [&](int i, int j) BQ_INLINE_LAMBDA {
        float *first = values.values + i * S::kLanes, *second = values.values + j * S::kLanes;
        int32_t *of_first = order.element + i * S::kLanes, *of_second = order.element + j * S::kLanes;
        const auto a = S::load(first), b = S::load(second);
        const auto at_a = S::load_int(of_first), at_b = S::load_int(of_second);
        const auto swap = S::either(S::less(b, a), S::both(S::equal(a, b), S::less(at_b, at_a)));
        S::store(first, S::select(swap, b, a));
        S::store(second, S::select(swap, a, b));
        S::store_int(of_first, S::select(swap, at_b, at_a));
        S::store_int(of_second, S::select(swap, at_a, at_b));
    };
    for (int size = 1; size < n; size *= 2)
        for (int distance = size; distance >= 1; distance /= 2)
            for (int from = distance % size; from + distance < n; from += 2 * distance)
                for (int i = from; i < from + distance && i + distance < n; ++i)
                    if (i / (2 * size) == (i + distance) / (2 * size)) compare(i, i + distance);
}

// The best split of each run: scale and gain as in iq1.cpp, and where it is: -1, or low, high and shifts in
// six bits each.
template <class S>
struct SplitLanes {
    typename S::Float scale, gain;
    typename S::Int place;
};
constexpr int split_place(int low, int high, int shifts) {
    return (low << 6 | high) << 6 | shifts;
}

// What a fit must have to be better than the best so far.
template <class S>
BQ_INLINE typename S::Mask is_better(const SplitLanes<S>& best, typename S::Float x_level,
                                     typename S::Float level_level) {
    return S::both(S::less(S::splat(0), level_level),
                   S::less(S::mul(best.gain, level_level), S::mul(x_level, x_level)));
}
template <class S>
BQ_INLINE void take_if_better(SplitLanes<S>& best, typename S::Float x_level, typename S::Float level_level,
                              int place) {
    const auto better = is_better<S>(best, x_level, level_level);
    const auto ratio = S::div(x_level, level_level);
    best.scale = S::select(better, ratio, best.scale);
    best.gain = S::select(better, S::mul(ratio, x_level), best.gain);
    best.place = S::select(better, S::splat_int(place), best.place);
}

// weight * x and weight of the elements in sorted order.
template <class S, int n>
BQ_INLINE void load_sorted(const Columns<S, n>& x, const Columns<S, n>& weights, const RunOrder<S, n>& order,
                           int j, typename S::Int lane, typename S::Float& wx, typename S::Float& w) {
    const auto element = S::load_int(order.element + j * S::kLanes);
    const auto at = S::add(S::mul(element, S::splat_int(S::kLanes)), lane);
    w = S::gather(weights.values, at);
    wx = S::mul(w, S::gather(x.values, at));
}

template <class S>
BQ_INLINE typename S::Int lane_numbers() {
    alignas(64) int32_t numbers[S::kLanes];
    for (int l = 0; l < S::kLanes; ++l) numbers[l] = l;
    return S::load_int(numbers);
}

template <class S>
BQ_INLINE SplitLanes<S> no_split() {
    return {S::splat(0), S::splat(-0x1.fffffep127f), S::splat_int(-1)};
}

// IQ1_S.
template <class S>
BQ_INLINE SplitLanes<S> best_splits(const Columns<S, 32>& x, const Columns<S, 32>& weights,
                                    const RunOrder<S, 32>& order) {
    using Float = typename S::Float;
    constexpr int n = 32;
    // Prefix sums, and what the elements from i on add at level 2, for either shift.
    Columns<S, n + 1> sum_x, sum_w, top_x[2], top_w[2];
    const auto lane = lane_numbers<S>();
    Float sx = S::splat(0), sw = sx;
    for (int j = 0; j <= n; ++j) {
        S::store(sum_x.values + j * S::kLanes, sx);
        S::store(sum_w.values + j * S::kLanes, sw);
        if (j == n) break;
        Float wx, w;
        load_sorted<S>(x, weights, order, j, lane, wx, w);
        sx = S::add(sx, wx);
        sw = S::add(sw, w);
    }
    for (int j = 0; j <= n; ++j)
        for (int down = 0; down < 2; ++down) {
            const Float value = S::splat(encode::shifted(down != 0)[2]);
            S::store(top_x[down].values + j * S::kLanes, S::mul(S::sub(sx, column<S>(sum_x, j)), value));
            S::store(top_w[down].values + j * S::kLanes,
                     S::mul(S::mul(S::sub(sw, column<S>(sum_w, j)), value), value));
        }
    SplitLanes<S> best = no_split<S>();
    const Float middle = S::splat(encode::kShiftedUp[1]);  // shifted down: minus this
    for (int low = 0; low <= n; ++low) {
        const Float low_x = column<S>(sum_x, low), low_w = column<S>(sum_w, low);
        const auto bottom = [&](Float sum, float value)
                                BQ_INLINE_LAMBDA { return S::mul(sum, S::splat(value)); };
        const float up = encode::kShiftedUp[0], down = encode::kShiftedDown[0];
        const Float up_x = bottom(low_x, up), down_x = bottom(low_x, down);
        const Float up_w = bottom(bottom(low_w, up), up), down_w = bottom(bottom(low_w, down), down);
        for (int high = low; high <= n; ++high) {
            const Float middle_x = S::mul(S::sub(column<S>(sum_x, high), low_x), middle);
            const Float middle_w = S::mul(S::mul(S::sub(column<S>(sum_w, high), low_w), middle), middle);
            const Float x_up = S::add(S::add(up_x, middle_x), column<S>(top_x[0], high));
            const Float x_down = S::add(S::sub(down_x, middle_x), column<S>(top_x[1], high));
            const Float w_up = S::add(S::add(up_w, middle_w), column<S>(top_w[0], high));
            const Float w_down = S::add(S::add(down_w, middle_w), column<S>(top_w[1], high));
            if (!S::any(S::either(is_better<S>(best, x_up, w_up), is_better<S>(best, x_down, w_down))))
                continue;
            take_if_better<S>(best, x_up, w_up, split_place(low, high, 0));
            take_if_better<S>(best, x_down, w_down, split_place(low, high, 3));
        }
    }
    return best;
}

// IQ1_M: sums of each half.
template <class S>
BQ_INLINE SplitLanes<S> best_splits(const Columns<S, 16>& x, const Columns<S, 16>& weights,
                                    const RunOrder<S, 16>& order) {
    using Float = typename S::Float;
    constexpr int n = 16;
    Columns<S, n + 1> sum_x[2], sum_w[2];
    const auto lane = lane_numbers<S>();
    const Float zero = S::splat(0);
    Float sx[2] = {zero, zero}, sw[2] = {zero, zero};
    for (int j = 0; j <= n; ++j) {
        for (int half = 0; half < 2; ++half) {
            S::store(sum_x[half].values + j * S::kLanes, sx[half]);
            S::store(sum_w[half].values + j * S::kLanes, sw[half]);
        }
        if (j == n) break;
        Float wx, w;
        load_sorted<S>(x, weights, order, j, lane, wx, w);
        const auto in_first = S::less(S::load_int(order.element + j * S::kLanes), S::splat_int(n / 2));
        sx[0] = S::add(sx[0], S::select(in_first, wx, zero));
        sw[0] = S::add(sw[0], S::select(in_first, w, zero));
        sx[1] = S::add(sx[1], S::select(in_first, zero, wx));
        sw[1] = S::add(sw[1], S::select(in_first, zero, w));
    }
    Float all_x[2][2], all_w[2][2], first[2], second[2];  // [half][down], [down]
    for (int down = 0; down < 2; ++down) {
        const float* v = encode::shifted(down != 0);
        first[down] = S::splat(v[0] * v[0] - v[1] * v[1]);
        second[down] = S::splat(v[1] * v[1] - v[2] * v[2]);
        for (int half = 0; half < 2; ++half) {
            const Float top = S::splat(v[2]);
            all_x[half][down] = S::mul(sx[half], top);
            all_w[half][down] = S::mul(S::mul(sw[half], top), top);
        }
    }
    SplitLanes<S> best = no_split<S>();
    for (int low = 0; low <= n; ++low) {
        Float low_w[2][2];
        for (int half = 0; half < 2; ++half)
            for (int down = 0; down < 2; ++down)
                low_w[half][down] =
                    S::add(all_w[half][down], S::mul(column<S>(sum_w[half], low), first[down]));
        const Float low_x[2] = {column<S>(sum_x[0], low), column<S>(sum_x[1], low)};
        for (int high = low; high <= n; ++high) {
            Float half_x[2][2], half_w[2][2], x_level[4], level_level[4];
            for (int half = 0; half < 2; ++half) {
                const Float cut = S::add(low_x[half], column<S>(sum_x[half], high));
                const Float high_w = column<S>(sum_w[half], high);
                for (int down = 0; down < 2; ++down) {
                    half_x[half][down] = S::sub(all_x[half][down], cut);
                    half_w[half][down] = S::add(low_w[half][down], S::mul(high_w, second[down]));
                }
            }
            auto better = S::less(zero, zero);
            for (int shifts = 0; shifts < 4; ++shifts) {
                x_level[shifts] = S::add(half_x[0][shifts >> 1], half_x[1][shifts & 1]);
                level_level[shifts] = S::add(half_w[0][shifts >> 1], half_w[1][shifts & 1]);
                better = S::either(better, is_better<S>(best, x_level[shifts], level_level[shifts]));
            }
            if (!S::any(better)) continue;
            for (int shifts = 0; shifts < 4; ++shifts)
                take_if_better<S>(best, x_level[shifts], level_level[shifts], split_place(low, high, shifts));
        }
    }
    return best;
}

// What candidates of a ternary grid look like to nearest_candidate.
struct TernaryCandidates : encode::OfThreeLevels {};
struct ShiftedValues {
    alignas(32) float values[2][32];
};
constexpr ShiftedValues shifted_values() {
    ShiftedValues t{};
    for (int i = 0; i < 32; ++i) {
        const int level = i % 4 < 3 ? i % 4 : 2;
        t.values[0][i] = encode::kShiftedUp[level];
        t.values[1][i] = encode::kShiftedDown[level];
    }
    return t;
}
static constexpr ShiftedValues kShiftedValues = shifted_values();

// The runs of S::kLanes neighbours, of which `count` exist.
template <class S, class E, int n>
BQ_INLINE void fit_ternary_runs(const GridNeighbours& grid, const float* x, const float* weights,
                                int64_t count, float zero, TernaryRun<n>* runs) {
    Columns<S, n> columns, column_weights;
    load_runs<S>(x, n, count, columns);
    load_runs<S>(weights, n, count, column_weights);
    RunOrder<S, n> order;
    sort_columns<S>(columns, order);
    const SplitLanes<S> best = best_splits<S>(columns, column_weights, order);
    alignas(64) float highs[S::kLanes], scales[S::kLanes];
    alignas(64) int32_t places[S::kLanes];
    S::store(highs, S::abs(peak_of<S>(columns)));
    S::store(scales, best.scale);
    S::store_int(places, best.place);
    for (int l = 0; l < count; ++l, x += n, weights += n) {
        TernaryRun<n>& run = runs[l];
        run = {};
        if (highs[l] < zero || places[l] < 0) continue;
        const int low = places[l] >> 12, high = places[l] >> 6 & 63, shifts = places[l] & 3;
        uint8_t levels[n];
        for (int j = 0; j < n; ++j)
            levels[order.element[j * S::kLanes + l]] = static_cast<uint8_t>((j >= low) + (j >= high));
        encode::settle_ternary<n>(grid, x, weights, highs[l], levels, scales[l], shifts, run,
                                  [&](const GridNeighbours::List& list, int at, float scale, bool down) {
                                      GridGroup group;
                                      spread_group<TernaryCandidates, E>(x + at, weights + at, group);
                                      return nearest_candidate<TernaryCandidates, E>(
                                          list, group, scale, kShiftedValues.values[down]);
                                  });
    }
}

template <class F, class S, class E>
void encode_ternary_chunk(const float* x, typename F::Block* blocks, int64_t count, const float* imatrix) {
    constexpr int kRuns = 256 / F::kRun;
    const GridNeighbours& grid = encode::grid_neighbours(encode::Grid::kIQ1S);
    alignas(64) float mean_square[S::kLanes], weights[S::kLanes * 256];
    S::store(mean_square,
             S::div(S::mul(S::splat(2), squares_of_super_blocks<S>(x, count)), S::splat(256.0f)));
    for (int64_t i = 0; i < count * 256; i += S::kLanes) {
        const auto v = S::load(x + i), square = S::mul(v, v);
        auto weight = square;
        if (imatrix)
            weight = S::mul(S::load(imatrix + i), S::sqrt(S::add(S::splat(mean_square[i / 256]), square)));
        S::store(weights + i, weight);
    }
    TernaryRun<F::kRun> runs[S::kLanes * kRuns];
    for (int64_t r = 0; r < count * kRuns; r += S::kLanes) {
        const int64_t left = count * kRuns - r;
        fit_ternary_runs<S, E, F::kRun>(grid, x + r * F::kRun, weights + r * F::kRun,
                                        left < S::kLanes ? left : S::kLanes, F::kZero, runs + r);
    }
    for (int64_t b = 0; b < count; ++b) {
        if constexpr (F::kRun == 32) {
            encode::store_block(runs + b * kRuns, blocks[b]);
        } else {
            encode::store_block(runs + b * kRuns, x + b * 256, weights + b * 256, blocks[b]);
        }
    }
}

// S has a run, E a candidate in each lane.
template <class F, class S, class E>
void encode_ternary(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_chunk<S, typename F::Block>(x, out, k, imatrix, encode_ternary_chunk<F, S, E>);
}

}  // namespace
}  // namespace bq
