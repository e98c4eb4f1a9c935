// Searches that run in lanes: lane l of every vector belongs to run l of a group of runs, so that each run
// sees the scalar order of operations, rounding included. A vocabulary is a struct of static functions, one
// per instruction set (lanes_avx2.hpp, lanes_avx512.hpp, lanes_neon.hpp), with
//
//   kLanes, Float, Int, Mask        integers have 32 bits
//   load, store, splat              of floats, at any address; load_int, store_int, splat_int
//   add sub mul div sqrt abs        each rounded as IEEE says; nothing is ever fused
//   min(a, b), max(a, b)            a < b ? a : b, a > b ? a : b: so b if one is NaN or both are zeros
//   less less_equal equal           false for NaNs
//   both either but_not negate      of masks; but_not(a, b) is a and not b
//   any(m)
//   select(m, a, b)                 m ? a : b, floats or integers
//   bits_of from_bits to_float      reinterpretations; the value of an integer
//   truncate_to_int                 as search::truncate_to_int: INT32_MIN where nothing fits
//   add sub mul min max less equal  of integers, with bit_and, bit_or and bit_xor
//   shift_left<n> shift_right<n>    of integers, bringing in zeros
//   lookup8, lookup16(table, i)     entries of a table of 8 or 16 floats or integers, 0 <= i < 8 or 16
//   lookup_low4, lookup_low8        (table, i): entries of a table of 4 or 8 floats; only the two or three
//                                   lowest bits of i count
//   gather(base, i)                 base[i] of any table of floats or integers
//   store_bytes(p, a)               the low bytes of the lanes
//   store_bytes_of_16(p, v)         those of an array of vectors that has 16 lanes in all
//   store_words(p, a)               the low halves of the lanes
//   store_halves(p, a), half_of     floats as f32_to_f16 converts them; of one float
//   mask_bits(m)                    lane l as bit l of an unsigned integer
//   max_across(a), min_across(a)    of all lanes, which hold no NaN
//   regroup<n>(a, b)                for folding the lanes of kLanes vectors, each onto the lane of its place,
//                                   in pairs of vectors (n = 2), then of their results (n = 4), and so on up
//                                   to n = kLanes: moves what is to be folded on one place to equal places
//   max_word min_word sub_word      of the two 16-bit halves of each lane, "words"; sub_word of words without
//                                   a sign, at least 0; with splat_word, add_word, shift_left_word<n> and
//                                   shift_right_word<n>; times_word<n>(a), the upper half of the products of
//                                   words without a sign
//   dot_words(a, b)                 the sum of the products of a lane's two pairs of words
//   narrow(a, b)                    two vectors of integers to words, saturated, in whatever order
//   store_narrowed(p, a, b)         the low bytes of two vectors of narrowed integers, below 256, in order
//   store_quads(p, v)               of 64 integers in -1..2, narrowed in order: each and 1 to two bits, four
//                                   of them to a byte, the first lowest
//   pair_upper(a, b)                the upper halves of the lanes: a's in the lower words, b's in the upper
//   signed_lookup(table, i, sign)   entries of a Codes, by words 0 <= i < 32; with 8 added in words with the
//                                   sign bit, but for entry 0
//   transpose_tile(runs, at, out)   out[e * kLanes + l] = runs[l][at + e] for e < kTile = 4;
//                                   with <kStride>, rows of the result are that far apart
//
// Everything is in an anonymous namespace, as all that is compiled once per instruction set; see common.hpp.
#pragma once

#include <cstdint>

#include "simd/common.hpp"

