// What the product of many rows needs of AVX2; each operation is described in tile_scalar.hpp.
//   dots         vpmaddubsw with weights of at most 127, whose sums stay in int16 for as many steps as fit
//   signed_dots  for weights of eight bits: vpmaddubsw with their magnitudes; the activations of negative
//   ones
//                are complemented, which is one less than negated
// Two vectors of weights side by side, so that a broadcast serves two products: with one, loads would bind.
#pragma once

#include "simd/avx2.hpp"

namespace bq {
namespace {

struct TileAvx2 {
    struct Ints {
        __m256i v[2];
    };
    struct Floats {
        __m256 v[2];
    };
    static constexpr int kLanes = 16;
    static constexpr int kRows = 4;
    static constexpr int kFloatRows = 6;
    static constexpr bool kRowsInLanes = true;
    static constexpr int kLargestWeight = 127;
    static constexpr bool kSignedWeights = false;
    static constexpr bool kIntegerBlocks = false, kIntegerScales = true;

    static BQ_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static BQ_INLINE void store(float* p, Floats a) {
        _mm256_storeu_ps(p, a.v[0]);
        _mm256_storeu_ps(p + 8, a.v[1]);
    }
    static BQ_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static BQ_INLINE Floats splat(float value) {
        const __m256 both = _mm256_set1_ps(value);
        return {both, both};
    }
    static BQ_INLINE Floats mul(Floats a, Floats b) {
        return {_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])};
    }
    static BQ_INLINE Floats add(Floats a, Floats b) {
        return {_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])};
    }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) {
        return {_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])};
    }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) {
        return {_mm256_fnmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fnmadd_ps(a.v[1], b.v[1], c.v[1])};
    }
    static BQ_INLINE Floats to_floats(Ints a) {
        return {_mm256_cvtepi32_ps(a.v[0]), _mm256_cvtepi32_ps(a.v[1])};
    }
    static BQ_INLINE Ints splat_ints(int32_t value) {
        const __m256i both = _mm256_set1_epi32(value);
        return {both, both};
    }

    static BQ_INLINE Ints splat_word_pairs(int word) {
        const __m256i all = _mm256_set1_epi16(static_cast<short>(word));
        return {all, all};
    }
    static BQ_INLINE Ints load_words(const int16_t* p) {
        return load_bytes(reinterpret_cast<const uint8_t*>(p));
    }
    static BQ_INLINE Ints load_ints(const int32_t* p) {
        return load_bytes(reinterpret_cast<const uint8_t*>(p));
    }
    static BQ_INLINE void store_ints(int32_t* p, Ints a) {
        for (int h = 0; h < 2; ++h) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8 * h), a.v[h]);
    }
    static BQ_INLINE Ints sub_ints(Ints a, Ints b) {
        return {_mm256_sub_epi32(a.v[0], b.v[0]), _mm256_sub_epi32(a.v[1], b.v[1])};
    }

    // The compiler must add one after the other: as a tree the terms would not fit the registers.
    static BQ_INLINE void keep_order([[maybe_unused]] Ints& sum) {
#if defined(__GNUC__)
        __asm__("" : "+x"(sum.v[0]), "+x"(sum.v[1]));
#endif
    }
    static BQ_INLINE Ints load_bytes(const uint8_t* w) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32))};
    }

    // Products of pairs that int16 can add up without overflow, at most `steps`, given the largest product of
    // two.
    static constexpr int pairs_up_to(int product, int steps) {
        int pairs = 8;
        while (pairs > 1 && pairs * 2 * product > 32767) pairs /= 2;
        return pairs < steps ? pairs : steps;
    }
    // The same for weights up to kTop.
    template <int kTop, int kSteps>
    static constexpr int pairs() {
        return pairs_up_to(127 * kTop, kSteps);
    }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = splat_ints(start[r]); });
        add_scaled_dots<pairs<kTop, kSteps>(), kSteps, false>(w, a, splat_word_pairs(1), sum);
    }

    template <int kPairs, int kSteps, bool kRaised, int kCount>
    static BQ_INLINE void add_scaled_dots(const uint8_t* w, const int8_t* a, Ints scale,
                                          Ints (&sum)[kCount]) {
        unroll<kSteps / kPairs>([&](auto part) BQ_INLINE_LAMBDA {
            Ints words[kCount];
            unroll<kPairs>([&](auto i) BQ_INLINE_LAMBDA {
                const int step = part * kPairs + i;
                const Ints u = load_bytes(w + 64 * step);
                unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                    const __m256i x = four(a, kCount * step + r);
                    for (int h = 0; h < 2; ++h) {
                        const __m256i products =
                            kRaised ? _mm256_maddubs_epi16(x, u.v[h]) : _mm256_maddubs_epi16(u.v[h], x);
                        words[r].v[h] = i == 0 ? products : _mm256_add_epi16(words[r].v[h], products);
                    }
                    keep_order(words[r]);
                    // At once, so that they do not take registers: eight sums need them.
                    if constexpr (kPairs == 1) add_words(words[r], scale, sum[r]);
                });
            });
            if constexpr (kPairs > 1)
                unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { add_words(words[r], scale, sum[r]); });
        });
    }

    template <int kCount>
    static BQ_INLINE void add_words(const int16_t* w, const int16_t* a, Ints (&sum)[kCount]) {
        const Ints words = load_words(w);
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
            const __m256i two = _mm256_set1_epi32(load_as<int32_t>(a + 2 * r));
            add_words(words, {two, two}, sum[r]);
        });
    }

    static BQ_INLINE int32_t sum_of_negatives(__m256i w) {
        const __m256i magnitudes = _mm256_abs_epi8(_mm256_min_epi8(w, _mm256_setzero_si256()));
        const __m256i sums = _mm256_sad_epu8(magnitudes, _mm256_setzero_si256());
        const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
    }

    // The complement of x is -x - 1, so `negatives` make up for it.
    template <int kSteps, int kCount>
    static BQ_INLINE void signed_dots(const uint8_t* w, const int8_t* a, const int32_t* negatives,
                                      Ints (&sum)[kCount]) {
        const Ints first = load_ints(negatives);
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = first; });
        add_scaled_signed_dots<kSteps>(w, a, splat_word_pairs(1), sum);
    }

    // No pair saturates: a weight of -128 meets at most 126, and two times -128 times 128 is the least of
    // int16.
    template <int kSteps, int kCount>
    static BQ_INLINE void add_scaled_signed_dots(const uint8_t* w, const int8_t* a, Ints scale,
                                                 Ints (&sum)[kCount]) {
        const __m256i zero = _mm256_setzero_si256();
        unroll<kSteps>([&](auto step) BQ_INLINE_LAMBDA {
            const Ints u = load_bytes(w + 64 * step);
            Ints magnitude, negative;
            for (int h = 0; h < 2; ++h) {
                magnitude.v[h] = _mm256_abs_epi8(u.v[h]);
                negative.v[h] = _mm256_cmpgt_epi8(zero, u.v[h]);
            }
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const __m256i x = four(a, kCount * step + r);
                Ints words;
                for (int h = 0; h < 2; ++h)
                    words.v[h] = _mm256_maddubs_epi16(magnitude.v[h], _mm256_xor_si256(x, negative.v[h]));
                add_words(words, scale, sum[r]);
            });
        });
    }

  private:
    static BQ_INLINE __m256i four(const int8_t* a, int i) {
        return _mm256_set1_epi32(load_as<int32_t>(a + 4 * i));
    }
    static BQ_INLINE void add_words(const Ints& words, const Ints& factors, Ints& sum) {
        for (int h = 0; h < 2; ++h)
            sum.v[h] = _mm256_add_epi32(sum.v[h], _mm256_madd_epi16(words.v[h], factors.v[h]));
        keep_order(sum);
    }
};

}  // namespace
}  // namespace bq
