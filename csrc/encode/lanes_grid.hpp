// The encoders of grid_search.hpp in lanes. Here a lane is an attempt at a scale: all attempts round a group
// of elements at once and look its points up, and the sums of the fits run over the elements side by side.
//
// Attempts that round to the same levels off the grid choose from the same candidates, whose distances are
// sums of table entries: what a level of an element adds, for every attempt. A last point is chosen for one
// scale; there the lanes are candidates.
#pragma once

#include "encode/grid_runs.hpp"
#include "encode/lanes_scales.hpp"

namespace bq {
namespace {

using encode::GridEntry;
using encode::GridNeighbours;
using encode::GridRun;
using encode::kGroups;
using encode::kSpread;
using encode::level_of;
using search::ChosenPoint;

template <class F>
constexpr int kGridAttempts = 2 * F::kAttempts + 1;

// Attempts in whole vectors of eight; the last ones repeat the last attempt.
template <class F>
constexpr int kAttemptLanes = (kGridAttempts<F> + 7) / 8 * 8;

template <class F>
struct AttemptSpreads {
    alignas(32) float values[kAttemptLanes<F>];
};
template <class F>
constexpr AttemptSpreads<F> attempt_spreads() {
    AttemptSpreads<F> spreads{};
    for (int a = 0; a < kAttemptLanes<F>; ++a) {
        const int t = a < kGridAttempts<F> ? a - F::kAttempts : F::kAttempts;
        spreads.values[a] = kSpread<F> + static_cast<float>(t) * F::kStep;
    }
    return spreads;
}
template <class F>
static constexpr AttemptSpreads<F> kAttemptSpreads = attempt_spreads<F>();

// A super-block, element by element. Rows have room for a whole vector beyond the last group.
struct GridBlock {
    alignas(64) float magnitudes[256 + 8], weights[256 + 8], roots[256 + 8];
    uint8_t signs[32];
};

template <class F, class V>
BQ_INLINE void prepare_grid_block(const float* x, const float* importance, float mean_square, GridBlock& b) {
    const auto zero = V::splat(0), mean = V::splat(mean_square);
    const auto quarter = V::mul(V::splat(0.25f), mean);
    for (int at = 0; at < 256; at += 8) {
        uint32_t signs = 0;
        unroll<8 / V::kLanes>([&](auto part) BQ_INLINE_LAMBDA {
            const int i = at + part * V::kLanes;
            const auto v = V::load(x + i), square = V::mul(v, v);
            auto weight = square;
            if (importance) {
                weight = V::mul(V::load(importance + i), V::sqrt(V::add(mean, square)));
            } else if (F::kPlain == search::PlainWeights::kSquaresAndMean) {
                weight = V::add(quarter, square);
            }
            V::store(b.magnitudes + i, V::abs(v));
            V::store(b.weights + i, weight);
            V::store(b.roots + i, V::sqrt(weight));
            signs |= V::mask_bits(V::less(v, zero)) << part * V::kLanes;
        });
        auto bits = static_cast<int>(signs);
        if (F::kSigns == search::SignsStored::kSevenOfEight)
            bits = search::make_signs_even(bits, x + at, b.weights + at, b.magnitudes + at);
        b.signs[at / 8] = static_cast<uint8_t>(bits);
    }
}

// What each level of each element of a group would add to a candidate's distance, level by level within each
// element. A table has four levels (the last of them unused) of eight elements, or eight of four.
template <class F>
constexpr int kTableLevels = F::kLevels == 3 ? 4 : 8;

struct TableIndices {
    alignas(32) int32_t element[32];
    alignas(32) float value[32];  // 2 * level + 1
};
template <class F>
constexpr TableIndices table_indices() {
    TableIndices t{};
    for (int i = 0; i < 32; ++i) {
        t.element[i] = i / kTableLevels<F>;
        t.value[i] = static_cast<float>(2 * (i % kTableLevels<F>)+1);
    }
    return t;
}
template <class F>
static constexpr TableIndices kTableIndices = table_indices<F>();

// Magnitudes and roots of a group, repeated as a table needs them.
struct GridGroup {
    alignas(32) float x[32], roots[32];
};

template <class F, class V>
BQ_INLINE void spread_group(const float* x, const float* roots, GridGroup& group) {
    for (int i = 0; i < 32; i += V::kLanes) {
        const auto element = V::load_int(kTableIndices<F>.element + i);
        V::store(group.x + i, V::lookup8(x, element));
        V::store(group.roots + i, V::lookup8(roots, element));
    }
}

// table[level of the element], where the levels of the elements before it have been shifted out.
template <class F, class V>
BQ_INLINE typename V::Float lookup_level(const float* table, typename V::Int entries) {
    if constexpr (kTableLevels<F> == 4) {
        return V::lookup_low4(table, entries);
    } else {
        return V::lookup_low8(table, entries);
    }
}

// Zeros, then what keeps padding from winning.
// search::nearest_candidate, when the levels stand for scale * values.
template <class F, class V>
BQ_INLINE GridEntry nearest_candidate(const GridNeighbours::List& list, const GridGroup& group, float scale,
                                      const float* values) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    alignas(32) float table[32];
    for (int i = 0; i < 32; i += V::kLanes) {
        const Float value = V::mul(V::splat(scale), V::load(values + i));
        const Float difference = V::sub(value, V::load(group.x + i));
        V::store(table + i, V::mul(V::mul(V::load(group.roots + i), difference), difference));
    }
    const auto* entries = reinterpret_cast<const int32_t*>(list.chunks[0].entries);
    Float least = V::splat(0x1.fffffep127f);
    Int nearest = V::splat_int(entries[0]);
    for (int at = 0; at < 8 * list.count; at += V::kLanes) {
        const Int candidates = V::load_int(entries + at);
        Float distance = lookup_level<F, V>(table, candidates);
        unroll<F::kElements - 1>([&](auto before) BQ_INLINE_LAMBDA {
            constexpr int i = before + 1;
            distance =
                V::add(distance, lookup_level<F, V>(table + i * kTableLevels<F>,
                                                    V::template shift_right<F::kLevelBits * i>(candidates)));
        });
        nearest = V::select(V::less(distance, least), candidates, nearest);
        least = V::min(distance, least);
    }
    const auto winners = V::mask_bits(V::equal(least, V::splat(V::min_across(least))));
    alignas(32) int32_t points[V::kLanes];
    V::store_int(points, nearest);
    if ((winners & (winners - 1)) == 0) return static_cast<GridEntry>(points[__builtin_ctz(winners)]);
    for (int at = 0;; ++at)  // equally near: the first of the list
        for (int l = 0; l < V::kLanes; ++l)
            if ((winners >> l & 1) && points[l] == entries[at]) return static_cast<GridEntry>(entries[at]);
}

// What the attempts of a run have in common.
template <class F, class V>
struct GridAttempts {
    static constexpr int kVectors = kAttemptLanes<F> / V::kLanes;
    alignas(32) float inverses[kAttemptLanes<F>];
    // By level: the value it stands for at each attempt's scale.
    alignas(32) float values[kVectors][F::kLevels][V::kLanes];
};

template <class F, class V>
BQ_INLINE void begin_grid_attempts(float peak, GridAttempts<F, V>& attempts) {
    for (int v = 0; v < attempts.kVectors; ++v) {
        const auto spread = V::load(kAttemptSpreads<F>.values + v * V::kLanes);
        const auto inverse = V::div(spread, V::splat(peak)), scale = V::div(V::splat(1), inverse);
        V::store(attempts.inverses + v * V::kLanes, inverse);
        for (int level = 0; level < F::kLevels; ++level)
            V::store(attempts.values[v][level], V::mul(scale, V::splat(static_cast<float>(2 * level + 1))));
    }
}

// The keys of a group's levels at V::kLanes attempts, by Horner's rule. Levels stay offset by what
// round_to_int subtracts, which the key is rid of at the end.
template <class F, class V>
BQ_INLINE typename V::Int keys_at(const float* x, typename V::Float inverse) {
    using Int = typename V::Int;
    constexpr int kOffset = 0x400000;
    Int key = V::splat_int(0);
    unroll<F::kElements>([&](auto before) BQ_INLINE_LAMBDA {
        constexpr int i = F::kElements - 1 - before;
        const auto value = V::sub(V::mul(inverse, V::splat(x[i])), V::splat(1));
        // Twice the magic number of round_to_int, for twice the value.
        const Int bits = V::bits_of(V::add(value, V::splat(25165824.0f)));
        Int level = V::bit_and(bits, V::splat_int(0x7fffff));
        level = V::min(V::max(level, V::splat_int(kOffset)), V::splat_int(kOffset + F::kLevels - 1));
        if (F::kLevels == 8) {
            key = V::bit_or(V::template shift_left<3>(key), level);
        } else {
            key = V::add(V::add(V::template shift_left<1>(key), key), level);
        }
    });
    if (F::kLevels == 8) return V::bit_and(key, V::splat_int(0xfff));
    constexpr uint32_t kOffsets = kOffset * 3280u;  // times the sum of the powers of three
    return V::sub(key, V::splat_int(static_cast<int32_t>(kOffsets)));
}

// The points of a group for all attempts. Gives back a bit for each: whether it is on the grid.
template <class F, class V>
BQ_INLINE uint32_t choose_points(const GridNeighbours& grid, const float* x, const float* roots,
                                 const GridAttempts<F, V>& attempts, int32_t* points) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    constexpr int kVectors = GridAttempts<F, V>::kVectors;
    uint32_t on_grid = 0;
    for (int v = 0; v < kVectors; ++v) {
        const Int code = V::gather(grid.at, keys_at<F, V>(x, V::load(attempts.inverses + v * V::kLanes)));
        V::store_int(points + v * V::kLanes, code);
        on_grid |= V::mask_bits(V::less(V::splat_int(-1), code)) << v * V::kLanes;
    }
    constexpr uint32_t kAllLanes = (1u << V::kLanes) - 1;
    for (int v = 0; v < kVectors; ++v) {
        uint32_t left = ~on_grid >> v * V::kLanes & kAllLanes;  // attempts that still have no point
        if (left == 0) continue;
        // What each level of each element adds to a distance.
        alignas(32) float table[F::kElements][kTableLevels<F>][V::kLanes];
        for (int i = 0; i < F::kElements; ++i) {
            const Float of_x = V::splat(x[i]), root = V::splat(roots[i]);
            unroll<F::kLevels>([&](auto level) BQ_INLINE_LAMBDA {
                const Float difference = V::sub(V::load(attempts.values[v][level]), of_x);
                V::store(table[i][level], V::mul(V::mul(root, difference), difference));
            });
        }
        // Points of eight elements share their first levels with others: sum over three of them beforehand.
        constexpr int kPrefix = F::kElements == 8 ? 3 : 1;
        constexpr GridEntry kPrefixMask = (1u << kPrefix * F::kLevelBits) - 1;
        alignas(32) float sums[kPrefix == 1 ? 1 : kPrefixMask + 1][V::kLanes];
        if constexpr (kPrefix > 1) {
            for (int levels = 0; levels < 9; ++levels) {
                const int a = levels % 3, b = levels / 3;
                const Float of_two = V::add(V::load(table[0][a]), V::load(table[1][b]));
                for (int c = 0; c < 3; ++c)
                    V::store(sums[c << 4 | b << 2 | a], V::add(of_two, V::load(table[2][c])));
            }
        }
        const float (*prefixes)[V::kLanes] = kPrefix == 1 ? table[0] : sums;
        const Int codes = V::load_int(points + v * V::kLanes);
        Int chosen = codes;
        while (left != 0) {
            const int32_t code = points[v * V::kLanes + __builtin_ctz(left)];
            const auto here = V::equal(codes, V::splat_int(code));
            left &= ~V::mask_bits(here);
            const auto list = encode::candidates(grid, code);
            const GridEntry* entries = list.chunks[0].entries;
            const int count = 8 * list.count - list.padding;
            Float least = V::splat(0x1.fffffep127f);
            Int nearest = V::splat_int(static_cast<int32_t>(entries[0]));
            for (int c = 0; c < count; ++c) {
                const GridEntry entry = entries[c];
                Float distance = V::load(prefixes[entry & kPrefixMask]);
                unroll<F::kElements - kPrefix>([&](auto after) BQ_INLINE_LAMBDA {
                    constexpr int i = kPrefix + after;
                    distance = V::add(distance, V::load(table[i][level_of<F>(entry, i)]));
                });
                const Int candidate = V::splat_int(static_cast<int32_t>(entry));
                nearest = V::select(V::less(distance, least), candidate, nearest);
                least = V::min(distance, least);
            }
            chosen = V::select(here, nearest, chosen);
        }
        V::store_int(points + v * V::kLanes, chosen);
    }
    return on_grid;
}

