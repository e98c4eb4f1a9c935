// Encoders of the K formats. Each run of a super-block is fitted on its own; the runs' scales (and minima)
// are then quantized against those of the super-block, and the integers chosen again for the scales as they
// are stored. With an imatrix the fits are weighted by importance, and the scales are quantized by a search
// too.
#include "formats/k_quants.hpp"

#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {
namespace {

using namespace search;

template <class Block, class EncodeBlock>
void each_super_block(const float* x, uint8_t* out, int64_t k, const float* imatrix, EncodeBlock encode) {
    Block* blocks = reinterpret_cast<Block*>(out);
    for (int64_t n = 0; n < k / kSuperBlock; ++n, x += kSuperBlock)
        encode(x, blocks[n], imatrix ? imatrix + n * kSuperBlock : nullptr);
}

// The integers of a run for the scale that is stored; a zero scale keeps what the search chose.
void choose_symmetric(const float* x, float scale, int n, int limit, uint8_t* levels) {
    if (scale == 0) return;
    for (int i = 0; i < n; ++i)
        levels[i] = static_cast<uint8_t>(clamp(round_to_int(x[i] / scale), -limit, limit - 1) + limit);
}
void choose_affine(const float* x, float scale, float minimum, int n, int top, uint8_t* levels) {
    if (scale == 0) return;
    for (int i = 0; i < n; ++i)
        levels[i] = static_cast<uint8_t>(clamp(round_to_int((x[i] + minimum) / scale), 0, top));
}

// The runs of a super-block of an affine format.
template <int runs>
struct AffineRuns {
    float scales[runs], minima[runs];
    float weights[runs];  // sum of each run's weights; with an imatrix only
    uint8_t levels[kSuperBlock];
};

template <int runs>
float largest(const float (&values)[runs]) {
    float high = 0;
    for (float v : values)
        if (v > high) high = v;
    return high;
}

void encode_q2_k(const float* x, BlockQ2_K& b, const float* importance) {
    constexpr int kRun = 16, kRuns = 16;
    AffineRuns<kRuns> fit;
    uint8_t scales[kRuns], minima[kRuns];
    float weights[kRun], d, dmin;
    if (importance) {
        const float mean_square = sum_of_squares(x, kSuperBlock) / as_float(kSuperBlock);
        for (int j = 0; j < kRuns; ++j) {
            importance_weights(x + kRun * j, importance + kRun * j, mean_square, kRun, weights);
            fit.weights[j] = sum(weights, kRun);
            fit.scales[j] = affine_scale(x + kRun * j, weights, kRun, importance_walk(3),
                                         fit.levels + kRun * j, &fit.minima[j]);
        }
        d = positive_scale(fit.scales, fit.weights, kRuns, 15, scales);
        dmin = positive_scale(fit.minima, fit.weights, kRuns, 15, minima);
    } else {
        for (int j = 0; j < kRuns; ++j) {
            for (int i = 0; i < kRun; ++i) weights[i] = std::fabs(x[kRun * j + i]);
            fit.scales[j] =
                affine_scale(x + kRun * j, weights, kRun, kWalkQ2_K, fit.levels + kRun * j, &fit.minima[j]);
        }
        const float high_scale = largest(fit.scales), high_min = largest(fit.minima);
        const float to_scale = high_scale > 0 ? 15.0f / high_scale : 0.0f;
        const float to_min = high_min > 0 ? 15.0f / high_min : 0.0f;
        for (int j = 0; j < kRuns; ++j) {
            scales[j] = high_scale > 0 ? static_cast<uint8_t>(round_to_int(to_scale * fit.scales[j])) : 0;
            minima[j] = high_min > 0 ? static_cast<uint8_t>(round_to_int(to_min * fit.minima[j])) : 0;
        }
        d = high_scale > 0 ? high_scale / 15.0f : 0.0f;
        dmin = high_min > 0 ? high_min / 15.0f : 0.0f;
    }
    b.d = scale_to_f16(d);
    b.dmin = scale_to_f16(dmin);
    for (int j = 0; j < kRuns; ++j) b.scales[j] = static_cast<uint8_t>(scales[j] | minima[j] << 4);

    float stored_scales[kRuns], stored_minima[kRuns];
    unpack_scales(b, stored_scales, stored_minima);
    for (int j = 0; j < kRuns; ++j)
        choose_affine(x + kRun * j, stored_scales[j], stored_minima[j], kRun, 3, fit.levels + kRun * j);
    store_levels(fit.levels, b);
}

void encode_q3_k(const float* x, BlockQ3_K& b, const float* importance) {
    constexpr int kRun = 16, kRuns = 16;
    uint8_t levels[kSuperBlock], scales[kRuns];
    float run_scales[kRuns], d;
    if (importance) {
        float weights[kRun], run_weights[kRuns];
        const float mean_square = 2 * sum_of_squares(x, kSuperBlock) / as_float(kSuperBlock);
        for (int j = 0; j < kRuns; ++j) {
            importance_weights(x + kRun * j, importance + kRun * j, mean_square, kRun, weights);
            run_weights[j] = sum(weights, kRun);
            run_scales[j] = symmetric_scale(x + kRun * j, weights, kRun, 4, levels + kRun * j);
        }
        d = symmetric_scale(run_scales, run_weights, kRuns, 32, scales);
    } else {
        for (int j = 0; j < kRuns; ++j)
            run_scales[j] = symmetric_scale_by_descent(x + kRun * j, kRun, 4, levels + kRun * j);
        const float peak = peak_of(run_scales, kRuns);
        if (peak != 0) {
            const float inverse = -32.0f / peak;
            for (int j = 0; j < kRuns; ++j) {
                const int scale = static_cast<int8_t>(round_to_int(inverse * run_scales[j]));
                scales[j] = static_cast<uint8_t>(clamp(scale, -32, 31) + 32);
            }
            d = 1 / inverse;
        } else {
            for (uint8_t& scale : scales) scale = 0;
            d = 0;
        }
    }
    b.d = scale_to_f16(d);
    store_q3_scales(scales, b.scales);

    float stored_scales[kRuns];
    unpack_scales(b, stored_scales, nullptr);
    for (int j = 0; j < kRuns; ++j)
        choose_symmetric(x + kRun * j, stored_scales[j], kRun, 4, levels + kRun * j);
    store_levels(levels, b);
}

// Everything of Q4_K and Q5_K but the integers' bits.
template <class Block>
void fit_eight_runs(const float* x, Block& b, const float* importance, const AffineWalk& plain_walk,
                    bool clamp_searched, uint8_t* levels) {
    constexpr int kRun = 32, kRuns = 8;
    const int top = plain_walk.top;
    AffineRuns<kRuns> fit;
    uint8_t scales[kRuns], minima[kRuns];
    float weights[kRun], d, dmin;
    if (importance) {
        const float mean_square = 2 * sum_of_squares(x, kSuperBlock) / as_float(kSuperBlock);
        for (int j = 0; j < kRuns; ++j) {
            importance_weights(x + kRun * j, importance + kRun * j, mean_square, kRun, weights);
            fit.weights[j] = sum(weights, kRun);
            fit.scales[j] = affine_scale(x + kRun * j, weights, kRun, importance_walk(top), levels + kRun * j,
                                         &fit.minima[j]);
        }
        d = positive_scale(fit.scales, fit.weights, kRuns, 63, scales);
        dmin = positive_scale(fit.minima, fit.weights, kRuns, 63, minima);
    } else {
        for (int j = 0; j < kRuns; ++j) {
            const float rms = std::sqrt(sum_of_squares(x + kRun * j, kRun) / as_float(kRun));
            for (int i = 0; i < kRun; ++i) weights[i] = rms + std::fabs(x[kRun * j + i]);
            fit.scales[j] =
                affine_scale(x + kRun * j, weights, kRun, plain_walk, levels + kRun * j, &fit.minima[j]);
        }
        const float high_scale = largest(fit.scales), high_min = largest(fit.minima);
        const float to_scale = high_scale > 0 ? 63.0f / high_scale : 0.0f;
        const float to_min = high_min > 0 ? 63.0f / high_min : 0.0f;
        for (int j = 0; j < kRuns; ++j) {
            scales[j] = static_cast<uint8_t>(round_to_int(to_scale * fit.scales[j]));
            minima[j] = static_cast<uint8_t>(round_to_int(to_min * fit.minima[j]));
        }
        d = high_scale / 63.0f;
        dmin = high_min / 63.0f;
    }
    if (!importance || clamp_searched)
        for (int j = 0; j < kRuns; ++j) {
            scales[j] = scales[j] < 63 ? scales[j] : 63;
            minima[j] = minima[j] < 63 ? minima[j] : 63;
        }
    b.d = scale_to_f16(d);
    b.dmin = scale_to_f16(dmin);
    store_q4_scales(scales, minima, b.scales);

    float stored_scales[kRuns], stored_minima[kRuns];
    unpack_scales(b, stored_scales, stored_minima);
    for (int j = 0; j < kRuns; ++j)
        choose_affine(x + kRun * j, stored_scales[j], stored_minima[j], kRun, top, levels + kRun * j);
}

void encode_q4_k(const float* x, BlockQ4_K& b, const float* importance) {
    uint8_t levels[kSuperBlock];
    fit_eight_runs(x, b, importance, kWalkQ4_K, false, levels);
    store_levels(levels, b);
}

void encode_q5_k(const float* x, BlockQ5_K& b, const float* importance) {
    uint8_t levels[kSuperBlock];
    fit_eight_runs(x, b, importance, kWalkQ5_K, true, levels);
    store_levels(levels, b);
}

void encode_q6_k(const float* x, BlockQ6_K& b, const float* importance) {
    constexpr int kRun = 16, kRuns = 16;
    uint8_t levels[kSuperBlock];
    float run_scales[kRuns];
    for (int j = 0; j < kRuns; ++j)  // here the importance is the weight itself
        run_scales[j] = symmetric_scale(x + kRun * j, importance ? importance + kRun * j : nullptr, kRun, 32,
                                        levels + kRun * j);
    const float peak = peak_of(run_scales, kRuns);
    if (std::fabs(peak) < kZeroRun) {
        b = {};
        return;
    }
    const float inverse = -128.0f / peak;
    b.d = scale_to_f16(1 / inverse);
    for (int j = 0; j < kRuns; ++j) {
        const int scale = round_to_int(inverse * run_scales[j]);
        b.scales[j] = static_cast<int8_t>(scale < 127 ? scale : 127);
    }
    float stored_scales[kRuns];
    unpack_scales(b, stored_scales, nullptr);
    for (int j = 0; j < kRuns; ++j)
        choose_symmetric(x + kRun * j, stored_scales[j], kRun, 32, levels + kRun * j);
    store_levels(levels, b);
}

}  // namespace

void q2_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_super_block<BlockQ2_K>(x, out, k, imatrix, encode_q2_k);
}

void q3_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_super_block<BlockQ3_K>(x, out, k, imatrix, encode_q3_k);
}

void q4_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_super_block<BlockQ4_K>(x, out, k, imatrix, encode_q4_k);
}

void q5_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_super_block<BlockQ5_K>(x, out, k, imatrix, encode_q5_k);
}

void q6_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_super_block<BlockQ6_K>(x, out, k, imatrix, encode_q6_k);
}

}  // namespace bq::encode
