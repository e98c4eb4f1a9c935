// What the products of strips need of AVX2: eight weight rows; each operation is described in
// strip_avx512.hpp.
//   dots  vpmaddubsw with weights of at most 127, whose sums stay in int16 for as many steps as fit; for
//   weights of
//         eight signed bits with their sign moved to the activations
#pragma once

#include "formats/format.hpp"
#include "simd/avx2.hpp"
#include "simd/tile_avx2.hpp"

namespace bq {
namespace {

struct StripAvx2 {
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kLanes = 8;
    static constexpr bool kRaised = false, kLeavesPlaces = false;
    static constexpr bool kSumsWords = true;
    static constexpr bool outruns_memory(FormatId) { return false; }

    static BQ_INLINE Bytes load(const uint8_t* p) { return Avx2::load(p); }
    static BQ_INLINE Bytes splat(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
    static BQ_INLINE Bytes splat_words(int word) { return _mm256_set1_epi16(static_cast<short>(word)); }
    static BQ_INLINE Bytes splat_ints(int value) { return _mm256_set1_epi32(value); }
    template <int kShift>
    static BQ_INLINE Bytes shifted(Bytes a) {
        if constexpr (kShift > 0) return _mm256_srli_epi16(a, kShift);
        if constexpr (kShift < 0) return _mm256_slli_epi16(a, -kShift);
        return a;
    }
    static BQ_INLINE Bytes moved(Bytes a, int left, int right) {
        return _mm256_srl_epi16(_mm256_sll_epi16(a, _mm_cvtsi32_si128(left)), _mm_cvtsi32_si128(right));
    }
    template <int kShift>
    static BQ_INLINE Bytes field(Bytes a, int mask) {
        return _mm256_and_si256(shifted<kShift>(a), splat(mask));
    }
    static BQ_INLINE Bytes masked_or(Bytes a, int mask, Bytes b) {
        return _mm256_or_si256(_mm256_and_si256(a, splat(mask)), b);
    }
    static BQ_INLINE Bytes sub_bytes(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
    static BQ_INLINE Bytes raised(Bytes a) { return a; }
    static BQ_INLINE Bytes levels(const int8_t (&table)[16], int raise) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        return _mm256_broadcastsi128_si256(_mm_add_epi8(bytes, _mm_set1_epi8(static_cast<char>(raise))));
    }
    static BQ_INLINE Bytes look_up(Bytes table, Bytes nibbles) { return _mm256_shuffle_epi8(table, nibbles); }

    template <int i>
    static BQ_INLINE Ints pick(Bytes a) {
        return _mm256_shuffle_epi8(a, each_word(static_cast<int>(0x80808000u) | i));
    }
    template <int i>
    static BQ_INLINE Ints pick_signed(Bytes a) {
        return i == 3 ? _mm256_srai_epi32(a, 24) : _mm256_srai_epi32(_mm256_slli_epi32(a, 24 - 8 * i), 24);
    }
    template <int i, int j>
    static BQ_INLINE Ints pick_pair(Bytes a) {
        return _mm256_shuffle_epi8(a, each_word(static_cast<int>(0x80008000u) | j << 16 | i));
    }
    template <int i, int j>
    static BQ_INLINE Ints pick_signed_pair(Bytes a) {
        return _mm256_srai_epi16(_mm256_shuffle_epi8(a, each_word(0x00800080 | j << 24 | i << 8)), 8);
    }
    template <int kShift>
    static BQ_INLINE Ints int_field(Ints a, int mask) {
        const __m256i moved = kShift >= 0 ? _mm256_srli_epi32(a, kShift >= 0 ? kShift : 0)
                                          : _mm256_slli_epi32(a, kShift >= 0 ? 0 : -kShift);
        return _mm256_and_si256(moved, splat_ints(mask));
    }

    static BQ_INLINE Ints no_ints() { return _mm256_setzero_si256(); }
    static BQ_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static BQ_INLINE Ints sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
    static BQ_INLINE Ints mul(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
    static BQ_INLINE Ints dot_pair(Ints sum, Ints words, const int16_t* two) {
        return add(sum, _mm256_madd_epi16(words, _mm256_set1_epi32(load_as<int32_t>(two))));
    }

    // Weights 0..kTop as `products` wants them; signed ones (kTop 255) with their magnitudes.
    struct SignedFactors {
        Bytes magnitude, weight;
    };
    template <int kTop>
    static BQ_INLINE auto factors(Bytes u) {
        if constexpr (kTop > 127)
            return SignedFactors{_mm256_abs_epi8(u), u};
        else
            return u;
    }
    static BQ_INLINE Ints products(Bytes u, const int8_t* four) {
        return _mm256_maddubs_epi16(u, _mm256_set1_epi32(load_as<int32_t>(four)));
    }
    static BQ_INLINE Ints products(const SignedFactors& u, const int8_t* four) {
        const __m256i x = _mm256_set1_epi32(load_as<int32_t>(four));
        return _mm256_maddubs_epi16(u.magnitude, _mm256_sign_epi8(x, u.weight));
    }
    template <int kTop, int kSteps>
    static constexpr int pairs() {
        return TileAvx2::pairs<kTop, kSteps>();
    }
    static BQ_INLINE Ints add_words(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
    static BQ_INLINE Ints widened(Ints words, Ints factor) { return _mm256_madd_epi16(words, factor); }
    // The compiler must not put all products before all additions: they would not fit the registers.
    static BQ_INLINE void keep_order([[maybe_unused]] Ints& sum) {
#if defined(__GNUC__)
        __asm__("" : "+x"(sum));
#endif
    }
    static BQ_INLINE Ints sub_words(Ints a, Ints b) { return _mm256_sub_epi16(a, b); }
    static BQ_INLINE Ints low_words_twice(Ints a) { return _mm256_shuffle_epi8(a, each_word(0x01000100)); }
    static BQ_INLINE Ints high_words_twice(Ints a) { return _mm256_shuffle_epi8(a, each_word(0x03020302)); }
    // Of 16 words the sum in each lane; the sums of pairs of them, in order or those 4 apart beside each
    // other.
    static BQ_INLINE Ints sum_of_words(const int16_t* words) {
        const __m256i pairs = two_of_each(words);
        const __m256i four = add(pairs, _mm256_permute2x128_si256(pairs, pairs, 1));
        const __m256i eight = add(four, _mm256_shuffle_epi32(four, 0x4e));
        return add(eight, _mm256_shuffle_epi32(eight, 0xb1));
    }
    static BQ_INLINE void sums_of_pairs(const int16_t* words, int16_t* out) {
        const __m256i pairs = two_of_each(words);
        _mm_store_si128(reinterpret_cast<__m128i*>(out),
                        _mm_packs_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
    }
    static BQ_INLINE void sums_of_pairs_4_apart(const int16_t* words, int16_t* out) {
        const __m256i pairs = two_of_each(words);
        const __m128i later = _mm_slli_epi32(_mm256_extracti128_si256(pairs, 1), 16);
        _mm_store_si128(reinterpret_cast<__m128i*>(out),
                        _mm_blend_epi16(_mm256_castsi256_si128(pairs), later, 0xaa));
    }

    static BQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    static BQ_INLINE Floats f16(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static BQ_INLINE Ints u16(const uint8_t* p) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    // 16 bytes as words.
    static BQ_INLINE Ints bytes_apart(const uint8_t* p) {
        return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static BQ_INLINE Floats half_of_e8m0(const uint8_t* p) {
        const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        return _mm256_castsi256_ps(
            _mm256_blendv_epi8(small, normal, _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1))));
    }
    static BQ_INLINE Floats half_of_ue4m3(Ints a) {
        const __m256i most = _mm256_set1_epi32(0x7f), bits = _mm256_and_si256(a, most);
        const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), bits);
        __m256i value = _mm256_add_epi32(_mm256_slli_epi32(bits, 20), _mm256_set1_epi32(119 << 23));
        value = _mm256_sub_epi32(value, _mm256_slli_epi32(small, 23));
        const __m256 too_much = _mm256_and_ps(_mm256_castsi256_ps(small), _mm256_set1_ps(0x1p-7f));
        const __m256 number = _mm256_sub_ps(_mm256_castsi256_ps(value), too_much);
        // Only without a sign it is the NaN that counts as zero.
        const __m256i byte = _mm256_and_si256(a, _mm256_set1_epi32(0xff));
        return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(byte, most)), number);
    }
    static BQ_INLINE void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }
    static BQ_INLINE void store_bytes(uint8_t* p, Bytes a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
    }
    static BQ_INLINE void store_ints(int32_t* p, Ints a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
    }
    // Of the signed bytes of each lane the magnitudes of the negative ones.
    static BQ_INLINE Ints sum_of_negatives(const Bytes (&u)[8]) {
        __m256i words = _mm256_setzero_si256();
        unroll<8>([&](auto i) BQ_INLINE_LAMBDA {
            const __m256i magnitudes = _mm256_abs_epi8(_mm256_min_epi8(u[i], _mm256_setzero_si256()));
            words = _mm256_add_epi16(words, _mm256_maddubs_epi16(magnitudes, splat(1)));
        });
        return _mm256_madd_epi16(words, splat_words(1));
    }

    static BQ_INLINE void transpose(const int8_t* from, int8_t* to) {
        const __m256i pairs = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1,
                                               9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
        const __m256i mixed = _mm256_shuffle_epi8(Avx2::load(from), pairs);
        const __m128i low = _mm256_castsi256_si128(mixed), high = _mm256_extracti128_si256(mixed, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi16(low, high));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16), _mm_unpackhi_epi16(low, high));
    }

  private:
    static BQ_INLINE __m256i two_of_each(const int16_t* words) {
        return _mm256_madd_epi16(Avx2::load(reinterpret_cast<const uint8_t*>(words)), splat_words(1));
    }
    static BQ_INLINE __m256i each_word(int control) {
        const __m128i words =
            _mm_add_epi8(_mm_set1_epi32(control), _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
        return _mm256_broadcastsi128_si256(words);
    }
};

}  // namespace
}  // namespace bq
