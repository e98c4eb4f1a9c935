// The scales of a super-block's runs against those of the super-block, one super-block per lane. Sums of the
// data may have overflowed by now: everything goes through round_to_int.
#pragma once

#include "encode/lanes_search.hpp"
#include "formats/k_quants.hpp"

namespace bq {
namespace {

// Calls encode for as many super-blocks at a time as V has lanes.
template <class V, class Block, class EncodeChunk>
BQ_INLINE void each_chunk(const float* x, uint8_t* out, int64_t k, const float* imatrix, EncodeChunk encode) {
    Block* blocks = reinterpret_cast<Block*>(out);
    for (int64_t left = k / kSuperBlock; left > 0; left -= V::kLanes) {
        encode(x, blocks, left < V::kLanes ? left : V::kLanes, imatrix);
        x += V::kLanes * kSuperBlock;
        blocks += V::kLanes;
        if (imatrix) imatrix += V::kLanes * kSuperBlock;
    }
}

// The sum of squares of each super-block, in element order.
template <class V>
BQ_INLINE typename V::Float squares_of_super_blocks(const float* x, int64_t count) {
    const float* blocks[V::kLanes];
    point_at_runs<V>(x, kSuperBlock, count, blocks);
    auto sum = V::splat(0);
    for (int at = 0; at < kSuperBlock; at += V::kTile) {
        Columns<V, V::kTile> tile;
        V::transpose_tile(blocks, at, tile.values);
        for (int i = 0; i < V::kTile; ++i) {
            const auto v = column<V>(tile, i);
            sum = V::add(sum, V::mul(v, v));
        }
    }
    return sum;
}

// What every run of a chunk needs of its super-block.
template <class V, int runs>
BQ_INLINE void spread_over_runs(typename V::Float of_super_block, float* of_run) {
    float values[V::kLanes];
    V::store(values, of_super_block);
    for (int b = 0; b < V::kLanes; ++b)
        for (int j = 0; j < runs; ++j) of_run[b * runs + j] = values[b];
}

// What a super-block stores: element j of super-block l at integers[j * kLanes + l].
template <class S, int runs>
struct StoredScales {
    uint8_t integers[runs * S::kLanes];
    uint16_t d[S::kLanes];  // f16
};

template <class S, int runs>
BQ_INLINE void store_column(StoredScales<S, runs>& out, int j, typename S::Int value) {
    S::store_bytes(out.integers + j * S::kLanes, value);
}

// Those of super-block l.
template <class S, int runs>
BQ_INLINE void read_column(const StoredScales<S, runs>& stored, int l, uint8_t* integers) {
    for (int j = 0; j < runs; ++j) integers[j] = stored.integers[j * S::kLanes + l];
}

template <class S>
BQ_INLINE typename S::Int low_byte(typename S::Int value) {
    return S::bit_and(value, S::splat_int(255));
}

// search::positive_scale; stored receives the levels' low bytes.
template <class S, int n>
BQ_INLINE typename S::Float positive_scale(const Columns<S, n>& x, const Columns<S, n>& weights, int top,
                                           Columns<S, n>& stored) {
    using Float = typename S::Float;
    using Int = typename S::Int;
    using Mask = typename S::Mask;
    const Float zero = S::splat(0), one = S::splat(1);
    const Int top_level = S::splat_int(top);
    Float high = zero;
    for (int i = 0; i < n; ++i) high = S::max(high, column<S>(x, i));
    const Mask is_zero = S::less(high, S::splat(search::kZeroRun));

    Float chosen = S::div(S::splat(static_cast<float>(top)), high);
    const Float first_scale = S::div(one, chosen);
    Float best_error = zero;
    for (int i = 0; i < n; ++i) {
        const Float v = column<S>(x, i);
        const Float level = S::to_float(low_byte<S>(round_to_int<S>(S::mul(chosen, v))));
        const Float difference = S::sub(v, S::mul(first_scale, level));
        best_error = S::add(best_error, S::mul(S::mul(column<S>(weights, i), difference), difference));
    }
    for (int tenths = -4; tenths <= 4; ++tenths) {
        if (tenths == 0) continue;
        const float levels = 0.1f * static_cast<float>(tenths) + static_cast<float>(top);
        const Float inverse = S::div(S::splat(levels), high), scale = S::div(one, inverse);
        Float error = zero;
        for (int i = 0; i < n; ++i) {
            const Float v = column<S>(x, i);
            const Float level = S::to_float(S::min(round_to_int<S>(S::mul(inverse, v)), top_level));
            const Float difference = S::sub(v, S::mul(scale, level));
            error = S::add(error, S::mul(S::mul(column<S>(weights, i), difference), difference));
        }
        const Mask better = S::less(error, best_error);
        best_error = S::select(better, error, best_error);
        chosen = S::select(better, inverse, chosen);
    }

    Float x_level = zero, level_level = zero;
    for (int i = 0; i < n; ++i) {
        const Float v = column<S>(x, i), w = column<S>(weights, i);
        const Int integer = S::min(round_to_int<S>(S::mul(chosen, v)), top_level);
        const Float level = S::to_float(integer);
        S::store(stored.values + i * S::kLanes, S::to_float(low_byte<S>(integer)));
        x_level = S::add(x_level, S::mul(S::mul(w, v), level));
        level_level = S::add(level_level, S::mul(S::mul(w, level), level));
    }
    Mask active = S::negate(is_zero);
    for (int round = 0; round < 5 && S::any(active); ++round) {
        Mask changed = S::less(zero, zero);
        for (int i = 0; i < n; ++i) {
            const Float v = column<S>(x, i), w = column<S>(weights, i), wx = S::mul(w, v);
            const Float old = column<S>(stored, i);
            const Float others_xl = S::sub(x_level, S::mul(wx, old));
            const Float others_ll = S::sub(level_level, S::mul(S::mul(w, old), old));
            const Int integer = S::min(round_to_int<S>(S::div(S::mul(v, others_ll), others_xl)), top_level);
            const Float wanted = S::to_float(integer);
            const Float moved_xl = S::add(others_xl, S::mul(wx, wanted));
            const Float moved_ll = S::add(others_ll, S::mul(S::mul(w, wanted), wanted));
            Mask better = S::less(S::mul(S::mul(x_level, x_level), moved_ll),
                                  S::mul(S::mul(moved_xl, moved_xl), level_level));
            better = S::both(better, S::both(S::less(zero, others_xl), S::less(zero, others_ll)));
            better = S::but_not(S::both(better, active), S::equal(wanted, old));
            const Float kept = S::to_float(low_byte<S>(integer));
            S::store(stored.values + i * S::kLanes, S::select(better, kept, old));
            x_level = S::select(better, moved_xl, x_level);
            level_level = S::select(better, moved_ll, level_level);
            changed = S::either(changed, better);
        }
        active = changed;
    }
    for (int i = 0; i < n; ++i)
        S::store(stored.values + i * S::kLanes, S::select(is_zero, zero, column<S>(stored, i)));
    const Mask usable = S::but_not(S::less(zero, level_level), is_zero);
    return S::select(usable, S::div(x_level, level_level), zero);
}
template <class S, int n>
BQ_INLINE void positive_scale(const Columns<S, n>& x, const Columns<S, n>& weights, int top,
                              StoredScales<S, n>& out) {
    Columns<S, n> stored;
    store_scales_f16<S>(out.d, positive_scale<S>(x, weights, top, stored));
    for (int i = 0; i < n; ++i) store_column(out, i, S::truncate_to_int(column<S>(stored, i)));
}

// The largest becomes top.
template <class S, int n>
BQ_INLINE void spread_scales(const Columns<S, n>& x, int top, StoredScales<S, n>& out) {
    using Float = typename S::Float;
    const Float zero = S::splat(0), top_level = S::splat(static_cast<float>(top));
    Float high = zero;
    for (int i = 0; i < n; ++i) high = S::max(column<S>(x, i), high);
    const Float to_level = S::select(S::less(zero, high), S::div(top_level, high), zero);
    for (int i = 0; i < n; ++i) store_column(out, i, round_to_int<S>(S::mul(to_level, column<S>(x, i))));
    store_scales_f16<S>(out.d, S::div(high, top_level));
}

// The scales of a symmetric format: integers are stored plus limit where that makes them unsigned.
// search::symmetric_scale.
template <class S, int n>
BQ_INLINE void search_scales(const Columns<S, n>& x, const Columns<S, n>& weights, int limit,
                             StoredScales<S, n>& out) {
    const auto fit = symmetric_scale<S>(x, &weights, limit, false);
    for (int i = 0; i < n; ++i) {
        const auto level = clamp<S>(round_to_int<S>(S::mul(fit.inverse, column<S>(x, i))), -limit, limit - 1);
        store_column(out, i, S::select(fit.is_zero, S::splat_int(0), S::add(level, S::splat_int(limit))));
    }
    store_scales_f16<S>(out.d, fit.scale);
}

// The one of largest magnitude becomes -limit; the low bytes of the integers are clamped. All is 0 for zeros.
template <class S, int n>
BQ_INLINE void spread_to_peak(const Columns<S, n>& x, int limit, StoredScales<S, n>& out) {
    using Int = typename S::Int;
    const auto peak = peak_of<S>(x), zero = S::splat(0);
    const auto is_zero = S::equal(peak, zero);
    const auto inverse = S::div(S::splat(-static_cast<float>(limit)), peak);
    for (int i = 0; i < n; ++i) {
        const Int level = low_byte<S>(round_to_int<S>(S::mul(inverse, column<S>(x, i))));
        const Int value = S::sub(S::bit_xor(level, S::splat_int(128)), S::splat_int(128));
        const Int stored = S::add(clamp<S>(value, -limit, limit - 1), S::splat_int(limit));
        store_column(out, i, S::select(is_zero, S::splat_int(0), stored));
    }
    store_scales_f16<S>(out.d, S::select(is_zero, zero, S::div(S::splat(1), inverse)));
}

// The one of largest magnitude becomes -limit, the others at most limit - 1. Gives back the super-blocks that
// count as zero.
template <class S, int n>
BQ_INLINE typename S::Mask spread_signed(const Columns<S, n>& x, int limit, StoredScales<S, n>& out) {
    const auto peak = peak_of<S>(x);
    const auto inverse = S::div(S::splat(-static_cast<float>(limit)), peak);
    for (int i = 0; i < n; ++i) {
        const auto level = round_to_int<S>(S::mul(inverse, column<S>(x, i)));
        store_column(out, i, S::min(level, S::splat_int(limit - 1)));
    }
    store_scales_f16<S>(out.d, S::div(S::splat(1), inverse));
    return S::less(S::abs(peak), S::splat(search::kZeroRun));
}

}  // namespace
}  // namespace bq
