// The search for a run of the formats of grid_formats.hpp: the reference. As in search.hpp the order of every
// operation is ggml's.
//
// Magnitudes are fitted by scale * (2 * level + 1). Each attempt at a scale rounds a group of elements to
// levels; where the codebook has no such point, the nearest one of the candidates is taken, by a distance
// weighted with the square roots of the elements' weights. The attempt with the best weighted fit wins, its
// points may be chosen again for the scale of that fit, and a last fit gives the scale.
//
// ggml stops the program where a distance or a fit overflows (values of about 1e12 and more). Here the first
// candidate is then taken, and a scale that is no number is replaced by the one that the peak alone suggests.
#pragma once

#include <cmath>

#include "encode/grid_runs.hpp"
#include "encode/search.hpp"

namespace bq::search {

// Magnitudes and signs (bit i: element i is below zero) of eight elements.
static inline int split_signs(const float* x, float* magnitudes) {
    int signs = 0;
    for (int i = 0; i < 8; ++i) {
        const bool negative = !(x[i] >= 0);
        magnitudes[i] = negative ? -x[i] : x[i];
        signs |= static_cast<int>(negative) << i;
    }
    return signs;
}

static inline float largest_of(const float* x, int n) {
    float high = x[0];
    for (int i = 1; i < n; ++i) high = high > x[i] ? high : x[i];
    return high;
}

// The candidate that is nearest to x when levels stand for scale * (2 * level + 1).
template <class F>
static inline GridEntry nearest_candidate(const GridNeighbours::List& list, const float* x,
                                          const float* weights, float scale) {
    GridEntry nearest = list.chunks[0].entries[0];
    float least = 0x1.fffffep127f;
    for (int c = 0; c < list.count; ++c)
        for (const GridEntry entry : list.chunks[c].entries) {
            float distance = 0;
            for (int i = 0; i < F::kElements; ++i) {
                const float difference = scale * as_float(2 * level_of<F>(entry, i) + 1) - x[i];
                distance += weights[i] * difference * difference;
            }
            if (distance < least) {
                least = distance;
                nearest = entry;
            }
        }
    return nearest;
}

template <class F>
static inline ChosenPoint choose_point(const GridNeighbours& grid, const float* x, const float* roots,
                                       float inverse, float scale) {
    const int32_t code = grid.at[key_at<F>(x, inverse)];
    if (code >= 0) return {static_cast<GridEntry>(code), true};
    return {nearest_candidate<F>(encode::candidates(grid, code), x, roots, scale), false};
}

// The weights of a run, given the mean square of its block.
template <class F>
static inline void run_weights(const float* x, const float* importance, float mean_square, float* weights) {
    if (importance) return importance_weights(x, importance, mean_square, F::kRun, weights);
    const float mean = F::kPlain == PlainWeights::kSquaresAndMean ? 0.25f * mean_square : 0.0f;
    for (int i = 0; i < F::kRun; ++i) {
        weights[i] = x[i] * x[i];
        if (F::kPlain == PlainWeights::kSquaresAndMean) weights[i] = mean + weights[i];
    }
}

template <class F>
static inline GridRun<F> fit_run(const GridNeighbours& grid, const float* x, const float* weights) {
    GridRun<F> run{};
    float magnitudes[F::kRun], roots[F::kRun];
    for (int i = 0; i < F::kRun; ++i) roots[i] = std::sqrt(weights[i]);
    for (int i = 0; i < F::kRun / 8; ++i) {
        int signs = split_signs(x + 8 * i, magnitudes + 8 * i);
        if (F::kSigns == SignsStored::kSevenOfEight)
            signs = make_signs_even(signs, x + 8 * i, weights + 8 * i, magnitudes + 8 * i);
        run.signs[i] = static_cast<uint8_t>(signs);
    }
    const float high = largest_of(magnitudes, F::kRun);
    float peak = high;
    run.scale = high / kSpread<F>;
    if (!(high < F::kZero) && F::kScaleFirst) {
        uint8_t levels[F::kRun];  // one more than the grid's
        run.scale = positive_scale(magnitudes, weights, F::kRun, F::kLevels + 1, levels);
        peak = run.scale * F::kLevels;
    }
    if (high < F::kZero || peak <= 0) {
        run = {};
        run.empty = true;
        return run;
    }
    ChosenPoint best[kGroups<F>], chosen[kGroups<F>];
    begin_attempts<F>(grid, best);
    float gain = 0;
    for (int t = -F::kAttempts; t <= F::kAttempts; ++t) {
        const float inverse = (kSpread<F> + as_float(t) * F::kStep) / peak;
        for (int g = 0; g < kGroups<F>; ++g)
            chosen[g] = choose_point<F>(grid, magnitudes + g * F::kElements, roots + g * F::kElements,
                                        inverse, 1 / inverse);
        Fit fit;
        for (int i = 0; i < F::kRun; ++i) {
            const int level = level_of<F>(chosen[i / F::kElements].point, i % F::kElements);
            fit.add(weights[i], magnitudes[i], 2 * level + 1);
        }
        if (fit.level_level > 0 && fit.x_level * fit.x_level > gain * fit.level_level) {
            run.scale = fit.x_level / fit.level_level;
            gain = run.scale * fit.x_level;
            for (int g = 0; g < kGroups<F>; ++g) best[g] = chosen[g];
        }
    }
    settle<F>(magnitudes, weights, high, best, run, [&](int g, float inverse, float scale) {
        const int at = g * F::kElements;
        return choose_point<F>(grid, magnitudes + at, roots + at, inverse, scale);
    });
    return run;
}

template <class F>
static inline void encode_grid_row(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    constexpr int kBlock = 256, kRuns = kBlock / F::kRun;
    const GridNeighbours& grid = encode::grid_neighbours(F::kGrid);
    auto* blocks = reinterpret_cast<typename F::Block*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        const float mean_square = F::kMeanSquares * sum_of_squares(x, kBlock) / as_float(kBlock);
        GridRun<F> runs[kRuns];
        for (int j = 0; j < kRuns; ++j) {
            float weights[F::kRun];
            const float* of_run = x + j * F::kRun;
            run_weights<F>(of_run, imatrix ? imatrix + n * kBlock + j * F::kRun : nullptr, mean_square,
                           weights);
            runs[j] = fit_run<F>(grid, of_run, weights);
        }
        encode::store_block<F>(runs, blocks[n]);
    }
}

}  // namespace bq::search