namespace bq {
namespace {

// Thirty-two numbers below 8, the first 0: as bytes, and as words that are followed by what they are with a
// sign.
struct Codes {
    alignas(64) uint8_t bytes[32];
    alignas(64) int16_t words[64];
    constexpr explicit Codes(const int (&codes)[32]) : bytes(), words() {
        for (int i = 0; i < 32; ++i) {
            bytes[i] = static_cast<uint8_t>(codes[i]);
            words[i] = static_cast<int16_t>(codes[i]);
            words[i + 32] = static_cast<int16_t>(codes[i] == 0 ? 0 : codes[i] + 8);
        }
    }
};

// As search::round_to_int, for every float: what adding 1.5 * 2^23 leaves in the mantissa.
template <class S>
BQ_INLINE typename S::Int round_to_int(typename S::Float value) {
    const auto bits = S::bits_of(S::add(value, S::splat(12582912.0f)));
    return S::sub(S::bit_and(bits, S::splat_int(0x7fffff)), S::splat_int(0x400000));
}

// The nearest integer as a float, ties to even, never minus zero. Equal to round_to_int for |value| < 2^22
// only.
template <class S>
BQ_INLINE typename S::Float round_small(typename S::Float value) {
    const auto magic = S::splat(12582912.0f);
    return S::sub(S::add(value, magic), magic);
}

template <class S>
BQ_INLINE typename S::Int clamp(typename S::Int value, int low, int high) {
    return S::min(S::max(value, S::splat_int(low)), S::splat_int(high));
}

// low <= high. A NaN becomes low.
template <class S>
BQ_INLINE typename S::Float clamp(typename S::Float value, float low, float high) {
    return S::min(S::max(value, S::splat(low)), S::splat(high));
}

template <class S>
BQ_INLINE typename S::Float negative(typename S::Float value) {
    return S::from_bits(S::bit_xor(S::bits_of(value), S::splat_int(INT32_MIN)));
}

// Scales as stored: every NaN is the one that search::scale_to_f16 gives.
template <class S>
BQ_INLINE void store_scales_f16(void* p, typename S::Float scales) {
    const auto nan = S::from_bits(S::splat_int(static_cast<int32_t>(0xffc00000u)));
    S::store_halves(p, S::select(S::equal(scales, scales), scales, nan));
}
template <class S>
BQ_INLINE uint16_t scale_f16(float scale) {
    return scale != scale ? uint16_t{0xfe00} : S::half_of(scale);
}

// Two vectors as one: the serial sums of two groups of runs proceed side by side, which hides their latency.
template <class S>
struct Paired {
    static constexpr int kLanes = 2 * S::kLanes;
    static constexpr int kTile = S::kTile;
    struct Float {
        typename S::Float a, b;
    };
    struct Int {
        typename S::Int a, b;
    };
    struct Mask {
        typename S::Mask a, b;
    };

    static BQ_INLINE Float load(const float* p) { return {S::load(p), S::load(p + S::kLanes)}; }
    static BQ_INLINE Int load_int(const int32_t* p) { return {S::load_int(p), S::load_int(p + S::kLanes)}; }
    static BQ_INLINE void store(float* p, Float v) {
        S::store(p, v.a);
        S::store(p + S::kLanes, v.b);
    }
    static BQ_INLINE void store_int(int32_t* p, Int v) {
        S::store_int(p, v.a);
        S::store_int(p + S::kLanes, v.b);
    }
    static BQ_INLINE void store_bytes(uint8_t* p, Int v) {
        S::store_bytes(p, v.a);
        S::store_bytes(p + S::kLanes, v.b);
    }
    static BQ_INLINE void store_halves(void* p, Float v) {
        S::store_halves(p, v.a);
        S::store_halves(static_cast<uint16_t*>(p) + S::kLanes, v.b);
    }
    static BQ_INLINE Float splat(float value) { return {S::splat(value), S::splat(value)}; }
    static BQ_INLINE Int splat_int(int32_t value) { return {S::splat_int(value), S::splat_int(value)}; }

    static BQ_INLINE Float add(Float x, Float y) { return {S::add(x.a, y.a), S::add(x.b, y.b)}; }
    static BQ_INLINE Float sub(Float x, Float y) { return {S::sub(x.a, y.a), S::sub(x.b, y.b)}; }
    static BQ_INLINE Float mul(Float x, Float y) { return {S::mul(x.a, y.a), S::mul(x.b, y.b)}; }
    static BQ_INLINE Float div(Float x, Float y) { return {S::div(x.a, y.a), S::div(x.b, y.b)}; }
    static BQ_INLINE Float min(Float x, Float y) { return {S::min(x.a, y.a), S::min(x.b, y.b)}; }
    static BQ_INLINE Float max(Float x, Float y) { return {S::max(x.a, y.a), S::max(x.b, y.b)}; }
    static BQ_INLINE Float sqrt(Float x) { return {S::sqrt(x.a), S::sqrt(x.b)}; }
    static BQ_INLINE Float abs(Float x) { return {S::abs(x.a), S::abs(x.b)}; }

