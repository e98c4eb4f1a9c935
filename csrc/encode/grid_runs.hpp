// The parts of the search for a run of magnitudes and signs that the reference (grid_search.hpp) and the
// encoders in lanes (lanes_grid.hpp) share.
#pragma once

#include "encode/arithmetic.hpp"
#include "encode/grid_formats.hpp"

namespace bq::search {

using encode::ChosenAgain;
using encode::FormatIQ2_XXS;
using encode::GridEntry;
using encode::GridNeighbours;
using encode::GridRun;
using encode::kGroups;
using encode::kSpread;
using encode::level_of;
using encode::PlainWeights;
using encode::SignsStored;

// Given eight elements' signs (bit i: element i is below zero) and magnitudes, makes the number of signs
// even: if it is odd, the element whose sign matters least gets the other one, and its magnitude a minus.
static inline int make_signs_even(int signs, const float* x, const float* weights, float* magnitudes) {
    int parity = signs ^ signs >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    if ((parity & 1) == 0) return signs;
    int least = 0;
    float least_power = weights[0] * x[0] * x[0];
    for (int i = 1; i < 8; ++i) {
        const float power = weights[i] * x[i] * x[i];
        if (power < least_power) {
            least_power = power;
            least = i;
        }
    }
    magnitudes[least] = -magnitudes[least];
    return signs ^ 1 << least;
}

// The key of the levels of a group.
template <class F>
static inline int key_at(const float* x, float inverse) {
    int key = 0;
    for (int i = F::kElements - 1; i >= 0; --i)
        key = key * F::kLevels + clamp(round_to_int(0.5f * (inverse * x[i] - 1)), 0, F::kLevels - 1);
    return key;
}

struct ChosenPoint {
    GridEntry point;
    bool on_grid;
};

// The scale of the weighted least-squares fit, or `scale` if there is none.
template <class F>
static inline float fitted_scale(const ChosenPoint* chosen, const float* x, const float* weights,
                                 float scale) {
    float x_level = 0, level_level = 0;
    for (int i = 0; i < F::kRun; ++i) {
        const int level = level_of<F>(chosen[i / F::kElements].point, i % F::kElements);
        const float value = as_float(2 * level + 1);
        x_level += weights[i] * x[i] * value;
        level_level += weights[i] * value * value;
    }
    return level_level > 0 ? x_level / level_level : scale;
}

// What the run has if no attempt fits: the first point, which is all low levels.
template <class F>
static inline void begin_attempts(const GridNeighbours& grid, ChosenPoint* chosen) {
    for (int g = 0; g < kGroups<F>; ++g)
        chosen[g] = {static_cast<GridEntry>(grid.at[0]), F::kAgain == ChosenAgain::kOffGrid};
}

// What follows the attempts: the best one's scale and points become the run's, chosen again and fitted again.
// choose(g, inverse, scale) gives the point of group g.
template <class F, class Choose>
static inline void settle(const float* x, const float* weights, float high, ChosenPoint* chosen,
                          GridRun<F>& run, Choose choose) {
    bool again = F::kAgain == ChosenAgain::kAll;
    for (int g = 0; g < kGroups<F>; ++g) again |= !chosen[g].on_grid;
    if (again && run.scale > 0) {
        const float scale = run.scale;
        for (int g = 0; g < kGroups<F>; ++g)
            if (F::kAgain != ChosenAgain::kOffGrid || !chosen[g].on_grid)
                chosen[g] = choose(g, 1 / scale, scale);
        run.scale = fitted_scale<F>(chosen, x, weights, scale);
    }
    if (run.scale < 0) {
        run.scale = -run.scale;
        for (uint8_t& signs : run.signs) signs = static_cast<uint8_t>(~signs);
    }
    if (!(run.scale >= 0)) run.scale = high / kSpread<F>;
    for (int g = 0; g < kGroups<F>; ++g) run.points[g] = chosen[g].point;
}

}  // namespace bq::search
