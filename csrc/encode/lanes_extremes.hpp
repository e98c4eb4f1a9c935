// The encoders of legacy.cpp without an imatrix: one pass, in element order.
#pragma once

#include "encode/lanes_search.hpp"
#include "formats/legacy.hpp"

namespace bq {
namespace {

// The bits of the largest magnitude of n elements in each place of a vector; as integers, so that NaNs are
// the largest.
template <class V, int n>
BQ_INLINE typename V::Int largest_bits(const float* x) {
    constexpr int kVectors = n / V::kLanes, kChains = kVectors < 4 ? kVectors : 4;
    const auto bits = [&](int i) BQ_INLINE_LAMBDA {
        return V::bit_and(V::bits_of(V::load(x + i * V::kLanes)), V::splat_int(INT32_MAX));
    };
    typename V::Int m[kChains];
    for (int c = 0; c < kChains; ++c) m[c] = bits(c);
    for (int i = kChains; i < kVectors; ++i) m[i % kChains] = V::max(m[i % kChains], bits(i));
    for (int c = 1; c < kChains; ++c) m[0] = V::max(m[0], m[c]);
    return m[0];
}

// The largest magnitude of n elements of kLanes runs that follow each other, one run per lane. A NaN is
// larger than all numbers.
template <class V, int n, int kRuns = V::kLanes>
BQ_INLINE typename V::Float magnitudes_of_runs(const float* x) {
    if constexpr (kRuns == 1) {
        return V::from_bits(largest_bits<V, n>(x));
    } else {
        auto a = magnitudes_of_runs<V, n, kRuns / 2>(x);
        auto b = magnitudes_of_runs<V, n, kRuns / 2>(x + kRuns / 2 * n);
        V::template regroup<kRuns>(a, b);
        return V::from_bits(V::max(V::bits_of(a), V::bits_of(b)));
    }
}

// Watches out for NaNs and infinities among what goes into an encoder.
template <class V>
struct Watch {
    typename V::Int seen = V::splat_int(0);  // negative in a lane that has seen one
    // Integers that are not negative, or INT32_MIN for what no integer is.
    BQ_INLINE void levels(typename V::Int v) { seen = V::bit_or(seen, v); }
    // Magnitudes, NaNs too.
    BQ_INLINE void magnitudes(typename V::Float v) { levels(V::add(V::bits_of(v), V::splat_int(0x800000))); }
    BQ_INLINE bool all_finite() const { return !V::any(V::less(seen, V::splat_int(0))); }
};

// The lowest and the highest of n elements of kLanes runs that follow each other, one run per lane. Which of
// two zeros they are is left open.
template <class V>
struct Extremes {
    typename V::Float low, high;
};

template <class V, int n, int kRuns = V::kLanes>
BQ_INLINE Extremes<V> extremes_of_runs(const float* x) {
    if constexpr (kRuns == 1) {
        auto low = V::load(x), high = low;
        for (int i = V::kLanes; i < n; i += V::kLanes) {
            const auto v = V::load(x + i);
            low = V::min(v, low);
            high = V::max(v, high);
        }
        return {low, high};
    } else {
        auto a = extremes_of_runs<V, n, kRuns / 2>(x),
             b = extremes_of_runs<V, n, kRuns / 2>(x + kRuns / 2 * n);
        V::template regroup<kRuns>(a.low, b.low);
        V::template regroup<kRuns>(a.high, b.high);
        return {V::min(a.low, b.low), V::max(a.high, b.high)};
    }
}

// search::peak_of of kLanes runs.
template <class V, int n>
BQ_INLINE typename V::Float peak_of_runs(const float* x) {
    const Extremes<V> e = extremes_of_runs<V, n>(x);
    const auto mirrored = negative<V>(e.low);
    const auto peak = V::select(V::less(e.high, mirrored), e.low, V::abs(e.high));
    uint32_t ties = V::mask_bits(V::both(V::equal(e.high, mirrored), V::less(V::splat(0), e.high)));
    if (ties == 0) return peak;
    float peaks[V::kLanes];
    V::store(peaks, peak);
    for (int l = 0; ties != 0; ++l, ties >>= 1)
        if (ties & 1) {
            const float *run = x + l * n, magnitude = peaks[l];
            while (*run != magnitude && *run != -magnitude) ++run;
            peaks[l] = *run;
        }
    return V::load(peaks);
}

// Bit i is set where condition(part) holds for element i of 32.
template <class V, class Condition>
BQ_INLINE uint32_t bits_of_32(Condition condition) {
    uint32_t bits = 0;
    for (int p = 0; p < 32 / V::kLanes; ++p) bits |= V::mask_bits(condition(p)) << p * V::kLanes;
    return bits;
}

template <class V>
BQ_INLINE typename V::Float inverse_or_zero(typename V::Float scale) {
    const auto zero = V::splat(0);
    return V::select(V::equal(scale, zero), zero, V::div(V::splat(1), scale));
}
// For a scale too small for its inverse to be finite, elements are infinite or NaN, and count as 0.
template <class V>
BQ_INLINE typename V::Float finite_inverse(typename V::Float scale) {
    const auto inverse = V::div(V::splat(1), scale);
    return V::select(V::less(inverse, V::splat(__builtin_inff())), inverse, V::splat(0));
}

// Elements i and i + 16 of integers below 32 into byte i; only their low four bits are taken.
template <class V>
BQ_INLINE void store_nibbles_32(const typename V::Int (&v)[32 / V::kLanes], uint8_t* qs) {
    constexpr int kHalf = 16 / V::kLanes;
    typename V::Int bytes[kHalf];
    for (int p = 0; p < kHalf; ++p)
        bytes[p] = V::bit_or(V::bit_and(v[p], V::splat_int(15)), V::template shift_left<4>(v[p + kHalf]));
    V::store_bytes_of_16(qs, bytes);
}

// The fifth bits.
template <class V>
BQ_INLINE void store_fifth_bits_32(const typename V::Int (&v)[32 / V::kLanes], uint8_t* qh) {
    const uint32_t bits =
        bits_of_32<V>([&](int p) BQ_INLINE_LAMBDA { return V::less(V::splat_int(15), v[p]); });
    for (int byte = 0; byte < 4; ++byte) qh[byte] = static_cast<uint8_t>(bits >> 8 * byte);
}

template <class V, class Block>
BQ_INLINE void store_levels_32(const typename V::Int (&v)[32 / V::kLanes], Block& b) {
    store_nibbles_32<V>(v, b.qs);
    if constexpr (requires { b.qh; }) store_fifth_bits_32<V>(v, b.qh);
}

// Encodes a row in steps of kStep blocks (or runs) of n elements: prepare(x, at) finds the scales of as many
// as V has lanes, which go to the places from `at` on of arrays of kStep; then encode(x, block, at) is called
// for each, or the first of each kTogether. Scales take long chains of operations: those of a step overlap.
template <class V>
constexpr int kStep = 4 * V::kLanes;

template <class V, int n, int kTogether = 1, class Prepare, class Encode>
BQ_INLINE void each_step(const float* x, int64_t blocks, Prepare prepare, Encode encode) {
    float last[n * V::kLanes];  // those of too few blocks for the lanes, and zeros
    for (int64_t begin = 0; begin < blocks; begin += kStep<V>) {
        const int64_t left = blocks - begin;
        const int count = left < kStep<V> ? static_cast<int>(left) : kStep<V>;
        const float* from = x + begin * n;
        for (int at = 0; at < count; at += V::kLanes) {
            const float* runs = from + n * at;
            if (const int some = count - at; some < V::kLanes) {
                memset(last, 0, sizeof last);
                memcpy(last, runs, static_cast<size_t>(some * n) * sizeof(float));
                runs = last;
            }
            prepare(runs, at);
        }
        for (int at = 0; at < count; at += kTogether) encode(from + n * at, begin + at, at);
    }
}

// From here on, encoders return false if x may hold a NaN or an infinity. If it does not, they have encoded
// it nevertheless.

// In the next two, values that do not fit an integer give one whose low byte is 0, as in legacy.cpp.
template <class V, class Block, int limit>
bool encode_peaks(const float* x, uint8_t* out, int64_t k) {
    Block* blocks = reinterpret_cast<Block*>(out);
    Watch<V> watch;
    float inverses[kStep<V>];
    uint16_t d[kStep<V>];
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const auto scale = V::div(peak_of_runs<V, 32>(from), V::splat(static_cast<float>(-limit)));
        V::store(inverses + at, inverse_or_zero<V>(scale));
        V::store_halves(d + at, scale);
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        const auto inverse = V::splat(inverses[at]);
        const auto offset = V::splat(static_cast<float>(limit) + 0.5f);
        typename V::Int levels[32 / V::kLanes];
        for (int p = 0; p < 32 / V::kLanes; ++p) {
            const auto value = V::add(V::mul(V::load(from + p * V::kLanes), inverse), offset);
            const auto level = V::truncate_to_int(value);
            watch.levels(level);
            levels[p] = V::min(level, V::splat_int(2 * limit - 1));
        }
        blocks[b].d = d[at];
        store_levels_32<V>(levels, blocks[b]);
    };
    each_step<V, 32>(x, k / 32, prepare, encode);
    return watch.all_finite();
}

// Of each run, in the lanes of low, the sign of the first zero where that is the lowest.
template <class V, int n>
BQ_INLINE typename V::Float with_first_zeros(const float* x, typename V::Float low) {
    if (!V::any(V::equal(low, V::splat(0)))) return low;
    float lows[V::kLanes];
    V::store(lows, low);
    for (int l = 0; l < V::kLanes; ++l, x += n) {
        if (lows[l] != 0) continue;
        int first = 0;
        while (x[first] != 0) ++first;
        lows[l] = x[first];
    }
    return V::load(lows);
}

template <class V, class Block, int top>
bool encode_ranges(const float* x, uint8_t* out, int64_t k) {
    Block* blocks = reinterpret_cast<Block*>(out);
    Watch<V> watch;
    float lows[kStep<V>], inverses[kStep<V>];
    uint16_t d[kStep<V>], m[kStep<V>];
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const Extremes<V> e = extremes_of_runs<V, 32>(from);
        const auto low = with_first_zeros<V, 32>(from, e.low);
        const auto high = V::select(V::equal(e.high, low), low, e.high);
        const auto scale = V::div(V::sub(high, low), V::splat(static_cast<float>(top)));
        V::store(lows + at, low);
        V::store(inverses + at, inverse_or_zero<V>(scale));
        V::store_halves(d + at, scale);
        V::store_halves(m + at, low);
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        const auto inverse = V::splat(inverses[at]), low = V::splat(lows[at]);
        typename V::Int levels[32 / V::kLanes];
        for (int p = 0; p < 32 / V::kLanes; ++p) {
            const auto value = V::mul(V::sub(V::load(from + p * V::kLanes), low), inverse);
            levels[p] = V::truncate_to_int(V::add(value, V::splat(0.5f)));
            watch.levels(levels[p]);
        }
        blocks[b].d = d[at];
        blocks[b].m = m[at];
        store_levels_32<V>(levels, blocks[b]);
    };
    each_step<V, 32>(x, k / 32, prepare, encode);
    return watch.all_finite();
}

