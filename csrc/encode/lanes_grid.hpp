// The encoders of grid_search.hpp in lanes. Here a lane is an attempt at a scale: all attempts round a group
// of elements at once and look its points up, and the sums of the fits run over the elements side by side.
//
// Attempts that round to the same levels off the grid choose from the same candidates, whose distances are
// computed with a candidate in each lane, from a table of what each level of each element would add. Between
// two such attempts that choose the same point by a clear margin no other candidate can win: the difference
// of two candidates' distances, divided by the scale, is linear in the scale. So most attempts need no
// search.
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
    float margin;  // by how much a distance must be less than all others to be so at scales between
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
struct Padding {
    alignas(32) float values[16];
};
constexpr Padding padding_values() {
    Padding p{};
    for (int i = 8; i < 16; ++i) p.values[i] = __builtin_inff();
    return p;
}
static constexpr Padding kPadding = padding_values();

struct NearestCandidate {
    GridEntry point;
    bool clear;  // by the group's margin
};

// search::nearest_candidate, when the levels stand for scale * values.
template <class F, class V>
BQ_INLINE NearestCandidate nearest_candidate(const GridNeighbours::List& list, const GridGroup& group,
                                             float scale, const float* values) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    alignas(32) float table[32];
    for (int i = 0; i < 32; i += V::kLanes) {
        const Float value = V::mul(V::splat(scale), V::load(values + i));
        const Float difference = V::sub(value, V::load(group.x + i));
        V::store(table + i, V::mul(V::mul(V::load(group.roots + i), difference), difference));
    }
    constexpr float kMost = 0x1.fffffep127f;
    const auto* entries = reinterpret_cast<const int32_t*>(list.chunks[0].entries);
    Float least = V::splat(kMost), next = least;
    Int nearest = V::splat_int(entries[0]);
    const auto consider = [&](int at, auto last) BQ_INLINE_LAMBDA {
        const Int candidates = V::load_int(entries + at);
        Float distance = lookup_level<F, V>(table, candidates);
        unroll<F::kElements - 1>([&](auto before) BQ_INLINE_LAMBDA {
            constexpr int i = before + 1;
            distance =
                V::add(distance, lookup_level<F, V>(table + i * kTableLevels<F>,
                                                    V::template shift_right<F::kLevelBits * i>(candidates)));
        });
        if (last) distance = V::add(distance, V::load(kPadding.values + list.padding + at % 8));
        const auto better = V::less(distance, least);
        next = V::min(V::max(distance, least), next);
        least = V::min(distance, least);
        nearest = V::select(better, candidates, nearest);
    };
    const int last = 8 * (list.count - 1);
    for (int at = 0; at < last; at += V::kLanes) consider(at, Index<0>{});
    for (int at = last; at < last + 8; at += V::kLanes) consider(at, Index<1>{});

    const float distance = V::min_across(least);
    const auto winner = V::equal(least, V::splat(distance));
    const uint32_t lanes = V::mask_bits(winner);
    alignas(32) int32_t points[V::kLanes];
    V::store_int(points, nearest);
    if ((lanes & (lanes - 1)) == 0) {
        const float others = V::min_across(V::select(winner, next, least));
        return {static_cast<GridEntry>(points[__builtin_ctz(lanes)]), others - distance > group.margin};
    }
    // Equally near: the first of the list.
    for (int at = 0;; ++at)
        for (int l = 0; l < V::kLanes; ++l)
            if ((lanes >> l & 1) && points[l] == entries[at])
                return {static_cast<GridEntry>(entries[at]), false};
}

