// Encoders of the ternary formats IQ1_S and IQ1_M. With three levels the best fit can be found by trying
// everything: sorted by value, a run falls into three parts, and the sums over each come from prefix sums.
// The best split and shift win; groups that are no point of the codebook take the nearest candidate, by
// weighted distance.
#include <cmath>

#include "encode/grid_search.hpp"
#include "encode/iq1_runs.hpp"
#include "encode/row_encoders.hpp"

namespace bq::encode {
namespace {

using namespace search;

// Elements sorted by value; equal ones keep their order.
template <int kRun>
void sort_run(const float* x, int* order) {
    for (int i = 0; i < kRun; ++i) {
        int at = i;
        for (; at > 0 && x[i] < x[order[at - 1]]; --at) order[at] = order[at - 1];
        order[at] = i;
    }
}

// The best fit so far: the first `low` of the sorted elements at level 0, those up to `high` at level 1.
struct Split {
    float scale = 0, gain = -0x1.fffffep127f;
    int low = -1, high = -1;
    int shifts = 0;  // bit 0: the last half of the run is shifted down; bit 1: the first

    void try_fit(float x_level, float level_level, int low_, int high_, int shifts_) {
        if (!(level_level > 0 && x_level * x_level > gain * level_level)) return;
        scale = x_level / level_level;
        gain = scale * x_level;
        low = low_;
        high = high_;
        shifts = shifts_;
    }
};

Split best_split(const float* x, const float* weights, const int (&order)[32]) {
    float sum_x[33] = {}, sum_w[33] = {};
    for (int j = 0; j < 32; ++j) {
        const int i = order[j];
        sum_x[j + 1] = sum_x[j] + weights[i] * x[i];
        sum_w[j + 1] = sum_w[j] + weights[i];
    }
    Split best;
    for (int low = 0; low <= 32; ++low)
        for (int high = low; high <= 32; ++high)
            for (int down = 0; down < 2; ++down) {
                const float* v = shifted(down);
                best.try_fit(
                    sum_x[low] * v[0] + (sum_x[high] - sum_x[low]) * v[1] + (sum_x[32] - sum_x[high]) * v[2],
                    sum_w[low] * v[0] * v[0] + (sum_w[high] - sum_w[low]) * v[1] * v[1] +
                        (sum_w[32] - sum_w[high]) * v[2] * v[2],
                    low, high, down ? 3 : 0);
            }
    return best;
}

// Here each half has its own shift, and sums of its own. A level down is one less in value, so that the fit
// needs only the totals and what the splits cut off.
Split best_split(const float* x, const float* weights, const int (&order)[16]) {
    float sum_x[2][17] = {}, sum_w[2][17] = {};
    for (int j = 0; j < 16; ++j) {
        const int i = order[j], half = i / 8;
        sum_x[half][j + 1] = sum_x[half][j] + weights[i] * x[i];
        sum_w[half][j + 1] = sum_w[half][j] + weights[i];
        sum_x[1 - half][j + 1] = sum_x[1 - half][j];
        sum_w[1 - half][j + 1] = sum_w[1 - half][j];
    }
    Split best;
    for (int low = 0; low <= 16; ++low)
        for (int high = low; high <= 16; ++high) {
            float x_level[2][2], level_level[2][2];  // [half][down]
            for (int half = 0; half < 2; ++half)
                for (int down = 0; down < 2; ++down) {
                    const float* v = shifted(down);
                    const float first = v[0] * v[0] - v[1] * v[1], second = v[1] * v[1] - v[2] * v[2];
                    x_level[half][down] = sum_x[half][16] * v[2] - (sum_x[half][low] + sum_x[half][high]);
                    level_level[half][down] =
                        sum_w[half][16] * v[2] * v[2] + sum_w[half][low] * first + sum_w[half][high] * second;
                }
            for (int shifts = 0; shifts < 4; ++shifts)
                best.try_fit(x_level[0][shifts >> 1] + x_level[1][shifts & 1],
                             level_level[0][shifts >> 1] + level_level[1][shifts & 1], low, high, shifts);
        }
    return best;
}

GridEntry nearest_ternary(const GridNeighbours::List& list, const float* x, const float* weights, float scale,
                          const float* values) {
    GridEntry nearest = list.chunks[0].entries[0];
    float least = 0x1.fffffep127f;
    for (int c = 0; c < list.count; ++c)
        for (const GridEntry entry : list.chunks[c].entries) {
            float distance = 0;
            for (int i = 0; i < 8; ++i) {
                const float difference = scale * values[ternary_level(entry, i)] - x[i];
                distance += weights[i] * difference * difference;
            }
            if (distance < least) {
                least = distance;
                nearest = entry;
            }
        }
    return nearest;
}

template <int kRun>
TernaryRun<kRun> fit_ternary(const GridNeighbours& grid, const float* x, const float* weights, float zero) {
    TernaryRun<kRun> run{};
    const float high = std::fabs(peak_of(x, kRun));
    if (high < zero) return run;
    int order[kRun];
    sort_run<kRun>(x, order);
    const Split split = best_split(x, weights, order);
    if (split.low < 0) return run;
    uint8_t levels[kRun];
    for (int j = 0; j < kRun; ++j)
        levels[order[j]] = static_cast<uint8_t>((j >= split.low) + (j >= split.high));
    settle_ternary<kRun>(grid, x, weights, high, levels, split.scale, split.shifts, run,
                         [&](const GridNeighbours::List& list, int at, float scale, bool down) {
                             return nearest_ternary(list, x + at, weights + at, scale, shifted(down));
                         });
    return run;
}

constexpr int kBlock = 256;

// The weights of a block.
void block_weights(const float* x, const float* importance, float* weights) {
    const float mean_square = 2 * sum_of_squares(x, kBlock) / as_float(kBlock);
    if (importance) return importance_weights(x, importance, mean_square, kBlock, weights);
    for (int i = 0; i < kBlock; ++i) weights[i] = x[i] * x[i];
}

}  // namespace

void iq1_s(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    const GridNeighbours& grid = grid_neighbours(Grid::kIQ1S);
    auto* blocks = reinterpret_cast<BlockIQ1_S*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        float weights[kBlock];
        block_weights(x, imatrix ? imatrix + n * kBlock : nullptr, weights);
        TernaryRun<32> runs[8];
        for (int j = 0; j < 8; ++j)
            runs[j] = fit_ternary<32>(grid, x + 32 * j, weights + 32 * j, FormatIQ1_S::kZero);
        store_block(runs, blocks[n]);
    }
}

void iq1_m(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    const GridNeighbours& grid = grid_neighbours(Grid::kIQ1S);
    auto* blocks = reinterpret_cast<BlockIQ1_M*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        float weights[kBlock];
        block_weights(x, imatrix ? imatrix + n * kBlock : nullptr, weights);
        TernaryRun<16> runs[16];
        for (int j = 0; j < 16; ++j)
            runs[j] = fit_ternary<16>(grid, x + 16 * j, weights + 16 * j, FormatIQ1_M::kZero);
        store_block(runs, x, weights, blocks[n]);
    }
}

}  // namespace bq::encode
