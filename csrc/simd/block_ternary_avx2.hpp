// The fused dot of the ternary formats with AVX2; described in block_avx2.hpp. All scales are 1, and products
// of trits are small: those of a whole super-block are added up as pairs, in int16.
#pragma once

#include "simd/block_dot_avx2.hpp"

namespace bq {
namespace {

struct TritsAvx2 {
    static constexpr int kOffset = 0, kTogether = 1;
    static BQ_INLINE void add(__m256i& sum, bool first, __m256i c, const int8_t* a, __m256i) {
        const __m256i pairs = _mm256_maddubs_epi16(c, Avx2::load(a));
        sum = first ? pairs : _mm256_add_epi16(sum, pairs);
        keep_in_register(sum);
    }
    // Trits are stored one above their values.
    template <class Opened>
    static BQ_INLINE __m256i finish(const Opened&, __m256i sum, const int16_t* sums) {
        return _mm256_madd_epi16(_mm256_sub_epi16(sum, Avx2::load(sums)), _mm256_set1_epi16(1));
    }
};

template <>
struct DotAvx2<FormatId::TQ1_0> : TritsAvx2 {
    // Bytes whose first trits are those of the chunks, above 128.
    struct Opened {
        __m256i at[8];
        // The digit counts the thirds of 256 reached, 86 and 171: here what is just below. gcc must not know
        // them, else it takes two instructions for a comparison with the first.
        __m256i below_1 = _mm256_set1_epi8(85 - 128), below_2 = _mm256_set1_epi8(170 - 128);
        BQ_INLINE Opened(const uint8_t* b, const uint8_t*) {
            keep_in_register(below_1);
            keep_in_register(below_2);
            static_assert(offsetof(BlockTQ1_0, qs) == 0 && offsetof(BlockTQ1_0, qh) == 48);
            const __m256i half = _mm256_set1_epi8(-128);
            at[0] = _mm256_xor_si256(Avx2::load(b), half);
            for (int i = 1; i < 5; ++i) at[i] = times_3(at[i - 1]);
            // Two trits of the last 16 bytes, or in the last chunk one of them and four of the bytes of qh.
            const __m256i last = _mm256_xor_si256(
                _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 32))), half);
            const __m256i powers = _mm256_setr_epi32(0x00510051, 0x00510051, 0x00510051, 0x00510051,
                                                     0x00010001, 0x00030003, 0x00090009, 0x001b001b);
            const __m256i bytes = _mm256_blend_epi32(
                last, _mm256_xor_si256(_mm256_set1_epi32(load_as<int32_t>(b + 48)), half), 0xf0);
            const __m256i low_byte = _mm256_set1_epi16(255);
            at[5] = _mm256_blend_epi32(last, times_3(last), 0xf0);
            at[6] = times_3(times_3(at[5]));
            at[7] = _mm256_or_si256(_mm256_and_si256(_mm256_mullo_epi16(bytes, powers), low_byte),
                                    _mm256_mullo_epi16(_mm256_andnot_si256(low_byte, bytes), powers));
        }
        // Odd multiples of 128 are 128 in a byte.
        static BQ_INLINE __m256i times_3(__m256i a) { return _mm256_add_epi8(_mm256_add_epi8(a, a), a); }
    };
    static BQ_INLINE __m256i chunk(const Opened& o, int, const uint8_t*, int j) {
        return _mm256_abs_epi8(
            _mm256_add_epi8(_mm256_cmpgt_epi8(o.at[j], o.below_1), _mm256_cmpgt_epi8(o.at[j], o.below_2)));
    }
};

template <>
struct DotAvx2<FormatId::TQ2_0> : TritsAvx2 {
    struct Opened {
        BQ_INLINE Opened(const uint8_t*, const uint8_t*) {}
    };
    static BQ_INLINE __m256i chunk(const Opened&, int, const uint8_t* b, int j) {
        return Unpack<Avx2, FormatId::TQ2_0>::chunk(b, j);
    }
};

}  // namespace
}  // namespace bq
