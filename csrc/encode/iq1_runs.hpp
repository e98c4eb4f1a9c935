// What the reference and the vectorised encoders of IQ1_S and IQ1_M share: what levels stand for, and how
// fitted runs go into the block.
#pragma once

#include <cstdint>

#include "encode/arithmetic.hpp"
#include "encode/grid_neighbours.hpp"
#include "formats/iq_grids.hpp"

namespace bq::encode {

// Levels 0, 1, 2 stand for -1, 0, 1 and a shift of all by an eighth to either side.
static constexpr float kShiftedUp[3] = {-0.875f, 0.125f, 1.125f},
                       kShiftedDown[3] = {-1.125f, -0.125f, 0.875f};
static inline const float* shifted(bool down) {
    return down ? kShiftedDown : kShiftedUp;
}
static inline int ternary_level(GridEntry point, int element) {
    return static_cast<int>(point >> 2 * element & 3);
}

// A run of IQ1_S (32 elements, one shift) or IQ1_M (16 elements, a shift for each eight). All zero: a run of
// zeros, or without weights.
template <int kRun>
struct TernaryRun {
    float scale;
    GridEntry points[kRun / 8];
    bool down[kRun / 8];  // the shift
};

struct FormatIQ1_S {
    using Block = BlockIQ1_S;
    static constexpr int kRun = 32, kShifts = 1;
    static constexpr float kZero = 1e-12f;
};
struct FormatIQ1_M {
    using Block = BlockIQ1_M;
    static constexpr int kRun = 16, kShifts = 2;
    static constexpr float kZero = 1e-7f;
};

// What follows the best split, which gave each element its level. nearest(list, at, scale, down) chooses
// among the candidates for the group at element `at`. high: the largest magnitude.
template <int kRun, class Nearest>
static inline void settle_ternary(const GridNeighbours& grid, const float* x, const float* weights,
                                  float high, const uint8_t* levels, float scale, int shifts,
                                  TernaryRun<kRun>& run, Nearest nearest) {
    const bool mirrored = scale < 0;
    run.scale = mirrored ? -scale : scale;
    bool on_grid = true;
    for (int g = 0; g < kRun / 8; ++g) {
        run.down[g] = (shifts >> (g < kRun / 16 ? 1 : 0) & 1) != static_cast<int>(mirrored);
        int key = 0;
        for (int i = 7; i >= 0; --i) key = 3 * key + levels[8 * g + i];
        if (mirrored) key = 3 * 3 * 3 * 3 * 3 * 3 * 3 * 3 - 1 - key;  // all levels 2 - level
        const int32_t code = grid.at[key];
        on_grid = on_grid && code >= 0;
        run.points[g] = code >= 0 ? static_cast<GridEntry>(code)
                                  : nearest(candidates(grid, code), 8 * g, run.scale, run.down[g]);
    }
    if (!on_grid) {
        float x_level = 0, level_level = 0;
        for (int i = 0; i < kRun; ++i) {
            const float q = shifted(run.down[i / 8])[ternary_level(run.points[i / 8], i % 8)];
            x_level += weights[i] * q * x[i];
            level_level += weights[i] * q * q;
        }
        if (x_level > 0 && level_level > 0) run.scale = x_level / level_level;
    }
    if (!(run.scale >= 0)) run.scale = high;  // where sums overflow, and ggml stops
}

static inline int ternary_scale(float scale, float inverse) {
    return search::clamp(search::round_to_int(0.5f * (inverse * scale - 1)), 0, 7);
}

static inline void store_block(const TernaryRun<32>* runs, BlockIQ1_S& b) {
    b = {};
    float largest = 0;
    for (int j = 0; j < 8; ++j) {
        int high = 0;
        for (int g = 0; g < 4; ++g) {
            const int index = entry_index(runs[j].points[g]);
            b.qs[4 * j + g] = static_cast<uint8_t>(index);
            high |= index >> 8 << 3 * g;
        }
        b.qh[j] = static_cast<uint16_t>(high);
        largest = largest > runs[j].scale ? largest : runs[j].scale;
    }
    if (largest == 0) return;
    const float d = largest / 15;
    b.d = search::scale_to_f16(d * 1.125f);
    const float inverse = 1 / d;
    for (int j = 0; j < 8; ++j) {
        const int scale = ternary_scale(runs[j].scale, inverse) | static_cast<int>(runs[j].down[0]) << 3;
        b.qh[j] = static_cast<uint16_t>(b.qh[j] | scale << 12);
    }
}

// weights: of all 256 elements. With the runs' scales as they are stored, the block's is fitted once more.
static inline void store_block(const TernaryRun<16>* runs, const float* x, const float* weights,
                               BlockIQ1_M& b) {
    b = {};
    float largest = 0;
    for (int j = 0; j < 16; ++j) {
        const int first = entry_index(runs[j].points[0]), second = entry_index(runs[j].points[1]);
        b.qs[2 * j] = static_cast<uint8_t>(first);
        b.qs[2 * j + 1] = static_cast<uint8_t>(second);
        b.qh[j] = static_cast<uint8_t>(first >> 8 | second >> 8 << 4);
        largest = largest > runs[j].scale ? largest : runs[j].scale;
    }
    if (largest == 0) return;
    float d = largest / 15;
    const float inverse = 1 / d;
    uint16_t words[4] = {};
    float x_level = 0, level_level = 0;
    for (int j = 0; j < 16; ++j) {
        const int scale = ternary_scale(runs[j].scale, inverse);
        words[j / 4] = static_cast<uint16_t>(words[j / 4] | scale << 3 * (j % 4));
        for (int g = 0; g < 2; ++g) {
            const float* values = shifted(runs[j].down[g]);
            b.qh[j] = static_cast<uint8_t>(b.qh[j] | (runs[j].down[g] ? 8 << 4 * g : 0));
            for (int i = 0; i < 8; ++i) {
                const int at = 16 * j + 8 * g + i;
                const float q = values[ternary_level(runs[j].points[g], i)] * search::as_float(2 * scale + 1);
                x_level += weights[at] * q * x[at];
                level_level += weights[at] * q * q;
            }
        }
    }
    if (level_level > 0) d = x_level / level_level;
    const int half = search::scale_to_f16(d * 1.1125f);
    for (int i = 0; i < 4; ++i) b.scales[i] = static_cast<uint16_t>(words[i] | (half >> 4 * i & 15) << 12);
}

}  // namespace bq::encode
