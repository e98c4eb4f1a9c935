// The lanes of AVX-512: sixteen floats, masks in registers of their own. What each operation does is written
// in lanes.hpp.
#pragma once

#include "simd/lanes_avx2.hpp"

namespace bq {
namespace {

struct LanesAvx512 {
    static constexpr int kLanes = 16;
    static constexpr int kTile = LanesAvx2::kTile;
    using Float = __m512;
    using Int = __m512i;
    struct Mask {
        __mmask16 bits;
    };

    static BQ_INLINE Float load(const float* p) { return _mm512_loadu_ps(p); }
    static BQ_INLINE Int load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
    static BQ_INLINE void store_int(int32_t* p, Int a) { _mm512_storeu_si512(p, a); }
    static BQ_INLINE void store_bytes(uint8_t* p, Int a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
    }
    static BQ_INLINE void store_bytes_of_16(uint8_t* p, const Int (&v)[1]) { store_bytes(p, v[0]); }
    static BQ_INLINE void store_words(void* p, Int a) {
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
    }
    static BQ_INLINE void store_halves(void* p, Float a) {
        const Int sign = bit_and(bits_of(a), splat_int(INT32_MIN));
        a = select(equal(a, a), a, from_bits(bit_or(sign, splat_int(0x7fc00000))));
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static BQ_INLINE uint16_t half_of(float value) { return LanesAvx2::half_of(value); }
    static BQ_INLINE Float splat(float value) { return _mm512_set1_ps(value); }
    static BQ_INLINE Int splat_int(int32_t value) { return _mm512_set1_epi32(value); }

    static BQ_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static BQ_INLINE Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static BQ_INLINE Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static BQ_INLINE Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
    static BQ_INLINE Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
    static BQ_INLINE Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static BQ_INLINE Float sqrt(Float a) { return _mm512_sqrt_ps(a); }
    static BQ_INLINE Float abs(Float a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }

    static BQ_INLINE Mask less(Float a, Float b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)}; }
    static BQ_INLINE Mask less_equal(Float a, Float b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ)}; }
    static BQ_INLINE Mask equal(Float a, Float b) { return {_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)}; }
    static BQ_INLINE Mask less(Int a, Int b) { return {_mm512_cmpgt_epi32_mask(b, a)}; }
    static BQ_INLINE Mask equal(Int a, Int b) { return {_mm512_cmpeq_epi32_mask(a, b)}; }
    static BQ_INLINE Mask both(Mask a, Mask b) { return {static_cast<__mmask16>(a.bits & b.bits)}; }
    static BQ_INLINE Mask either(Mask a, Mask b) { return {static_cast<__mmask16>(a.bits | b.bits)}; }
    static BQ_INLINE Mask but_not(Mask a, Mask b) { return {static_cast<__mmask16>(a.bits & ~b.bits)}; }
    static BQ_INLINE Mask negate(Mask a) { return {static_cast<__mmask16>(~a.bits)}; }
    static BQ_INLINE bool any(Mask a) { return a.bits != 0; }
    static BQ_INLINE Float select(Mask m, Float a, Float b) { return _mm512_mask_blend_ps(m.bits, b, a); }
    static BQ_INLINE Int select(Mask m, Int a, Int b) { return _mm512_mask_blend_epi32(m.bits, b, a); }

    static BQ_INLINE Int bits_of(Float a) { return _mm512_castps_si512(a); }
    static BQ_INLINE Float from_bits(Int a) { return _mm512_castsi512_ps(a); }
    static BQ_INLINE Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
    static BQ_INLINE Int truncate_to_int(Float a) { return _mm512_cvttps_epi32(a); }
    static BQ_INLINE Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static BQ_INLINE Int sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
    static BQ_INLINE Int mul(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
    static BQ_INLINE Int min(Int a, Int b) { return _mm512_min_epi32(a, b); }
    static BQ_INLINE Int max(Int a, Int b) { return _mm512_max_epi32(a, b); }
    static BQ_INLINE Int bit_and(Int a, Int b) { return _mm512_and_si512(a, b); }
    static BQ_INLINE Int bit_or(Int a, Int b) { return _mm512_or_si512(a, b); }
    static BQ_INLINE Int bit_xor(Int a, Int b) { return _mm512_xor_si512(a, b); }
    template <int n>
    static BQ_INLINE Int shift_left(Int a) {
        return _mm512_slli_epi32(a, n);
    }
    template <int n>
    static BQ_INLINE Int shift_right(Int a) {
        return _mm512_srli_epi32(a, n);
    }

    static BQ_INLINE Float lookup8(const float* table, Int i) {
        const __m512 entries = _mm512_castps256_ps512(_mm256_loadu_ps(table));
        return _mm512_permutexvar_ps(i, entries);
    }
    static BQ_INLINE Int lookup8(const int32_t* table, Int i) {
        return bits_of(lookup8(reinterpret_cast<const float*>(table), i));
    }
    static BQ_INLINE Float lookup16(const float* table, Int i) {
        return _mm512_permutexvar_ps(i, load(table));
    }
    static BQ_INLINE Int lookup16(const int32_t* table, Int i) {
        return _mm512_permutexvar_epi32(i, load_int(table));
    }
    static BQ_INLINE Float lookup_low4(const float* table, Int i) {
        return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(table)), i);
    }
    static BQ_INLINE Float lookup_low8(const float* table, Int i) {
        return _mm512_permutexvar_ps(i, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)));
    }
    static BQ_INLINE Float gather(const float* base, Int i) { return _mm512_i32gather_ps(i, base, 4); }
    static BQ_INLINE Int gather(const int32_t* base, Int i) { return _mm512_i32gather_epi32(i, base, 4); }

    static BQ_INLINE uint32_t mask_bits(Mask m) { return m.bits; }
    static BQ_INLINE float min_across(Float a) {
        return LanesAvx2::min_across(_mm256_min_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
    }
    static BQ_INLINE float max_across(Float a) {
        return LanesAvx2::max_across(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
    }

    template <int n>
    static BQ_INLINE void regroup(Float& a, Float& b) {
        const Float x = a, y = b;
        if constexpr (n == 2) {
            a = _mm512_unpacklo_ps(x, y);
            b = _mm512_unpackhi_ps(x, y);
        } else if constexpr (n == 4) {
            a = _mm512_shuffle_ps(x, y, 0x44);
            b = _mm512_shuffle_ps(x, y, 0xee);
        } else {
            a = _mm512_shuffle_f32x4(x, y, 0x88);
            b = _mm512_shuffle_f32x4(x, y, 0xdd);
        }
    }

    static BQ_INLINE Int splat_word(int16_t value) { return _mm512_set1_epi16(value); }
    static BQ_INLINE Int max_word(Int a, Int b) { return _mm512_max_epi16(a, b); }
    static BQ_INLINE Int min_word(Int a, Int b) { return _mm512_min_epi16(a, b); }
    static BQ_INLINE Int add_word(Int a, Int b) { return _mm512_add_epi16(a, b); }
    static BQ_INLINE Int sub_word(Int a, Int b) { return _mm512_subs_epu16(a, b); }
    template <int n>
    static BQ_INLINE Int shift_right_word(Int a) {
        return _mm512_srli_epi16(a, n);
    }
    template <int n>
    static BQ_INLINE Int shift_left_word(Int a) {
        return _mm512_slli_epi16(a, n);
    }
    template <int n>
    static BQ_INLINE Int times_word(Int a) {
        return _mm512_mulhi_epu16(a, _mm512_set1_epi16(n));
    }
    static BQ_INLINE Int dot_words(Int a, Int b) { return _mm512_madd_epi16(a, b); }
    static BQ_INLINE Int narrow(Int a, Int b) { return _mm512_packs_epi32(a, b); }
    static BQ_INLINE void store_narrowed(uint8_t* p, Int a, Int b) {
        const Int order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b)));
    }
    static BQ_INLINE void store_quads(uint8_t* p, const Int (&v)[2]) {
        const Int fours = splat_int(0x00040001), sixteens = splat_int(0x00100001);
        const Int pairs = narrow(dot_words(v[0], fours), dot_words(v[1], fours));
        const __m128i bytes = _mm512_cvtepi32_epi8(add(dot_words(pairs, sixteens), splat_int(0x55)));
        const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(bytes, order));
    }
    static BQ_INLINE Int pair_upper(Int a, Int b) {
        return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b);
    }
    // Of two runs of 16 elements: each run's elements i and i + 8 are a pair.
    static BQ_INLINE Int pair_upper_of_eights(Int a, Int b) {
        const Int pairs = _mm512_set_epi16(63, 47, 61, 45, 59, 43, 57, 41, 55, 39, 53, 37, 51, 35, 49, 33, 31,
                                           15, 29, 13, 27, 11, 25, 9, 23, 7, 21, 5, 19, 3, 17, 1);
        return _mm512_permutex2var_epi16(a, pairs, b);
    }
    static BQ_INLINE Int signed_lookup(const Codes& table, Int i, Int sign) {
        const Int half = _mm512_srli_epi16(sign, 10), bit = _mm512_set1_epi16(32);
        const Int place = _mm512_ternarylogic_epi32(i, half, bit, 0xf8);  // i | half & bit
        return _mm512_permutex2var_epi16(_mm512_load_si512(table.words), place,
                                         _mm512_load_si512(table.words + 32));
    }

    template <int kStride = kLanes>
    static BQ_INLINE void transpose_tile(const float* const* runs, int64_t at, float* out) {
        // Runs l, l + 4, l + 8 and l + 12 side by side, so that the rest happens within 128 bits.
        const auto four_of = [&](int run) BQ_INLINE_LAMBDA {
            __m512 four = _mm512_castps128_ps512(_mm_loadu_ps(runs[run] + at));
            four = _mm512_insertf32x4(four, _mm_loadu_ps(runs[run + 4] + at), 1);
            four = _mm512_insertf32x4(four, _mm_loadu_ps(runs[run + 8] + at), 2);
            return _mm512_insertf32x4(four, _mm_loadu_ps(runs[run + 12] + at), 3);
        };
        const __m512 r0 = four_of(0), r1 = four_of(1), r2 = four_of(2), r3 = four_of(3);
        const __m512 low01 = _mm512_unpacklo_ps(r0, r1), high01 = _mm512_unpackhi_ps(r0, r1);
        const __m512 low23 = _mm512_unpacklo_ps(r2, r3), high23 = _mm512_unpackhi_ps(r2, r3);
        store(out, _mm512_shuffle_ps(low01, low23, 0x44));
        store(out + kStride, _mm512_shuffle_ps(low01, low23, 0xee));
        store(out + 2 * kStride, _mm512_shuffle_ps(high01, high23, 0x44));
        store(out + 3 * kStride, _mm512_shuffle_ps(high01, high23, 0xee));
    }
};

}  // namespace
}  // namespace bq