template <class F, class V>
BQ_INLINE ChosenPoint choose_point(const GridNeighbours& grid, const float* x, const float* roots,
                                   float inverse, float scale) {
    const int32_t code = grid.at[search::key_at<F>(x, inverse)];
    if (code >= 0) return {static_cast<GridEntry>(code), true};
    GridGroup group;
    spread_group<F, V>(x, roots, group);
    return {nearest_candidate<F, V>(encode::candidates(grid, code), group, scale, kTableIndices<F>.value),
            false};
}

// The fits of all attempts.
template <class F, class V>
BQ_INLINE void fit_attempts(const float* x, const float* weights,
                            const int32_t (&points)[kGroups<F>][kAttemptLanes<F>], float* x_level,
                            float* level_level) {
    using Float = typename V::Float;
    constexpr int kVectors = kAttemptLanes<F> / V::kLanes;
    Float xl[kVectors], ll[kVectors];
    for (int v = 0; v < kVectors; ++v) xl[v] = ll[v] = V::splat(0);
    const float* const values = kTableIndices<F>.value;
    for (int g = 0; g < kGroups<F>; ++g)
        unroll<F::kElements>([&](auto i) BQ_INLINE_LAMBDA {
            const int at = g * F::kElements + i;
            const Float w = V::splat(weights[at]), wx = V::mul(w, V::splat(x[at]));
            unroll<kVectors>([&](auto v) BQ_INLINE_LAMBDA {
                const auto levels =
                    V::template shift_right<F::kLevelBits * i>(V::load_int(points[g] + v * V::kLanes));
                const Float value = lookup_level<F, V>(values, levels);
                xl[v] = V::add(xl[v], V::mul(wx, value));
                ll[v] = V::add(ll[v], V::mul(V::mul(w, value), value));
            });
        });
    for (int v = 0; v < kVectors; ++v) {
        V::store(x_level + v * V::kLanes, xl[v]);
        V::store(level_level + v * V::kLanes, ll[v]);
    }
}

