// What the products of strips need of AVX-512 VNNI; a vector has a word of four bytes for each of 16 weight
// rows.
//
//   load, splat            64 bytes; a byte, 16 bits, a float everywhere
//   shifted<n>             n bits down (up if negative) within 16 bits: bits of other fields come along
//   field<n>               the same, masked
//   select(mask, a, b)     bits of a where those of the mask are set, else of b
//   levels, look_up        a table of sixteen bytes, and its entries of low nibbles (bits 4 to 6 must be 0)
//   pick<i>, pick_pair<i>  byte i of each word as 32 bits; bytes i and j as two words of 16; `signed_` for
//                          signed bytes
//   int_field<n>, down<n>  (a >> n) & mask in 32 bits (<< if n is negative); a >> n of signed ones
//   dots                   kSteps vectors of weights 0..kTop with 4 * kSteps activations, added on
//   dot_pair               two words of 16 bits with two sums, added on
//   kSumsWords             two products make an int16, and dot_strip_words.hpp is used
//   kLeavesPlaces          dots takes any weights in eight bits
//   outruns_memory         unpacking is so fast that memory binds a few activation rows by far
#pragma once

#include "formats/format.hpp"
#include "simd/avx512.hpp"
#include "simd/strip_avx2.hpp"

namespace bq {
namespace {

struct StripAvx512 {
    using Bytes = __m512i;
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr int kLanes = 16;
    // Weights of eight signed bits are raised by 128; fields of two bits need not be shifted down.
    static constexpr bool kRaised = true, kLeavesPlaces = true;
    static constexpr bool kSumsWords = false;
    static constexpr bool outruns_memory(FormatId id) {
        switch (id) {
            using enum FormatId;
            case Q4_0:
            case Q4_1:
            case Q5_0:
            case Q5_1:
            case Q2_K:
            case Q3_K:
            case Q4_K:
            case Q5_K:
            case Q6_K:
            case IQ4_NL:
            case IQ4_XS:
            case TQ2_0:
            case MXFP4:
            case NVFP4:
            case Q2_0:
                return true;
            default:
                return false;
        }
    }

    static BQ_INLINE Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE Bytes splat(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
    static BQ_INLINE Bytes splat_words(int word) { return _mm512_set1_epi16(static_cast<short>(word)); }
    static BQ_INLINE Bytes splat_ints(int value) { return _mm512_set1_epi32(value); }
    template <int kShift>
    static BQ_INLINE Bytes shifted(Bytes a) {
        if constexpr (kShift > 0) return _mm512_srli_epi16(a, kShift);
        if constexpr (kShift < 0) return _mm512_slli_epi16(a, -kShift);
        return a;
    }
    template <int kShift>
    static BQ_INLINE Bytes field(Bytes a, int mask) {
        return _mm512_and_si512(shifted<kShift>(a), splat(mask));
    }
    static BQ_INLINE Bytes select(Bytes mask, Bytes a, Bytes b) {
        return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
    }
    // (a & mask) | b
    static BQ_INLINE Bytes masked_or(Bytes a, int mask, Bytes b) {
        return _mm512_ternarylogic_epi32(a, splat(mask), b, 0xea);
    }
    static BQ_INLINE Bytes sub_bytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
    static BQ_INLINE Bytes raised(Bytes a) { return _mm512_xor_si512(a, splat(0x80)); }
    static BQ_INLINE Bytes levels(const int8_t (&table)[16], int raise) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        return _mm512_broadcast_i32x4(_mm_add_epi8(bytes, _mm_set1_epi8(static_cast<char>(raise))));
    }
    static BQ_INLINE Bytes look_up(Bytes table, Bytes nibbles) { return _mm512_shuffle_epi8(table, nibbles); }

