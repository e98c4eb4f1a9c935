// The encoders of k_quants.cpp in lanes: the runs of a chunk of super-blocks are searched one per lane, then
// the chunk's super-blocks get their scales one per lane, then each super-block its integers, in element
// order.
#pragma once

#include "encode/lanes_scales.hpp"
#include "formats/k_quants.hpp"

namespace bq {
namespace {

// A chunk has as many super-blocks as the vocabulary V has lanes; the searches run in S, which may be wider.
template <class V, int runs>
struct RunFits {
    alignas(64) float scale[runs * V::kLanes];
    alignas(64) float minimum[runs * V::kLanes];
    alignas(64) float inverse[runs * V::kLanes];
    alignas(64) float low[runs * V::kLanes];
    alignas(64) float weight[runs * V::kLanes];  // the sum of the run's weights
};

// The integers of a run for the scale that is stored.
template <class V, int n>
BQ_INLINE void choose_symmetric(const float* x, float scale, int limit, uint8_t* levels) {
    fill_levels<V, n>(levels, [&](int i) BQ_INLINE_LAMBDA {
        const auto value = V::div(V::load(x + i), V::splat(scale));
        return V::add(clamp<V>(round_to_int<V>(value), -limit, limit - 1), V::splat_int(limit));
    });
}
template <class V, int n>
BQ_INLINE void choose_affine(const float* x, float scale, float minimum, int top, uint8_t* levels) {
    fill_levels<V, n>(levels, [&](int i) BQ_INLINE_LAMBDA {
        const auto value = V::div(V::add(V::load(x + i), V::splat(minimum)), V::splat(scale));
        return clamp<V>(round_to_int<V>(value), 0, top);
    });
}

template <class Block>
struct AffineFormat;
template <>
struct AffineFormat<BlockQ2_K> {
    static constexpr int kRun = 16, kTop = 3, kTopScale = 15;
    static constexpr AffineWalk kWalk = search::kWalkQ2_K;
    static constexpr bool kClampSpread = false, kClampSearched = false;
};
template <>
struct AffineFormat<BlockQ4_K> {
    static constexpr int kRun = 32, kTop = 15, kTopScale = 63;
    static constexpr AffineWalk kWalk = search::kWalkQ4_K;
    static constexpr bool kClampSpread = true, kClampSearched = false;
};
template <>
struct AffineFormat<BlockQ5_K> {
    static constexpr int kRun = 32, kTop = 31, kTopScale = 63;
    static constexpr AffineWalk kWalk = search::kWalkQ5_K;
    static constexpr bool kClampSpread = true, kClampSearched = true;
};

BQ_INLINE void pack_scales(const uint8_t* scales, const uint8_t* minima, BlockQ2_K& b) {
    for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(scales[j] | minima[j] << 4);
}
template <class Block>
BQ_INLINE void pack_scales(const uint8_t* scales, const uint8_t* minima, Block& b) {
    store_q4_scales(scales, minima, b.scales);
}

// How much an error counts without an imatrix.
template <class S>
BQ_INLINE void plain_weights(const Columns<S, 16>& x, Columns<S, 16>& weights) {
    for (int i = 0; i < 16; ++i) S::store(weights.values + i * S::kLanes, S::abs(column<S>(x, i)));
}
template <class S>
BQ_INLINE void plain_weights(const Columns<S, 32>& x, Columns<S, 32>& weights) {
    const auto rms = S::sqrt(S::div(sum_of_squares<S>(x), S::splat(32)));
    for (int i = 0; i < 32; ++i)
        S::store(weights.values + i * S::kLanes, S::add(rms, S::abs(column<S>(x, i))));
}

template <class S, class V, class Block, bool weighted>
BQ_INLINE void search_affine_runs(const float* x, int64_t count, const float* importance,
                                  RunFits<V, kSuperBlock / AffineFormat<Block>::kRun>& fits) {
    using Format = AffineFormat<Block>;
    constexpr int kRun = Format::kRun, kRuns = kSuperBlock / kRun;
    alignas(64) float mean_square[kRuns * V::kLanes];
    if constexpr (weighted) {
        auto sum = squares_of_super_blocks<V>(x, count);
        if (kRun == 32) sum = V::mul(V::splat(2), sum);
        spread_over_runs<V, kRuns>(V::div(sum, V::splat(kSuperBlock)), mean_square);
    }
    for (int64_t r = 0; r < count * kRuns; r += S::kLanes) {
        const int64_t left = count * kRuns - r;
        Columns<S, kRun> columns, weights;
        load_runs<S>(x + r * kRun, kRun, left, columns);
        if constexpr (weighted) {
            load_runs<S>(importance + r * kRun, kRun, left, weights);
            importance_weights<S>(columns, S::load(mean_square + r), weights);
            S::store(fits.weight + r, sum_of<S>(weights));
        } else {
            plain_weights<S>(columns, weights);
        }
        const auto fit = affine_scale<S>(columns, weights,
                                         weighted ? search::importance_walk(Format::kTop) : Format::kWalk);
        S::store(fits.scale + r, fit.scale);
        S::store(fits.minimum + r, fit.minimum);
        S::store(fits.inverse + r, fit.inverse);
        S::store(fits.low + r, fit.low);
    }
}

template <class S, class V, class Block, bool weighted>
void encode_affine_chunk(const float* x, Block* blocks, int64_t count, const float* importance) {
    using Format = AffineFormat<Block>;
    constexpr int kRun = Format::kRun, kRuns = kSuperBlock / kRun;
    constexpr AffineWalk kWalk = weighted ? search::importance_walk(Format::kTop) : Format::kWalk;
    RunFits<V, kRuns> fits;
    search_affine_runs<S, V, Block, weighted>(x, count, importance, fits);

    StoredScales<V, kRuns> stored_scales, stored_minima;
    {
        Columns<V, kRuns> scales, minima, weights;
        load_runs<V>(fits.scale, kRuns, count, scales);
        load_runs<V>(fits.minimum, kRuns, count, minima);
        if constexpr (weighted) {
            load_runs<V>(fits.weight, kRuns, count, weights);
            positive_scale<V>(scales, weights, Format::kTopScale, stored_scales);
            positive_scale<V>(minima, weights, Format::kTopScale, stored_minima);
        } else {
            spread_scales<V>(scales, Format::kTopScale, stored_scales);
            spread_scales<V>(minima, Format::kTopScale, stored_minima);
        }
    }
    for (int64_t b = 0; b < count; ++b, x += kSuperBlock) {
        uint8_t integers[2][kRuns];
        read_column(stored_scales, static_cast<int>(b), integers[0]);
        read_column(stored_minima, static_cast<int>(b), integers[1]);
        if (weighted ? Format::kClampSearched : Format::kClampSpread)
            for (auto& row : integers)
                for (uint8_t& integer : row) integer = integer < 63 ? integer : 63;
        blocks[b].d = stored_scales.d[b];
        blocks[b].dmin = stored_minima.d[b];
        pack_scales(integers[0], integers[1], blocks[b]);
        float scales[kRuns], minima[kRuns];
        unpack_scales(blocks[b], scales, minima);
        uint8_t levels[kSuperBlock];
        for (int j = 0; j < kRuns; ++j) {
            const int64_t r = b * kRuns + j;
            if (scales[j] != 0) {
                choose_affine<V, kRun>(x + kRun * j, scales[j], minima[j], Format::kTop, levels + kRun * j);
            } else {
                keep_affine<V, kRun>(x + kRun * j, fits.inverse[r], fits.low[r], kWalk, levels + kRun * j);
            }
        }
        store_levels(levels, blocks[b]);
    }
}

// Q3_K has runs of 16 with integers -4 to 3.
constexpr int kQ3Limit = 4;

template <class S, class V>
BQ_INLINE void search_q3_runs(const float* x, int64_t count, const float* importance, RunFits<V, 16>& fits) {
    alignas(64) float mean_square[16 * V::kLanes];
    const auto sum = V::mul(V::splat(2), squares_of_super_blocks<V>(x, count));
    spread_over_runs<V, 16>(V::div(sum, V::splat(kSuperBlock)), mean_square);
    for (int64_t r = 0; r < count * 16; r += S::kLanes) {
        Columns<S, 16> columns, weights;
        load_runs<S>(x + r * 16, 16, count * 16 - r, columns);
        load_runs<S>(importance + r * 16, 16, count * 16 - r, weights);
        importance_weights<S>(columns, S::load(mean_square + r), weights);
        S::store(fits.weight + r, sum_of<S>(weights));
        const auto fit = symmetric_scale<S>(columns, &weights, kQ3Limit, true);
        S::store(fits.scale + r, fit.scale);
        S::store(fits.inverse + r, fit.inverse);
    }
}

// Descends `count` runs, given by their numbers, in so many groups.
template <class V, int groups>
BQ_INLINE void descend_runs(const float* x, const uint16_t* numbers, int count, float* scales,
                            uint8_t* levels) {
    Columns<V, 16> columns[groups];
    for (int g = 0; g < groups; ++g) {
        const float* runs[V::kLanes];
        for (int l = 0; l < V::kLanes; ++l) {
            const int at = g * V::kLanes + l;
            runs[l] = x + 16 * numbers[at < count ? at : count - 1];
        }
        load_columns<V>(runs, columns[g]);
    }
    symmetric_scale_by_descent<V>(columns, kQ3Limit, scales, levels);
}

// Runs that the descent would move are put aside and descended together. Their inverse is NaN.
template <class S, class V>
BQ_INLINE void descend_q3_runs(const float* x, int64_t count, RunFits<V, 16>& fits) {
    uint16_t moving[16 * V::kLanes];
    int movers = 0;
    const auto runs = static_cast<int>(count * 16);
    for (int r = 0; r < runs; r += S::kLanes) {
        Columns<S, 16> columns;
        load_runs<S>(x + r * 16, 16, runs - r, columns);
        const auto fit = try_start_of_descent<S>(columns, kQ3Limit);
        S::store(fits.scale + r, fit.scale);
        S::store(fits.inverse + r, fit.inverse);
        const uint32_t settled = S::mask_bits(fit.settled);
        for (int l = 0; l < S::kLanes && r + l < runs; ++l) {
            moving[movers] = static_cast<uint16_t>(r + l);
            movers += ~settled >> l & 1;
        }
    }
    constexpr int kGroups = 4, kAtOnce = kGroups * V::kLanes;
    for (int m = 0; m < movers; m += kAtOnce) {
        float scales[kAtOnce];
        descend_runs<V, kGroups>(x, moving + m, movers - m, scales, nullptr);
        for (int l = 0; l < kAtOnce && m + l < movers; ++l) {
            fits.scale[moving[m + l]] = scales[l];
            fits.inverse[moving[m + l]] = __builtin_nanf("");
        }
    }
}

template <class S, class V>
void encode_q3_k_chunk(const float* x, BlockQ3_K* blocks, int64_t count, const float* importance) {
    constexpr int kRun = 16, kRuns = 16;
    RunFits<V, kRuns> fits;
    StoredScales<V, kRuns> stored;
    if (importance) {
        search_q3_runs<S>(x, count, importance, fits);
        Columns<V, kRuns> scales, weights;
        load_runs<V>(fits.scale, kRuns, count, scales);
        load_runs<V>(fits.weight, kRuns, count, weights);
        search_scales<V>(scales, weights, 32, stored);
    } else {
        descend_q3_runs<S>(x, count, fits);
        Columns<V, kRuns> scales;
        load_runs<V>(fits.scale, kRuns, count, scales);
        spread_to_peak<V>(scales, 32, stored);
    }
    for (int64_t b = 0; b < count; ++b, x += kSuperBlock) {
        uint8_t integers[kRuns];
        read_column(stored, static_cast<int>(b), integers);
        blocks[b].d = stored.d[b];
        store_q3_scales(integers, blocks[b].scales);
        float scales[kRuns];
        unpack_scales(blocks[b], scales, nullptr);
        uint8_t levels[kSuperBlock];
        for (uint16_t j = 0; j < kRuns; ++j) {
            const float inverse = fits.inverse[b * kRuns + j];
            if (scales[j] != 0) {
                choose_symmetric<V, kRun>(x + kRun * j, scales[j], kQ3Limit, levels + kRun * j);
            } else if (inverse == inverse) {
                keep_symmetric<V, kRun>(x + kRun * j, inverse, kQ3Limit, levels + kRun * j);
            } else {
                float scale[V::kLanes];
                uint8_t columns[kRun * V::kLanes];
                descend_runs<V, 1>(x, &j, 1, scale, columns);
                for (int i = 0; i < kRun; ++i) levels[kRun * j + i] = columns[i * V::kLanes];
            }
        }
        store_levels(levels, blocks[b]);
    }
}

template <class S, class V>
void encode_q6_k_chunk(const float* x, BlockQ6_K* blocks, int64_t count, const float* importance) {
    constexpr int kRun = 16, kRuns = 16, kLimit = 32;
    RunFits<V, kRuns> fits;
    for (int64_t r = 0; r < count * kRuns; r += S::kLanes) {
        Columns<S, kRun> columns, weights;
        load_runs<S>(x + r * kRun, kRun, count * kRuns - r, columns);
        if (importance) load_runs<S>(importance + r * kRun, kRun, count * kRuns - r, weights);
        const auto fit = importance ? symmetric_scale<S>(columns, &weights, kLimit, true)
                                    : symmetric_scale<S, kRun>(columns, nullptr, kLimit, true);
        S::store(fits.scale + r, fit.scale);
        S::store(fits.inverse + r, fit.inverse);
    }
    StoredScales<V, kRuns> stored;
    Columns<V, kRuns> run_scales;
    load_runs<V>(fits.scale, kRuns, count, run_scales);
    float is_zero[V::kLanes];
    V::store(is_zero, V::select(spread_signed<V>(run_scales, 128, stored), V::splat(1), V::splat(0)));
    for (int64_t b = 0; b < count; ++b, x += kSuperBlock) {
        if (is_zero[b] != 0) {
            blocks[b] = {};
            continue;
        }
        uint8_t integers[kRuns];
        read_column(stored, static_cast<int>(b), integers);
        blocks[b].d = stored.d[b];
        for (int j = 0; j < kRuns; ++j) blocks[b].scales[j] = static_cast<int8_t>(integers[j]);
        float scales[kRuns];
        unpack_scales(blocks[b], scales, nullptr);
        uint8_t levels[kSuperBlock];
        for (int j = 0; j < kRuns; ++j)
            if (scales[j] != 0) {
                choose_symmetric<V, kRun>(x + kRun * j, scales[j], kLimit, levels + kRun * j);
            } else {
                keep_symmetric<V, kRun>(x + kRun * j, fits.inverse[b * kRuns + j], kLimit, levels + kRun * j);
            }
        store_levels(levels, blocks[b]);
    }
}

template <class S, class V, class Block>
void encode_affine_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_chunk<V, Block>(
        x, out, k, imatrix,
        imatrix ? encode_affine_chunk<S, V, Block, true> : encode_affine_chunk<S, V, Block, false>);
}
template <class S, class V>
void encode_q3_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_chunk<V, BlockQ3_K>(x, out, k, imatrix, encode_q3_k_chunk<S, V>);
}
template <class S, class V>
void encode_q6_k(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    each_chunk<V, BlockQ6_K>(x, out, k, imatrix, encode_q6_k_chunk<S, V>);
}

}  // namespace
}  // namespace bq
