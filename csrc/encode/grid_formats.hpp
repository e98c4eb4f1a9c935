// What differs between the formats that store magnitudes as points of a grid, and signs apart (IQ2_*, IQ3_*),
// and how a run that was fitted goes into the block. Shared by the reference and the vectorised encoders.
#pragma once

#include <cstdint>

#include "encode/arithmetic.hpp"
#include "encode/grid_neighbours.hpp"
#include "encode/walks.hpp"
#include "formats/iq_grids.hpp"

namespace bq::encode {

enum class SignsStored {
    kAll,
    kSevenOfEight,  // the number of minus signs among eight is even: the sign that matters least may be wrong
};
enum class PlainWeights { kNone, kSquares, kSquaresAndMean };
// Which points of a run are chosen again for the scale that the attempts led to.
enum class ChosenAgain { kAll, kOffGrid, kAllIfAnyOffGrid };

struct OfThreeLevels {
    static constexpr int kElements = 8, kLevels = 3, kLevelBits = 2;
};
struct OfEightLevels {
    static constexpr int kElements = 4, kLevels = 8, kLevelBits = 3;
};

// Attempts put the peak of a run at kSpread + t * kStep, t = -kAttempts .. kAttempts, where kSpread is the
// largest of the odd integers 1, 3, .. that levels stand for.
struct FormatIQ2_XXS : OfThreeLevels {
    using Block = BlockIQ2_XXS;
    static constexpr Grid kGrid = Grid::kIQ2XXS;
    static constexpr int kRun = 32, kAttempts = 6;
    static constexpr float kStep = 0.1f, kZero = search::kZeroRun, kMeanSquares = 1;
    static constexpr auto kSigns = SignsStored::kSevenOfEight;
    static constexpr auto kPlain = PlainWeights::kNone;
    static constexpr auto kAgain = ChosenAgain::kAll;
    static constexpr bool kScaleFirst = true;  // the peak is that of a search for a scale, not the data's
    static constexpr float kStretch = 1;       // of the stored scale
    static constexpr bool kClearUnscaled = true;
};
struct FormatIQ2_XS : OfThreeLevels {
    using Block = BlockIQ2_XS;
    static constexpr Grid kGrid = Grid::kIQ2XS;
    static constexpr int kRun = 16, kAttempts = 9;
    static constexpr float kStep = 0.1f, kZero = search::kZeroRun, kMeanSquares = 1;
    static constexpr auto kSigns = SignsStored::kSevenOfEight;
    static constexpr auto kPlain = PlainWeights::kNone;
    static constexpr auto kAgain = ChosenAgain::kOffGrid;
    static constexpr bool kScaleFirst = false;
    static constexpr float kStretch = 1;
    static constexpr bool kClearUnscaled = true;
};
struct FormatIQ2_S : OfThreeLevels {
    using Block = BlockIQ2_S;
    static constexpr Grid kGrid = Grid::kIQ2S;
    static constexpr int kRun = 16, kAttempts = 9;
    static constexpr float kStep = 0.1f, kZero = 1e-8f, kMeanSquares = 2;
    static constexpr auto kSigns = SignsStored::kAll;
    static constexpr auto kPlain = PlainWeights::kSquaresAndMean;
    static constexpr auto kAgain = ChosenAgain::kOffGrid;
    static constexpr bool kScaleFirst = false;
    static constexpr float kStretch = 0.9875f;
    static constexpr bool kClearUnscaled = false;
};
struct FormatIQ3_XXS : OfEightLevels {
    using Block = BlockIQ3_XXS;
    static constexpr Grid kGrid = Grid::kIQ3XXS;
    static constexpr int kRun = 32, kAttempts = 15;
    static constexpr float kStep = 0.2f, kZero = 1e-8f, kMeanSquares = 2;
    static constexpr auto kSigns = SignsStored::kSevenOfEight;
    static constexpr auto kPlain = PlainWeights::kSquares;
    static constexpr auto kAgain = ChosenAgain::kOffGrid;
    static constexpr bool kScaleFirst = false;
    static constexpr float kStretch = 1.0125f;
    static constexpr bool kClearUnscaled = true;
};
struct FormatIQ3_S : OfEightLevels {
    using Block = BlockIQ3_S;
    static constexpr Grid kGrid = Grid::kIQ3S;
    static constexpr int kRun = 32, kAttempts = 9;
    static constexpr float kStep = 0.2f, kZero = 0x1p-149f, kMeanSquares = 2;
    static constexpr auto kSigns = SignsStored::kAll;
    static constexpr auto kPlain = PlainWeights::kSquares;
    static constexpr auto kAgain = ChosenAgain::kAllIfAnyOffGrid;
    static constexpr bool kScaleFirst = false;
    static constexpr float kStretch = 1.033f;
    static constexpr bool kClearUnscaled = false;
};

template <class F>
static constexpr float kSpread = 2 * F::kLevels - 1;
template <class F>
static constexpr int kGroups = F::kRun / F::kElements;

// A fitted run: its scale, the point of each group, and the signs of each eight elements.
template <class F>
struct GridRun {
    bool empty;  // a run of zeros, in which everything else is zero too
    float scale;
    GridEntry points[kGroups<F>];
    uint8_t signs[F::kRun / 8];
};

template <class F>
static inline int level_of(GridEntry point, int element) {
    return static_cast<int>(point >> F::kLevelBits * element & ((1u << F::kLevelBits) - 1));
}

static inline uint32_t seven_signs_each(const uint8_t (&signs)[4]) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(signs[i] & 127) << 7 * i;
    return bits;
}