// search::fit_run. first_scale: what search::positive_scale gives, for the format that begins with it.
template <class F, class V>
BQ_INLINE void fit_grid_run(const GridNeighbours& grid, const float* x, const float* weights,
                            const float* roots, const uint8_t* signs, float first_scale, GridRun<F>& run) {
    run = {};
    auto most = V::load(x);
    for (int i = V::kLanes; i < F::kRun; i += V::kLanes) most = V::max(most, V::load(x + i));
    const float high = V::max_across(most);
    run.scale = high / kSpread<F>;
    float peak = high;
    if (F::kScaleFirst) {
        run.scale = first_scale;
        peak = first_scale * F::kLevels;
    }
    if (high < F::kZero || peak <= 0) {
        run.scale = 0;
        run.empty = true;
        return;
    }
    for (int i = 0; i < F::kRun / 8; ++i) run.signs[i] = signs[i];

    constexpr int kLanes = kAttemptLanes<F>;
    GridAttempts<F, V> attempts;
    begin_grid_attempts<F, V>(peak, attempts);
    alignas(32) int32_t points[kGroups<F>][kLanes];
    uint32_t on_grid[kGroups<F>];
    for (int g = 0; g < kGroups<F>; ++g) {
        const int at = g * F::kElements;
        on_grid[g] = choose_points<F, V>(grid, x + at, roots + at, attempts, points[g]);
    }
    alignas(32) float x_level[kLanes], level_level[kLanes];
    fit_attempts<F, V>(x, weights, points, x_level, level_level);
    int best = -1;
    float gain = 0;
    for (int a = 0; a < kGridAttempts<F>; ++a)
        if (level_level[a] > 0 && x_level[a] * x_level[a] > gain * level_level[a]) {
            run.scale = x_level[a] / level_level[a];
            gain = run.scale * x_level[a];
            best = a;
        }
    ChosenPoint chosen[kGroups<F>];
    search::begin_attempts<F>(grid, chosen);
    if (best >= 0)
        for (int g = 0; g < kGroups<F>; ++g)
            chosen[g] = {static_cast<GridEntry>(points[g][best]), (on_grid[g] >> best & 1) != 0};
    search::settle<F>(x, weights, high, chosen, run, [&](int g, float inverse, float scale) {
        const int at = g * F::kElements;
        return choose_point<F, V>(grid, x + at, roots + at, inverse, scale);
    });
}

