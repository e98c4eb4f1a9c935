// The encoders of legacy.cpp: with an imatrix one block per lane, without as in lanes_extremes.hpp.
#pragma once

#include "encode/lanes_extremes.hpp"

namespace bq {
namespace {

BQ_INLINE float mean_square(const float* x, int64_t k) {
    float sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += x[i] * x[i];
    return sum / static_cast<float>(k);
}

// One group of blocks, their weights too.
template <class S>
BQ_INLINE void load_weighted(const float* x, const float* importance, int64_t count, float mean_square,
                             Columns<S, 32>& columns, Columns<S, 32>& weights) {
    load_runs<S>(x, 32, count, columns);
    load_runs<S>(importance, 32, count, weights);
    importance_weights<S>(columns, S::splat(mean_square), weights);
}

template <class S, class V, class Block, int limit>
void encode_symmetric(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    if (!imatrix) return static_cast<void>(encode_peaks<V, Block, limit>(x, out, k));
    Block* blocks = reinterpret_cast<Block*>(out);
    const float mean = mean_square(x, k);
    for (int64_t n = 0; n < k / 32; n += S::kLanes) {
        const int64_t left = k / 32 - n, count = left < S::kLanes ? left : S::kLanes;
        Columns<S, 32> columns, weights;
        load_weighted<S>(x + 32 * n, imatrix + 32 * n, count, mean, columns, weights);
        const auto fit = symmetric_scale<S>(columns, &weights, limit, true);
        float inverse[S::kLanes];
        uint16_t scale[S::kLanes];
        S::store(inverse, fit.inverse);
        store_scales_f16<S>(scale, fit.scale);
        for (int64_t b = 0; b < count; ++b) {
            uint8_t levels[32];
            keep_symmetric<V, 32>(x + 32 * (n + b), inverse[b], limit, levels);
            blocks[n + b].d = scale[b];
            store_levels(levels, blocks[n + b]);
        }
    }
}

template <class S, class V, class Block, int top>
void encode_affine(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    if (!imatrix) return static_cast<void>(encode_ranges<V, Block, top>(x, out, k));
    constexpr AffineWalk kWalk = search::importance_walk(top);
    Block* blocks = reinterpret_cast<Block*>(out);
    const float mean = mean_square(x, k);
    for (int64_t n = 0; n < k / 32; n += S::kLanes) {
        const int64_t left = k / 32 - n, count = left < S::kLanes ? left : S::kLanes;
        Columns<S, 32> columns, weights;
        load_weighted<S>(x + 32 * n, imatrix + 32 * n, count, mean, columns, weights);
        const auto fit = affine_scale<S>(columns, weights, kWalk);
        float inverse[S::kLanes], low[S::kLanes];
        uint16_t scale[S::kLanes], offset[S::kLanes];
        S::store(inverse, fit.inverse);
        S::store(low, fit.low);
        store_scales_f16<S>(scale, fit.scale);
        store_scales_f16<S>(offset, negative<S>(fit.minimum));
        for (int64_t b = 0; b < count; ++b) {
            uint8_t levels[32];
            keep_affine<V, 32>(x + 32 * (n + b), inverse[b], low[b], kWalk, levels);
            blocks[n + b].d = scale[b];
            blocks[n + b].m = offset[b];
            store_levels(levels, blocks[n + b]);
        }
    }
}

}  // namespace
}  // namespace bq
