// What the product of many rows needs of AVX2; each operation is described in tile_scalar.hpp.
//   dots         vpmaddubsw with weights of at most 127, whose sums stay in int16 for as many steps as fit
//   signed_dots  for weights of eight bits: vpmaddubsw with their magnitudes; the activations of negative
//   ones
//                are complemented, which is one less than negated
#pragma once

#include "simd/avx2.hpp"

namespace bq {
namespace {

struct TileAvx2 {
    using Weights = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kRows = 6;
    static constexpr int kFloatRows = 10;
    static constexpr int kLargestWeight = 127;
    static constexpr bool kSignedWeights = false;
    static constexpr bool kIntegerBlocks = false;

    static BQ_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
    static BQ_INLINE void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }
    static BQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static BQ_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }

    // The compiler must add one after the other: as a tree the terms would not fit the registers.
    static BQ_INLINE void keep_order([[maybe_unused]] __m256i& sum) {
#if defined(__GNUC__)
        __asm__("" : "+x"(sum));
#endif
    }

    // Products of pairs that int16 can add up without overflow.
    template <int kTop>
    static constexpr int pairs() {
        return kTop <= 15 ? 8 : kTop <= 31 ? 4 : kTop <= 63 ? 2 : 1;
    }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        constexpr int kPairs = pairs<kTop>() < kSteps ? pairs<kTop>() : kSteps;
        const __m256i ones = _mm256_set1_epi16(1);
        for (int r = 0; r < kCount; ++r) sum[r] = _mm256_set1_epi32(start[r]);
        unroll<kSteps / kPairs>([&](auto part) BQ_INLINE_LAMBDA {
            __m256i words[kCount];
            unroll<kPairs>([&](auto i) BQ_INLINE_LAMBDA {
                const int step = part * kPairs + i;
                const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * step));
                for (int r = 0; r < kCount; ++r) {
                    const __m256i x = _mm256_set1_epi32(load_as<int32_t>(a + 4 * (kCount * step + r)));
                    const __m256i products = _mm256_maddubs_epi16(u, x);
                    words[r] = i == 0 ? products : _mm256_add_epi16(words[r], products);
                    keep_order(words[r]);
                }
            });
            for (int r = 0; r < kCount; ++r) {
                sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(words[r], ones));
                keep_order(sum[r]);
            }
        });
    }

    static BQ_INLINE int32_t sum_of_negatives(__m256i w) {
        const __m256i magnitudes = _mm256_abs_epi8(_mm256_min_epi8(w, _mm256_setzero_si256()));
        const __m256i sums = _mm256_sad_epu8(magnitudes, _mm256_setzero_si256());
        const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
    }

    // The complement of x is -x - 1, so `negatives` make up for it. No pair saturates: a weight of -128 meets
    // at most 126, and two times -128 times 128 is the least of int16.
    template <int kSteps, int kCount>
    static BQ_INLINE void signed_dots(const uint8_t* w, const int8_t* a, const int32_t* negatives,
                                      Ints (&sum)[kCount]) {
        const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
        const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(negatives));
        for (int r = 0; r < kCount; ++r) sum[r] = first;
        unroll<kSteps>([&](auto step) BQ_INLINE_LAMBDA {
            const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * step));
            const __m256i magnitude = _mm256_abs_epi8(u), negative = _mm256_cmpgt_epi8(zero, u);
            for (int r = 0; r < kCount; ++r) {
                const __m256i x = _mm256_xor_si256(
                    _mm256_set1_epi32(load_as<int32_t>(a + 4 * (kCount * step + r))), negative);
                const __m256i words = _mm256_maddubs_epi16(magnitude, x);
                sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(words, ones));
                keep_order(sum[r]);
            }
        });
    }
};

}  // namespace
}  // namespace bq
