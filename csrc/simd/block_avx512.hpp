// What the fused dot of super-blocks needs of AVX-512 VNNI; described in block_avx2.hpp. Chunks have 64
// elements, two fields of the same 32 bytes side by side where the format stores them so.
//   vpmaddubsw, vpdpwssd  where pairs of products fit int16: the factors multiply and add in one
//   vpdpbusd, vpmulld     for signed integers, raised by 128
#pragma once

#include "simd/avx512.hpp"
#include "simd/super_block.hpp"

namespace bq {
namespace {

struct BlockAvx512 {
    using Base = Avx512;
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr int kChunk = 64;
    static constexpr bool kEightRows = false;  // not measured

    static BQ_INLINE Floats zero() { return _mm512_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm512_set1_ps(value); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    static BQ_INLINE float total(Floats a) { return Avx512::wide_sum(a); }

    static BQ_INLINE __m512i spread(__m256i scales) { return _mm512_castsi256_si512(scales); }
    // Scale 4 j + i eight times, for i = 0 to 3.
    static BQ_INLINE __m512i factor(__m512i spread, int j) {
        const __m512i lane =
            _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002, 0x0002000200020002,
                             0x0001000100010001, 0x0001000100010001, 0, 0);
        return _mm512_permutexvar_epi16(_mm512_add_epi16(lane, _mm512_set1_epi16(static_cast<short>(4 * j))),
                                        spread);
    }

    // The 32 bytes at p twice, shifted right by `low` bits and by `high` bits.
    static BQ_INLINE __m512i two_fields(const uint8_t* p, int low, int high) {
        const __m512i both = _mm512_broadcast_i64x4(Avx2::load(p));
        const __m512i counts = _mm512_inserti64x4(_mm512_set1_epi16(static_cast<short>(low)),
                                                  _mm256_set1_epi16(static_cast<short>(high)), 1);
        return _mm512_srlv_epi16(both, counts);
    }
    // The same to the left.
    static BQ_INLINE __m512i two_fields_up(const uint8_t* p, int low, int high) {
        const __m512i both = _mm512_broadcast_i64x4(Avx2::load(p));
        const __m512i counts = _mm512_inserti64x4(_mm512_set1_epi16(static_cast<short>(low)),
                                                  _mm256_set1_epi16(static_cast<short>(high)), 1);
        return _mm512_sllv_epi16(both, counts);
    }
    static BQ_INLINE __m512i masked(__m512i a, int mask) {
        return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask)));
    }
    // (a & mask) | b
    static BQ_INLINE __m512i masked_or(__m512i a, int mask, __m512i b) {
        return _mm512_ternarylogic_epi32(a, _mm512_set1_epi8(static_cast<char>(mask)), b, 0xea);
    }

    template <FormatId id>
    static BQ_INLINE __m512i chunk(const uint8_t* b, int j) {
        using enum FormatId;
        if constexpr (id == Q2_K || id == TQ2_0) {
            const uint8_t* qs = b + (id == Q2_K ? offsetof(BlockQ2_K, qs) : offsetof(BlockTQ2_0, qs));
            return masked(two_fields(qs + j / 2 * 32, 4 * (j % 2), 4 * (j % 2) + 2), 3);
        } else if constexpr (id == Q3_K) {
            const __m512i low =
                masked(two_fields(b + offsetof(BlockQ3_K, qs) + j / 2 * 32, 4 * (j % 2), 4 * (j % 2) + 2), 3);
            const uint8_t* high = b + offsetof(BlockQ3_K, hmask);  // bits 2 j and 2 j + 1 to bit 2
            return masked_or(j == 0 ? two_fields_up(high, 2, 1) : two_fields(high, 2 * j - 2, 2 * j - 1), 4,
                             low);
        } else if constexpr (id == Q4_K) {
            return masked(two_fields(b + offsetof(BlockQ4_K, qs) + 32 * j, 0, 4), 15);
        } else if constexpr (id == Q5_K) {
            const __m512i low = masked(two_fields(b + offsetof(BlockQ5_K, qs) + 32 * j, 0, 4), 15);
            const uint8_t* high = b + offsetof(BlockQ5_K, qh);  // bits 2 j and 2 j + 1 to bit 4
            if (j < 2) return masked_or(two_fields_up(high, 4 - 2 * j, 3 - 2 * j), 16, low);
            return masked_or(two_fields(high, 2 * j - 4, 2 * j - 3), 16, low);
        } else if constexpr (id == Q6_K) {
            __m512i low = _mm512_loadu_si512(b + offsetof(BlockQ6_K, ql) + j / 2 * 64);
            if (j % 2 == 1) low = _mm512_srli_epi16(low, 4);
            low = masked(low, 15);
            const uint8_t* high = b + offsetof(BlockQ6_K, qh) + j / 2 * 32;  // pairs of bits to bits 4 and 5
            return masked_or(j % 2 == 0 ? two_fields_up(high, 4, 2) : two_fields(high, 0, 2), 48, low);
        } else if constexpr (id == IQ4_XS) {
            // Each half of the 32 bytes twice, the second time its high nibbles; levels raised by 128.
            const __m512i bytes = _mm512_castsi256_si512(Avx2::load(b + offsetof(BlockIQ4_XS, qs) + 32 * j));
            const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), bytes);
            const __m512i nibbles = masked(
                _mm512_srlv_epi16(twice, _mm512_setr_epi64(0, 0, 0x0004000400040004, 0x0004000400040004, 0, 0,
                                                           0x0004000400040004, 0x0004000400040004)),
                15);
            const __m128i levels =
                _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(iq4::kLevels)),
                              _mm_set1_epi8(static_cast<char>(0x80)));
            return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), nibbles);
        } else {
            using F = Unpack<Avx512, id>;
            const __m512i c =
                _mm512_inserti64x4(_mm512_castsi256_si512(F::chunk(b, 2 * j)), F::chunk(b, 2 * j + 1), 1);
            return F::kSigned ? _mm512_xor_si512(c, _mm512_set1_epi8(static_cast<char>(0x80))) : c;
        }
    }

    template <FormatId id>
    struct Dot {
        using F = Unpack<Avx512, id>;
        static constexpr int kOffset = F::kSigned ? 128 : F::kOffset;
        static constexpr int kTogether = 1;
        struct Opened {
            BQ_INLINE Opened(const uint8_t*, const uint8_t*) {}
        };
        static BQ_INLINE __m512i chunk(const Opened&, int, const uint8_t* b, int j) {
            return BlockAvx512::chunk<id>(b, j);
        }
        static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* b) {
            return SuperBlock<Avx512, id>::scales(b);
        }
        static BQ_INLINE void add(Ints& sum, bool first, __m512i c, const int8_t* a, __m512i factor) {
            const __m512i x = _mm512_loadu_si512(a), start = first ? _mm512_setzero_si512() : sum;
            if constexpr (SuperBlock<Avx512, id>::kUnitScale) {
                sum = _mm512_dpbusd_epi32(start, c, x);
            } else if constexpr (F::kSigned) {
                // The factors are words, twice each: multiplied with the low and (0) the high word of a
                // product.
                const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c, x);
                const __m512i wide = _mm512_srai_epi32(factor, 16);
                sum = _mm512_add_epi32(start, _mm512_mullo_epi32(fours, wide));
            } else {
                sum = _mm512_dpwssd_epi32(start, _mm512_maddubs_epi16(c, x), factor);
            }
        }
    };
};

}  // namespace
}  // namespace bq