// Halves away from zero, for |value| < 2^22: the addend is the float below 0.5, so that what is just below a
// half does not reach the next integer.
template <class V>
BQ_INLINE typename V::Int round_half_away(typename V::Float value) {
    const auto sign = V::bit_and(V::bits_of(value), V::splat_int(INT32_MIN));
    const auto half = V::bit_or(sign, V::bits_of(V::splat(0x1.fffffep-2f)));
    return V::truncate_to_int(V::add(value, V::from_bits(half)));
}

template <class V>
bool encode_q8_0(const float* x, uint8_t* out, int64_t k) {
    BlockQ8_0* blocks = reinterpret_cast<BlockQ8_0*>(out);
    Watch<V> watch;
    float inverses[kStep<V>];
    uint16_t d[kStep<V>];
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const auto magnitude = magnitudes_of_runs<V, 32>(from);
        watch.magnitudes(magnitude);
        const auto scale = V::div(magnitude, V::splat(127));
        V::store(inverses + at, finite_inverse<V>(scale));
        V::store_halves(d + at, scale);
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        const auto inverse = V::splat(inverses[at]);
        blocks[b].d = d[at];
        fill_levels<V, 32>(reinterpret_cast<uint8_t*>(blocks[b].qs), [&](int i) BQ_INLINE_LAMBDA {
            return round_half_away<V>(V::mul(V::load(from + i), inverse));
        });
    };
    each_step<V, 32>(x, k / 32, prepare, encode);
    return watch.all_finite();
}

template <class V>
void encode_f16(const float* x, uint8_t* out, int64_t k, const float*) {
    int64_t i = 0;
    for (; i + V::kLanes <= k; i += V::kLanes) V::store_halves(out + 2 * i, V::load(x + i));
    for (; i < k; ++i) {
        const uint16_t half = f32_to_f16(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
}

template <class V>
void encode_bf16(const float* x, uint8_t* out, int64_t k, const float*) {
    int64_t i = 0;
    for (; i + V::kLanes <= k; i += V::kLanes) {
        const auto v = V::load(x + i);
        const auto bits = V::bits_of(v);
        const auto odd = V::bit_and(V::template shift_right<16>(bits), V::splat_int(1));
        const auto rounded = V::add(bits, V::add(odd, V::splat_int(0x7fff)));
        const auto quiet = V::bit_or(bits, V::splat_int(0x400000));
        V::store_words(out + 2 * i, V::template shift_right<16>(V::select(V::equal(v, v), rounded, quiet)));
    }
    for (; i < k; ++i) {
        const uint16_t half = f32_to_bf16(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
}

}  // namespace
}  // namespace bq
