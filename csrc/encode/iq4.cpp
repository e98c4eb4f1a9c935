// Encoders of the formats of sixteen uneven levels: for each run the scale with the best weighted fit among
// sixteen, which put the peak at or near the lowest level. Weights are x^2, or with an imatrix the importance
// times the magnitude relative to the block's.
#include "formats/iq4.hpp"

#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {
namespace {

using namespace search;

constexpr int kRun = 32;

// The index of the nearest level; of two equally near the upper one. NaN goes to the top.
int nearest_level(float value) {
    if (value <= as_float(iq4::kLevels[0])) return 0;
    int upper = 1;  // the first level above the value
    while (upper < 15 && !(value < as_float(iq4::kLevels[upper]))) ++upper;
    const float below = value - as_float(iq4::kLevels[upper - 1]);
    const float above = as_float(iq4::kLevels[upper]) - value;
    return below < above ? upper - 1 : upper;
}

float run_scale(const float* x, const float* weights) {
    const float peak = peak_of(x, kRun);
    if (std::fabs(peak) < kZeroRun) return 0.0f;
    struct Sums {
        float x_level = 0, level_level = 0;
    };
    const auto fit = [&](float inverse) {
        Sums sums;
        for (int i = 0; i < kRun; ++i) {
            const float level = as_float(iq4::kLevels[nearest_level(inverse * x[i])]);
            sums.x_level += weights[i] * level * x[i];
            sums.level_level += weights[i] * level * level;
        }
        return sums;
    };
    const float lowest = as_float(iq4::kLevels[0]);
    const float first = -peak / lowest;  // the peak at the level of largest magnitude, but on the other side
    Sums sums = fit(1 / first);
    float scale = sums.level_level > 0 ? sums.x_level / sums.level_level : 0.0f;
    float gain = scale * sums.x_level;
    for (int shift = -7; shift <= 7; ++shift) {
        sums = fit((as_float(shift) + lowest) / peak);
        if (sums.level_level > 0 && sums.x_level * sums.x_level > gain * sums.level_level) {
            scale = sums.x_level / sums.level_level;
            gain = scale * sums.x_level;
        }
    }
    return scale;
}

void store_run(const float* x, float scale, uint8_t* qs) {
    const float inverse = scale != 0 ? 1 / scale : 0.0f;
    uint8_t levels[kRun];
    for (int i = 0; i < kRun; ++i) levels[i] = static_cast<uint8_t>(nearest_level(inverse * x[i]));
    legacy::store_nibbles(levels, qs);
}

// The weights of a run, given twice the mean square of its block.
void run_weights(const float* x, const float* imatrix, float mean_square, float* weights) {
    if (imatrix) return importance_weights(x, imatrix, mean_square, kRun, weights);
    for (int i = 0; i < kRun; ++i) weights[i] = x[i] * x[i];
}

}  // namespace

void iq4_nl(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    BlockIQ4_NL* blocks = reinterpret_cast<BlockIQ4_NL*>(out);
    for (int64_t n = 0; n < k / kRun; ++n, x += kRun) {
        float weights[kRun];
        const float mean_square = sum_of_squares(x, kRun) * (2.0f / kRun);
        run_weights(x, imatrix ? imatrix + n * kRun : nullptr, mean_square, weights);
        const float scale = run_scale(x, weights);
        blocks[n].d = scale_to_f16(scale);
        store_run(x, scale, blocks[n].qs);
    }
}

void iq4_xs(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    constexpr int kBlock = 256, kRuns = kBlock / kRun;
    BlockIQ4_XS* blocks = reinterpret_cast<BlockIQ4_XS*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        BlockIQ4_XS& b = blocks[n];
        const float mean_square = sum_of_squares(x, kBlock) * (2.0f / kBlock);
        float scales[kRuns];
        for (int j = 0; j < kRuns; ++j) {
            float weights[kRun];
            run_weights(x + j * kRun, imatrix ? imatrix + n * kBlock + j * kRun : nullptr, mean_square,
                        weights);
            scales[j] = run_scale(x + j * kRun, weights);
        }
        // The run scale of largest magnitude becomes -32 times the block's.
        const float scale = -peak_of(scales, kRuns) / 32;
        const float inverse = scale != 0 ? 1 / scale : 0.0f;
        b.d = scale_to_f16(scale);
        uint8_t stored[kRuns];
        for (int j = 0; j < kRuns; ++j) {
            const int integer = clamp(round_to_int(inverse * scales[j]), -32, 31);
            store_run(x + j * kRun, scale * as_float(integer), b.qs + 16 * j);
            stored[j] = static_cast<uint8_t>(integer + 32);
        }
        store_scales(stored, b);
    }
}

}  // namespace bq::encode