template <class F, class V>
void encode_grid_chunk(const float* x, typename F::Block* blocks, int64_t count, const float* imatrix) {
    constexpr int kRuns = 256 / F::kRun;
    const GridNeighbours& grid = encode::grid_neighbours(F::kGrid);
    alignas(32) float mean_square[V::kLanes];
    V::store(mean_square, V::div(V::mul(V::splat(F::kMeanSquares), squares_of_super_blocks<V>(x, count)),
                                 V::splat(256.0f)));
    for (int64_t b = 0; b < count; ++b, x += 256) {
        GridBlock block;
        prepare_grid_block<F, V>(x, imatrix, mean_square[b], block);
        if (imatrix) imatrix += 256;
        alignas(32) float first_scales[kRuns] = {};
        if constexpr (F::kScaleFirst)
            for (int j = 0; j < kRuns; j += V::kLanes) {
                Columns<V, F::kRun> columns, weights, levels;
                load_runs<V>(block.magnitudes + j * F::kRun, F::kRun, V::kLanes, columns);
                load_runs<V>(block.weights + j * F::kRun, F::kRun, V::kLanes, weights);
                V::store(first_scales + j, positive_scale<V>(columns, weights, F::kLevels + 1, levels));
            }
        GridRun<F> runs[kRuns];
        for (int j = 0; j < kRuns; ++j)
            fit_grid_run<F, V>(grid, block.magnitudes + j * F::kRun, block.weights + j * F::kRun,
                               block.roots + j * F::kRun, block.signs + j * F::kRun / 8, first_scales[j],
                               runs[j]);
        encode::store_block<F>(runs, blocks[b]);
    }
}

template <class F, class V>
void encode_grid(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    static_assert(V::kLanes <= 8, "candidates come in chunks of eight");
    each_chunk<V, typename F::Block>(x, out, k, imatrix, encode_grid_chunk<F, V>);
}

}  // namespace
}  // namespace bq
