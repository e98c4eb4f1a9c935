// The lanes of AVX2: eight floats. What each operation does is written in lanes.hpp.
#pragma once

#include <immintrin.h>

#include "simd/lanes.hpp"

namespace bq {
namespace {

struct LanesAvx2 {
    static constexpr int kLanes = 8;
    static constexpr int kTile = 4;
    using Float = __m256;
    using Int = __m256i;
    struct Mask {  // all bits of a lane or none
        __m256 bits;
    };

    static BQ_INLINE Float load(const float* p) { return _mm256_loadu_ps(p); }
    static BQ_INLINE Int load_int(const int32_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static BQ_INLINE void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
    static BQ_INLINE void store_int(int32_t* p, Int a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
    }
    static BQ_INLINE void store_bytes(uint8_t* p, Int a) {
        const __m256i low = _mm256_shuffle_epi8(
            a, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
        const __m128i bytes =
            _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
    }
    static BQ_INLINE void store_bytes_of_16(uint8_t* p, const Int (&v)[2]) {
        const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                               4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
        const __m256i second = _mm256_setr_epi8(-1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1,
                                                -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
        const __m256i low =
            _mm256_or_si256(_mm256_shuffle_epi8(v[0], first), _mm256_shuffle_epi8(v[1], second));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(low, order)));
    }
    static BQ_INLINE void store_words(void* p, Int a) {
        const __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
        _mm_storeu_si128(static_cast<__m128i*>(p),
                         _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
    }
    static BQ_INLINE void store_halves(void* p, Float a) {
        const __m256 sign = _mm256_and_ps(a, _mm256_set1_ps(-0.0f));
        const __m256 nan = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
        a = _mm256_blendv_ps(a, nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static BQ_INLINE uint16_t half_of(float value) {
        const __m128i half = _mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT);
        const auto bits = static_cast<uint16_t>(_mm_cvtsi128_si32(half));
        return value == value ? bits : static_cast<uint16_t>((bits & 0x8000) | 0x7e00);
    }
    static BQ_INLINE Float splat(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Int splat_int(int32_t value) { return _mm256_set1_epi32(value); }

    static BQ_INLINE Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static BQ_INLINE Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static BQ_INLINE Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static BQ_INLINE Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
    static BQ_INLINE Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
    static BQ_INLINE Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static BQ_INLINE Float sqrt(Float a) { return _mm256_sqrt_ps(a); }
    static BQ_INLINE Float abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

    static BQ_INLINE Mask less(Float a, Float b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
    static BQ_INLINE Mask less_equal(Float a, Float b) { return {_mm256_cmp_ps(a, b, _CMP_LE_OQ)}; }
    static BQ_INLINE Mask equal(Float a, Float b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
    static BQ_INLINE Mask less(Int a, Int b) { return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a))}; }
    static BQ_INLINE Mask equal(Int a, Int b) { return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))}; }
    static BQ_INLINE Mask both(Mask a, Mask b) { return {_mm256_and_ps(a.bits, b.bits)}; }
    static BQ_INLINE Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.bits, b.bits)}; }
    static BQ_INLINE Mask but_not(Mask a, Mask b) { return {_mm256_andnot_ps(b.bits, a.bits)}; }
    static BQ_INLINE Mask negate(Mask a) {
        return {_mm256_xor_ps(a.bits, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
    }
    static BQ_INLINE bool any(Mask a) { return _mm256_movemask_ps(a.bits) != 0; }
    static BQ_INLINE Float select(Mask m, Float a, Float b) { return _mm256_blendv_ps(b, a, m.bits); }
    static BQ_INLINE Int select(Mask m, Int a, Int b) {
        return bits_of(_mm256_blendv_ps(from_bits(b), from_bits(a), m.bits));
    }

    static BQ_INLINE Int bits_of(Float a) { return _mm256_castps_si256(a); }
    static BQ_INLINE Float from_bits(Int a) { return _mm256_castsi256_ps(a); }
    static BQ_INLINE Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
    static BQ_INLINE Int truncate_to_int(Float a) { return _mm256_cvttps_epi32(a); }
    static BQ_INLINE Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static BQ_INLINE Int sub(Int a, Int b) { return _mm256_sub_epi32(a, b); }
    static BQ_INLINE Int mul(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
    static BQ_INLINE Int min(Int a, Int b) { return _mm256_min_epi32(a, b); }
    static BQ_INLINE Int max(Int a, Int b) { return _mm256_max_epi32(a, b); }
    static BQ_INLINE Int bit_and(Int a, Int b) { return _mm256_and_si256(a, b); }
    static BQ_INLINE Int bit_or(Int a, Int b) { return _mm256_or_si256(a, b); }
    static BQ_INLINE Int bit_xor(Int a, Int b) { return _mm256_xor_si256(a, b); }
    template <int n>
    static BQ_INLINE Int shift_left(Int a) {
        return _mm256_slli_epi32(a, n);
    }
    template <int n>
    static BQ_INLINE Int shift_right(Int a) {
        return _mm256_srli_epi32(a, n);
    }

    static BQ_INLINE Float lookup8(const float* table, Int i) {
        return _mm256_permutevar8x32_ps(load(table), i);
    }
    static BQ_INLINE Int lookup8(const int32_t* table, Int i) {
        return _mm256_permutevar8x32_epi32(load_int(table), i);
    }
    static BQ_INLINE Float lookup16(const float* table, Int i) {
        // The permutations look at three bits; the fourth, moved to the sign, chooses between them.
        const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));
        return _mm256_blendv_ps(lookup8(table, i), lookup8(table + 8, i), high);
    }
    static BQ_INLINE Int lookup16(const int32_t* table, Int i) {
        const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));
        return bits_of(
            _mm256_blendv_ps(from_bits(lookup8(table, i)), from_bits(lookup8(table + 8, i)), high));
    }
    static BQ_INLINE Float lookup_low4(const float* table, Int i) {
        return _mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(table)), i);
    }
    static BQ_INLINE Float lookup_low8(const float* table, Int i) { return lookup8(table, i); }
    static BQ_INLINE Float gather(const float* base, Int i) { return _mm256_i32gather_ps(base, i, 4); }
    static BQ_INLINE Int gather(const int32_t* base, Int i) { return _mm256_i32gather_epi32(base, i, 4); }

    static BQ_INLINE uint32_t mask_bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.bits)); }
    static BQ_INLINE float min_across(Float a) {
        __m128 m = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        m = _mm_min_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
    }
    static BQ_INLINE float max_across(Float a) {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    template <int n>
    static BQ_INLINE void regroup(Float& a, Float& b) {
        const Float x = a, y = b;
        if constexpr (n == 2) {
            a = _mm256_unpacklo_ps(x, y);
            b = _mm256_unpackhi_ps(x, y);
        } else if constexpr (n == 4) {
            a = _mm256_shuffle_ps(x, y, 0x44);
            b = _mm256_shuffle_ps(x, y, 0xee);
        } else {
            a = _mm256_permute2f128_ps(x, y, 0x20);
            b = _mm256_permute2f128_ps(x, y, 0x31);
        }
    }

    static BQ_INLINE Int splat_word(int16_t value) { return _mm256_set1_epi16(value); }
    static BQ_INLINE Int max_word(Int a, Int b) { return _mm256_max_epi16(a, b); }
    static BQ_INLINE Int min_word(Int a, Int b) { return _mm256_min_epi16(a, b); }
    static BQ_INLINE Int add_word(Int a, Int b) { return _mm256_add_epi16(a, b); }
    static BQ_INLINE Int sub_word(Int a, Int b) { return _mm256_subs_epu16(a, b); }
    template <int n>
    static BQ_INLINE Int shift_right_word(Int a) {
        return _mm256_srli_epi16(a, n);
    }
    template <int n>
    static BQ_INLINE Int shift_left_word(Int a) {
        return _mm256_slli_epi16(a, n);
    }
    template <int n>
    static BQ_INLINE Int times_word(Int a) {
        return _mm256_mulhi_epu16(a, _mm256_set1_epi16(n));
    }
    static BQ_INLINE Int dot_words(Int a, Int b) { return _mm256_madd_epi16(a, b); }
    static BQ_INLINE Int narrow(Int a, Int b) { return _mm256_packs_epi32(a, b); }
    static BQ_INLINE void store_narrowed(uint8_t* p, Int a, Int b) {
        const Int order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(reinterpret_cast<Int*>(p),
                            _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order));
    }
    static BQ_INLINE void store_quads(uint8_t* p, const Int (&v)[4]) {
        const auto quads = [&](int i) BQ_INLINE_LAMBDA {
            const Int fours = splat_int(0x00040001), sixteens = splat_int(0x00100001);
            const Int pairs = narrow(dot_words(v[i], fours), dot_words(v[i + 1], fours));
            return add(dot_words(pairs, sixteens), splat_int(0x55));
        };
        const Int words = narrow(quads(0), quads(2)), bytes = _mm256_packus_epi16(words, words);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(p),
            _mm_unpacklo_epi8(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
    }
    static BQ_INLINE Int pair_upper(Int a, Int b) {
        return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xaa);
    }
    static BQ_INLINE Int signed_lookup(const Codes& table, Int i, Int sign) {
        const auto sixteen = [&](int from) BQ_INLINE_LAMBDA {
            return _mm256_broadcastsi128_si256(
                _mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes + from)));
        };
        // The upper bytes of the words look up entry 0, or nothing.
        const Int low = _mm256_shuffle_epi8(sixteen(0), i), high = _mm256_shuffle_epi8(sixteen(16), i);
        const Int code = _mm256_blendv_epi8(low, high, _mm256_cmpgt_epi16(i, _mm256_set1_epi16(15)));
        const Int bit = _mm256_and_si256(_mm256_srli_epi16(sign, 12), _mm256_set1_epi16(8));
        const Int some = _mm256_cmpgt_epi16(code, _mm256_setzero_si256());
        return _mm256_or_si256(code, _mm256_and_si256(bit, some));
    }

    // Rows of the result are kStride floats apart.
    template <int kStride = kLanes>
    static BQ_INLINE void transpose_tile(const float* const* runs, int64_t at, float* out) {
        // Runs l and l + 4 side by side, so that the rest happens within 128 bits.
        const auto both_of = [&](int run) BQ_INLINE_LAMBDA {
            const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(runs[run] + at));
            return _mm256_insertf128_ps(low, _mm_loadu_ps(runs[run + 4] + at), 1);
        };
        const __m256 r0 = both_of(0), r1 = both_of(1), r2 = both_of(2), r3 = both_of(3);
        const __m256 low01 = _mm256_unpacklo_ps(r0, r1), high01 = _mm256_unpackhi_ps(r0, r1);
        const __m256 low23 = _mm256_unpacklo_ps(r2, r3), high23 = _mm256_unpackhi_ps(r2, r3);
        store(out, _mm256_shuffle_ps(low01, low23, 0x44));
        store(out + kStride, _mm256_shuffle_ps(low01, low23, 0xee));
        store(out + 2 * kStride, _mm256_shuffle_ps(high01, high23, 0x44));
        store(out + 3 * kStride, _mm256_shuffle_ps(high01, high23, 0xee));
    }
};

}  // namespace
}  // namespace bq