// The points of a group for all attempts. on_grid: a bit for each.
template <class F, class V>
BQ_INLINE uint32_t choose_points(const GridNeighbours& grid, const float* x, const float* roots,
                                 const float* inverses, const float* scales, bool bounded, int32_t* points) {
    using Int = typename V::Int;
    constexpr int kLanes = kAttemptLanes<F>;
    // Keys by Horner's rule, with levels still offset by what round_to_int subtracts.
    constexpr int kOffset = 0x400000;
    alignas(32) int32_t codes[kLanes + 1];
    uint32_t on_grid = 0, changes = 0;
    codes[0] = 0;
    for (int at = 0; at < kLanes; at += V::kLanes) {
        const auto inverse = V::load(inverses + at);
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
        if (F::kLevels == 8) {
            key = V::bit_and(key, V::splat_int(0xfff));
        } else {
            constexpr uint32_t kOffsets = kOffset * 3280u;  // times the sum of the powers of three
            key = V::sub(key, V::splat_int(static_cast<int32_t>(kOffsets)));
        }
        V::store_int(codes + 1 + at, V::gather(grid.at, key));
    }
    for (int at = 0; at < kLanes; at += V::kLanes) {
        const Int code = V::load_int(codes + 1 + at);
        V::store_int(points + at, code);
        on_grid |= V::mask_bits(V::less(V::splat_int(-1), code)) << at;
        changes |= V::mask_bits(V::equal(code, V::load_int(codes + at))) << at;
    }
    constexpr uint32_t kAll = static_cast<uint32_t>((uint64_t{1} << kGridAttempts<F>)-1);
    on_grid &= kAll;
    if (on_grid == kAll) return on_grid;
    changes = (~changes | 1) & kAll;  // where a code differs from the one before

    GridGroup group;
    spread_group<F, V>(x, roots, group);
    group.margin = __builtin_inff();
    if (bounded) {
        // Distances are off by less than 15 * 2^-24 of the sum over all elements of
        // root * (scale * value + x)^2; this is more than a hundred times 2^-24 of it.
        float bound = 0;
        for (int i = 0; i < F::kElements; ++i) {
            const float reach = kSpread<F> * scales[0] + __builtin_fabsf(x[i]);
            bound += roots[i] * reach * reach;
        }
        if (bound > 1e-30f && bound < 1e38f) group.margin = bound * 0x1p-17f;
    }
    for (uint32_t left = changes; left != 0;) {
        const int first = __builtin_ctz(left);
        left &= left - 1;
        if (on_grid >> first & 1) continue;
        const int end = left != 0 ? __builtin_ctz(left) : kGridAttempts<F>;
        const auto list = encode::candidates(grid, codes[1 + first]);
        // Attempts from low to high whose ends are known; those between are filled, or halved.
        struct Span {
            int low, high;
        } pending[8];
        NearestCandidate known[kLanes];
        const auto find = [&](int a) {
            known[a] = nearest_candidate<F, V>(list, group, scales[a], kTableIndices<F>.value);
            points[a] = static_cast<int32_t>(known[a].point);
        };
        int depth = 0;
        find(first);
        if (end - first > 1) {
            find(end - 1);
            pending[depth++] = {first, end - 1};
        }
        while (depth > 0) {
            const Span span = pending[--depth];
            if (span.high - span.low < 2) continue;
            const NearestCandidate &low = known[span.low], &high = known[span.high];
            if (low.point == high.point && low.clear && high.clear) {
                for (int a = span.low + 1; a < span.high; ++a) points[a] = static_cast<int32_t>(low.point);
                continue;
            }
            const int middle = (span.low + span.high) / 2;
            find(middle);
            pending[depth++] = {middle, span.high};
            pending[depth++] = {span.low, middle};
        }
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
    group.margin = 0;
    return {
        nearest_candidate<F, V>(encode::candidates(grid, code), group, scale, kTableIndices<F>.value).point,
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
    alignas(32) float inverses[kLanes], scales[kLanes], x_level[kLanes], level_level[kLanes];
    for (int at = 0; at < kLanes; at += V::kLanes) {
        const auto inverse = V::div(V::load(kAttemptSpreads<F>.values + at), V::splat(peak));
        V::store(inverses + at, inverse);
        V::store(scales + at, V::div(V::splat(1), inverse));
    }
    const bool bounded = scales[0] < 1e17f && high < 1e17f;
    alignas(32) int32_t points[kGroups<F>][kLanes];
    uint32_t on_grid[kGroups<F>];
    for (int g = 0; g < kGroups<F>; ++g)
        on_grid[g] = choose_points<F, V>(grid, x + g * F::kElements, roots + g * F::kElements, inverses,
                                         scales, bounded, points[g]);
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