    template <int i>
    static BQ_INLINE Ints pick(Bytes a) {
        return _mm512_shuffle_epi8(a, each_word(static_cast<int>(0x80808000u) | i));
    }
    template <int i>
    static BQ_INLINE Ints pick_signed(Bytes a) {
        return i == 3 ? _mm512_srai_epi32(a, 24) : _mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * i), 24);
    }
    template <int i, int j>
    static BQ_INLINE Ints pick_pair(Bytes a) {
        return _mm512_shuffle_epi8(a, each_word(static_cast<int>(0x80008000u) | j << 16 | i));
    }
    template <int i, int j>
    static BQ_INLINE Ints pick_signed_pair(Bytes a) {
        const __m512i high = pick_high_pair<i, j>(a);
        return _mm512_srai_epi16(high, 8);
    }
    // Bytes i and j as the upper halves of two words of 16 bits.
    template <int i, int j>
    static BQ_INLINE Ints pick_high_pair(Bytes a) {
        return _mm512_shuffle_epi8(a, each_word(0x00800080 | j << 24 | i << 8));
    }

    // Of 32 bits.
    template <int kShift>
    static BQ_INLINE Ints int_field(Ints a, int mask) {
        const __m512i moved = kShift >= 0 ? _mm512_srli_epi32(a, kShift >= 0 ? kShift : 0)
                                          : _mm512_slli_epi32(a, kShift >= 0 ? 0 : -kShift);
        return _mm512_and_si512(moved, splat_ints(mask));
    }
    template <int kShift>
    static BQ_INLINE Ints down(Ints a) {
        return _mm512_srai_epi32(a, kShift);
    }

    static BQ_INLINE Ints no_ints() { return _mm512_setzero_si512(); }
    static BQ_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static BQ_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
    static BQ_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
    static BQ_INLINE Ints dot_pair(Ints sum, Ints words, const int16_t* two) {
        return _mm512_dpwssd_epi32(sum, words, _mm512_set1_epi32(load_as<int32_t>(two)));
    }
    template <int kTop, int kSteps>
    static BQ_INLINE Ints dots(const Bytes* u, const int8_t* x, Ints sum) {
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            sum = _mm512_dpbusd_epi32(sum, u[i], _mm512_set1_epi32(load_as<int32_t>(x + 4 * i)));
        });
        return sum;
    }

    static BQ_INLINE Floats zero() { return _mm512_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm512_set1_ps(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    static BQ_INLINE Floats f16(const uint8_t* p) { return _mm512_cvtph_ps(Avx2::load(p)); }
    static BQ_INLINE Ints u16(const uint8_t* p) { return _mm512_cvtepu16_epi32(Avx2::load(p)); }
    static BQ_INLINE Floats half_of_e8m0(const uint8_t* p) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m512i e = _mm512_cvtepu16_epi32(_mm256_cvtepu8_epi16(bytes)), one = splat_ints(1);
        const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, one), 23);
        const __m512i small = _mm512_slli_epi32(_mm512_add_epi32(e, one), 21);
        return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(e, one), small, normal));
    }
    // Of 32 bits each. Subnormal ones get an exponent, of which what was not there is taken off: as subnormal
    // floats they would be slow, and weights of models often have such scales.
    static BQ_INLINE Floats half_of_ue4m3(Ints a) {
        const __m512i most = splat_ints(0x7f), bits = _mm512_and_si512(a, most);
        const __mmask16 small = _mm512_cmpgt_epi32_mask(splat_ints(8), bits);
        const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(bits, 20), splat_ints(119 << 23));
        const __m512 value =
            _mm512_castsi512_ps(_mm512_mask_add_epi32(high, small, high, splat_ints(1 << 23)));
        const __m512 number = _mm512_mask_sub_ps(value, small, value, _mm512_set1_ps(0x1p-7f));
        // Only without a sign it is the NaN that counts as zero.
        const __m512i byte = _mm512_and_si512(a, splat_ints(0xff));
        const auto none = _mm512_cmpeq_epi32_mask(byte, most);
        return _mm512_maskz_mov_ps(static_cast<__mmask16>(~none), number);
    }
    static BQ_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }

    static BQ_INLINE void transpose(const int8_t* from, int8_t* to) { StripAvx2::transpose(from, to); }

  private:
    // The control of a shuffle of bytes, for each word the same but for the place of the word.
    static BQ_INLINE __m512i each_word(int control) {
        const __m128i words =
            _mm_add_epi8(_mm_set1_epi32(control), _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
        return _mm512_broadcast_i32x4(words);
    }
};

}  // namespace
}  // namespace bq