static inline void store_run(BlockIQ2_XXS& b, int j, const GridRun<FormatIQ2_XXS>& run) {
    for (int g = 0; g < 4; ++g) b.runs[j].qs[g] = static_cast<uint8_t>(entry_index(run.points[g]));
    b.runs[j].signs_scale = seven_signs_each(run.signs);
}

static inline void store_run(BlockIQ2_XS& b, int j, const GridRun<FormatIQ2_XS>& run) {
    for (int g = 0; g < 2; ++g)
        b.qs[2 * j + g] = static_cast<uint16_t>(entry_index(run.points[g]) | (run.signs[g] & 127) << 9);
}

static inline void store_run(BlockIQ2_S& b, int j, const GridRun<FormatIQ2_S>& run) {
    for (int g = 0; g < 2; ++g) {
        const int index = entry_index(run.points[g]), at = 2 * j + g;
        b.qs[at] = static_cast<uint8_t>(index);
        b.qh[at / 4] = static_cast<uint8_t>(b.qh[at / 4] | index >> 8 << 2 * (at % 4));
        b.signs[at] = run.signs[g];
    }
}

static inline void store_run(BlockIQ3_XXS& b, int j, const GridRun<FormatIQ3_XXS>& run) {
    for (int g = 0; g < 8; ++g) b.qs[8 * j + g] = static_cast<uint8_t>(entry_index(run.points[g]));
    b.signs_scale[j] = seven_signs_each(run.signs);
}

// In ggml a run of zeros takes no room: those after it are written one place further to the front (but for
// the indices' high bits and the scales), and decode wrongly. `place` counts the runs that are not zero.
static inline void store_run(BlockIQ3_S& b, int j, int place, const GridRun<FormatIQ3_S>& run) {
    int high = 0;
    for (int g = 0; g < 8; ++g) {
        const int index = entry_index(run.points[g]);
        b.qs[8 * place + g] = static_cast<uint8_t>(index);
        high |= index >> 8 << g;
    }
    b.qh[j] = static_cast<uint8_t>(high);
    for (int g = 0; g < 4; ++g) b.signs[4 * place + g] = run.signs[g];
}

static inline void store_scale(BlockIQ2_XXS& b, int j, int scale) {
    b.runs[j].signs_scale |= static_cast<uint32_t>(scale) << 28;
}
static inline void store_scale(BlockIQ3_XXS& b, int j, int scale) {
    b.signs_scale[j] |= static_cast<uint32_t>(scale) << 28;
}
template <class Block>
static inline void store_scale(Block& b, int j, int scale) {
    b.scales[j / 2] = static_cast<uint8_t>(b.scales[j / 2] | scale << 4 * (j % 2));
}

// All of a block, given its runs: their scales become odd multiples of a 31st of the largest.
template <class F>
static inline void store_block(const GridRun<F> (&runs)[256 / F::kRun], typename F::Block& b) {
    b = {};
    float largest = 0;
    [[maybe_unused]] int place = 0;
    for (int j = 0; j < 256 / F::kRun; ++j) {
        largest = largest > runs[j].scale ? largest : runs[j].scale;
        if (runs[j].empty) continue;
        if constexpr (F::kGrid == Grid::kIQ3S)
            store_run(b, j, place++, runs[j]);
        else
            store_run(b, j, runs[j]);
    }
    if (largest == 0) {
        if (F::kClearUnscaled) b = {};
        return;
    }
    const float d = largest / 31;
    b.d = search::scale_to_f16(d * F::kStretch);
    const float inverse = 1 / d;
    for (int j = 0; j < 256 / F::kRun; ++j)
        store_scale(b, j, search::clamp(search::round_to_int(0.5f * (inverse * runs[j].scale - 1)), 0, 15));
}

}  // namespace bq::encode
