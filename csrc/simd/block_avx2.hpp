// What the fused dot of super-blocks (csrc/matmul/dot_blocks.hpp) needs of AVX2:
//   kChunk         elements that are multiplied at once
//   spread, factor the integer scales, laid out so that factor(spread, j) has those of chunk j, one for each
//   pair Dot<id>        chunk(b, j), the integers kOffset above the values; add(sum, first, chunk, a, factor)
// Here chunks are those of Unpack; pairs of products fit int16 since no integer exceeds 127. Signed integers
// give their sign to the activations.
#pragma once

#include "simd/avx2.hpp"
#include "simd/super_block.hpp"

namespace bq {
namespace {

struct BlockAvx2 {
    using Base = Avx2;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kChunk = 32;

    static BQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    static BQ_INLINE float total(Floats a) { return Avx2::sum(a); }

    // The even scales in the low half, the odd ones in the high half.
    static BQ_INLINE __m256i spread(__m256i scales) {
        const __m256i evens_first = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0,
                                                     1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(scales, evens_first), 0xd8);
    }
    static BQ_INLINE __m256i factor(__m256i spread, int j) {
        return _mm256_shuffle_epi8(spread, _mm256_set1_epi16(static_cast<short>((2 * j + 1) << 8 | 2 * j)));
    }

    template <FormatId id>
    struct Dot {
        using F = Unpack<Avx2, id>;
        static constexpr int kOffset = F::kOffset;
        static constexpr int kTogether = 1;
        struct Opened {
            BQ_INLINE Opened(const uint8_t*, const uint8_t*) {}
        };
        static BQ_INLINE __m256i chunk(const Opened&, int, const uint8_t* b, int j) { return F::chunk(b, j); }
        static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* b) {
            return SuperBlock<Avx2, id>::scales(b);
        }
        static BQ_INLINE void add(Ints& sum, bool first, __m256i c, const int8_t* a, __m256i factor) {
            const __m256i x = Avx2::load(a);
            const __m256i pairs = F::kSigned
                                      ? _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c))
                                      : _mm256_maddubs_epi16(c, x);
            const __m256i fours =
                _mm256_madd_epi16(pairs, SuperBlock<Avx2, id>::kUnitScale ? _mm256_set1_epi16(1) : factor);
            sum = first ? fours : _mm256_add_epi32(sum, fours);
        }
    };
};

}  // namespace
}  // namespace bq
