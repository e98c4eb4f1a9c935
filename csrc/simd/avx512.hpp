// The vocabulary in AVX-512 (F, BW, DQ, VL, VNNI). What each operation does is written in scalar.hpp; what is
// not here is as in AVX2. Chunks stay 32 bytes; decoded values fill 512-bit registers.
//   dot_unsigned  vpdpbusd: four products a lane, no intermediate int16
//   bits, bit_mask  the bits are a mask
#pragma once

#include "simd/avx2.hpp"

namespace bq {
namespace {

struct Avx512 : Avx2 {
    static constexpr int kWide = 16;
    using Wide = __m512;

    static BQ_INLINE Bytes load_nibbles(const uint8_t* p) {
        const __m256i both =
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        const __m256i counts = _mm256_setr_epi64x(0, 0, 0x0004000400040004, 0x0004000400040004);
        return _mm256_and_si256(_mm256_srlv_epi16(both, counts), _mm256_set1_epi8(15));
    }

    static BQ_INLINE Bytes bits(uint32_t set, int value) { return _mm256_maskz_mov_epi8(set, splat(value)); }

    static BQ_INLINE Bytes bit_mask(uint32_t set) { return _mm256_movm_epi8(set); }

    static BQ_INLINE Ints dot_unsigned(Bytes w, Bytes a) {
        return _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, a);
    }
    static BQ_INLINE Ints dot_signed(Bytes w, Bytes a) {
        return dot_unsigned(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    }

    // The 32 bytes of chunk j, less `offset`, times the scales of their runs of 16, plus `bias`; what comes
    // out must fit bytes without sign. Arithmetic of words does for pairs of bytes: nothing is carried
    // between them in the end.
    static BQ_INLINE Bytes scaled(Bytes a, Words scales, int j, int offset, int bias) {
        const __m256i runs = _mm256_setr_epi64x(0, 0, 0x0001000100010001, 0x0001000100010001);
        const __m256i each = _mm256_permutexvar_epi16(_mm256_add_epi16(runs, splat_words(2 * j)), scales);
        return _mm256_add_epi16(_mm256_mullo_epi16(_mm256_sub_epi16(a, splat(offset)), each), splat(bias));
    }

    // ---- activations
    template <int kCount>
    static BQ_INLINE uint32_t max_magnitude_bits(const float* x) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        __m512i m = _mm512_setzero_si512();
        for (int i = 0; i < kCount / 16; ++i)
            m = _mm512_max_epu32(m, _mm512_and_si512(_mm512_loadu_si512(x + 16 * i), magnitude));
        return largest(_mm256_max_epu32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1)));
    }
    static BQ_INLINE HalfSums round_to_bytes(const float* x, float factor, int8_t* q) {
        __m128i half[2];
        for (int i = 0; i < 2; ++i) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), _mm512_set1_ps(factor));
            half[i] = _mm512_cvtepi32_epi8(
                _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        }
        const __m256i bytes = _mm256_set_m128i(half[1], half[0]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
        __m256i sums = dot_unsigned(_mm256_set1_epi8(1), bytes);
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e));
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
        return {_mm256_cvtsi256_si32(sums), _mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1))};
    }

    // ---- decoded values
    using Avx2::add;
    using Avx2::mul;
    using Avx2::mul_add;
    using Avx2::sub;
    static BQ_INLINE Wide mul(Wide a, Wide b) { return _mm512_mul_ps(a, b); }
    static BQ_INLINE Wide add(Wide a, Wide b) { return _mm512_add_ps(a, b); }
    static BQ_INLINE Wide sub(Wide a, Wide b) { return _mm512_sub_ps(a, b); }
    static BQ_INLINE Wide mul_add(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
    static BQ_INLINE Wide wide_zero() { return _mm512_setzero_ps(); }
    static BQ_INLINE Wide wide_splat(float value) { return _mm512_set1_ps(value); }
    static BQ_INLINE Wide widen(Bytes a, int i) {
        const __m128i half = i == 0 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1);
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half));
    }
    static BQ_INLINE Wide load_f32(const void* p) { return _mm512_loadu_ps(p); }
    static BQ_INLINE Wide load_f16(const uint8_t* p) { return _mm512_cvtph_ps(Avx2::load(p)); }
    static BQ_INLINE Wide load_bf16(const uint8_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Avx2::load(p)), 16));
    }
    static BQ_INLINE void store_f32(float* p, Wide a) { _mm512_storeu_ps(p, a); }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a, Wide b) {
        store_f16(p, a);
        store_f16(p + kWide, b);
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a) {
        const __m512i bits = _mm512_castps_si512(a);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
        const __m512i chosen = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a, Wide b) {
        const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33,
                                               31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        _mm512_storeu_si512(p, _mm512_permutex2var_epi16(rounded_to_bf16(a), upper, rounded_to_bf16(b)));
    }
    static BQ_INLINE __m512i table_bf16_plain_nans(Wide a, Wide b) {
        const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33,
                                               31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        const auto rounded = [](__m512 v) BQ_INLINE_LAMBDA {
            const __m512i bits = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
            const __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            return _mm512_mask_add_epi32(up, _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000)), up,
                                         one);
        };
        return _mm512_permutex2var_epi16(rounded(a), upper, rounded(b));
    }
    static BQ_INLINE void store_bf16_plain_nans(uint16_t* p, Wide a, Wide b) {
        _mm512_storeu_si512(p, table_bf16_plain_nans(a, b));
    }
    static BQ_INLINE void stream_f32(float* p, Wide a) { _mm512_stream_ps(p, a); }
    static BQ_INLINE void stream(uint8_t* to, const uint8_t* from) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
    }
    template <int kTimes>
    static BQ_INLINE Wide repeat_each(const float* p) {
        if constexpr (kTimes == 4) {
            const __m512i each = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            return _mm512_permutexvar_ps(each, _mm512_castps128_ps512(_mm_loadu_ps(p)));
        } else if constexpr (kTimes == 8) {
            return _mm512_mask_broadcastss_ps(_mm512_set1_ps(p[0]), 0xff00, _mm_load_ss(p + 1));
        } else {
            return _mm512_set1_ps(*p);
        }
    }
    static constexpr int kLooksUp = 32;
    static constexpr bool kGridLevels = true;
    using Table = __m512i;
    static BQ_INLINE void stream_table(uint16_t* p, Table a) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(p), a);
    }
    using LevelIndex = __m512i;  // words, of which five bits count
    static BQ_INLINE LevelIndex level_index(Bytes i) { return _mm512_cvtepu8_epi16(i); }
    static BQ_INLINE Table table_f16(Wide a, Wide b) {
        const __m256i low = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
        const __m256i high = _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    template <int kCount>
    static BQ_INLINE void look_up(uint16_t* out, Table t, int part, LevelIndex i) {
        // The entries of the part to the front: words of four entries, whose numbers count modulo eight.
        const int64_t first = part * kCount / 4;
        const __m512i order = _mm512_setr_epi64(first, first + 1, first + 2, first + 3, first + 4, first + 5,
                                                first + 6, first + 7);
        if (first != 0) t = _mm512_permutexvar_epi64(order, t);
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(i, t));
    }
    static BQ_INLINE float wide_sum(Wide a) {
        return Avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
    }
    static BQ_INLINE void wide_sums(const Wide (&a)[4], float* out) {
        const __m512 ab = add(_mm512_shuffle_f32x4(a[0], a[1], 0x44), _mm512_shuffle_f32x4(a[0], a[1], 0xee));
        const __m512 cd = add(_mm512_shuffle_f32x4(a[2], a[3], 0x44), _mm512_shuffle_f32x4(a[2], a[3], 0xee));
        const __m512 four = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
        const __m512 pairs = add(four, _mm512_shuffle_ps(four, four, 0x4e));
        const __m512 all = add(pairs, _mm512_shuffle_ps(pairs, pairs, 0xb1));
        const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all)));
    }

  private:
    // The upper halves are the rounded bfloat16; quiet NaNs stay as they are.
    static BQ_INLINE __m512i rounded_to_bf16(__m512 a) {
        const __m512i bits = _mm512_castps_si512(a);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        return _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), bits, half);
    }
};

}  // namespace
}  // namespace bq