    static BQ_INLINE Mask less(Float x, Float y) { return {S::less(x.a, y.a), S::less(x.b, y.b)}; }
    static BQ_INLINE Mask less_equal(Float x, Float y) {
        return {S::less_equal(x.a, y.a), S::less_equal(x.b, y.b)};
    }
    static BQ_INLINE Mask equal(Float x, Float y) { return {S::equal(x.a, y.a), S::equal(x.b, y.b)}; }
    static BQ_INLINE Mask less(Int x, Int y) { return {S::less(x.a, y.a), S::less(x.b, y.b)}; }
    static BQ_INLINE Mask equal(Int x, Int y) { return {S::equal(x.a, y.a), S::equal(x.b, y.b)}; }
    static BQ_INLINE Mask both(Mask x, Mask y) { return {S::both(x.a, y.a), S::both(x.b, y.b)}; }
    static BQ_INLINE Mask either(Mask x, Mask y) { return {S::either(x.a, y.a), S::either(x.b, y.b)}; }
    static BQ_INLINE Mask but_not(Mask x, Mask y) { return {S::but_not(x.a, y.a), S::but_not(x.b, y.b)}; }
    static BQ_INLINE Mask negate(Mask x) { return {S::negate(x.a), S::negate(x.b)}; }
    static BQ_INLINE uint32_t mask_bits(Mask x) { return S::mask_bits(x.a) | S::mask_bits(x.b) << S::kLanes; }
    static BQ_INLINE bool any(Mask x) { return S::any(S::either(x.a, x.b)); }
    static BQ_INLINE Float select(Mask m, Float x, Float y) {
        return {S::select(m.a, x.a, y.a), S::select(m.b, x.b, y.b)};
    }
    static BQ_INLINE Int select(Mask m, Int x, Int y) {
        return {S::select(m.a, x.a, y.a), S::select(m.b, x.b, y.b)};
    }

    static BQ_INLINE Int bits_of(Float x) { return {S::bits_of(x.a), S::bits_of(x.b)}; }
    static BQ_INLINE Float from_bits(Int x) { return {S::from_bits(x.a), S::from_bits(x.b)}; }
    static BQ_INLINE Float to_float(Int x) { return {S::to_float(x.a), S::to_float(x.b)}; }
    static BQ_INLINE Int truncate_to_int(Float x) {
        return {S::truncate_to_int(x.a), S::truncate_to_int(x.b)};
    }
    static BQ_INLINE Int add(Int x, Int y) { return {S::add(x.a, y.a), S::add(x.b, y.b)}; }
    static BQ_INLINE Int sub(Int x, Int y) { return {S::sub(x.a, y.a), S::sub(x.b, y.b)}; }
    static BQ_INLINE Int mul(Int x, Int y) { return {S::mul(x.a, y.a), S::mul(x.b, y.b)}; }
    static BQ_INLINE Int min(Int x, Int y) { return {S::min(x.a, y.a), S::min(x.b, y.b)}; }
    static BQ_INLINE Int max(Int x, Int y) { return {S::max(x.a, y.a), S::max(x.b, y.b)}; }
    static BQ_INLINE Int bit_and(Int x, Int y) { return {S::bit_and(x.a, y.a), S::bit_and(x.b, y.b)}; }
    static BQ_INLINE Int bit_or(Int x, Int y) { return {S::bit_or(x.a, y.a), S::bit_or(x.b, y.b)}; }
    static BQ_INLINE Int bit_xor(Int x, Int y) { return {S::bit_xor(x.a, y.a), S::bit_xor(x.b, y.b)}; }
    template <int n>
    static BQ_INLINE Int shift_left(Int x) {
        return {S::template shift_left<n>(x.a), S::template shift_left<n>(x.b)};
    }
    template <int n>
    static BQ_INLINE Int shift_right(Int x) {
        return {S::template shift_right<n>(x.a), S::template shift_right<n>(x.b)};
    }
    static BQ_INLINE Float lookup8(const float* table, Int i) {
        return {S::lookup8(table, i.a), S::lookup8(table, i.b)};
    }
    static BQ_INLINE Int lookup8(const int32_t* table, Int i) {
        return {S::lookup8(table, i.a), S::lookup8(table, i.b)};
    }
    static BQ_INLINE Float lookup16(const float* table, Int i) {
        return {S::lookup16(table, i.a), S::lookup16(table, i.b)};
    }
    static BQ_INLINE Int lookup16(const int32_t* table, Int i) {
        return {S::lookup16(table, i.a), S::lookup16(table, i.b)};
    }
    static BQ_INLINE Float gather(const float* base, Int i) {
        return {S::gather(base, i.a), S::gather(base, i.b)};
    }
    static BQ_INLINE Int gather(const int32_t* base, Int i) {
        return {S::gather(base, i.a), S::gather(base, i.b)};
    }
    template <int kStride = kLanes>
    static BQ_INLINE void transpose_tile(const float* const* runs, int64_t at, float* out) {
        S::template transpose_tile<kStride>(runs, at, out);
        S::template transpose_tile<kStride>(runs + S::kLanes, at, out + S::kLanes);
    }
};

}  // namespace
}  // namespace bq
