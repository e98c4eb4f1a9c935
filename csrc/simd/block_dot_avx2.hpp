// Dot<id> of block_avx2.hpp, where it is described: here for the formats whose chunks are those of Unpack.
// Pairs of products fit int16 since no integer exceeds 127. Signed integers give their sign to the
// activations.
#pragma once

#include "simd/avx2.hpp"
#include "simd/super_block.hpp"

namespace bq {
namespace {

// Of one chunk: adds pairs of products times their scales to the sum, or starts it.
BQ_INLINE void add_pairs(__m256i& sum, bool first, __m256i pairs, __m256i factor) {
    const __m256i fours = _mm256_madd_epi16(pairs, factor);
    sum = first ? fours : _mm256_add_epi32(sum, fours);
    keep_in_register(sum);
}

// Sixteen scales: the even ones in the low half, the odd ones in the high half.
BQ_INLINE __m256i spread_scales(__m256i scales) {
    const __m256i evens_first = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1,
                                                 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(scales, evens_first), 0xd8);
}
// Those of chunk j.
BQ_INLINE __m256i spread_factor(__m256i spread, int j) {
    return _mm256_shuffle_epi8(spread, _mm256_set1_epi16(static_cast<short>((2 * j + 1) << 8 | 2 * j)));
}

template <FormatId id>
struct DotAvx2 {
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
    static BQ_INLINE __m256i pairs(__m256i c, const int8_t* a) {
        const __m256i x = Avx2::load(a);
        return F::kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c))
                          : _mm256_maddubs_epi16(c, x);
    }
    static BQ_INLINE void add(__m256i& sum, bool first, __m256i c, const int8_t* a, __m256i factor) {
        add_pairs(sum, first, pairs(c, a), factor);
    }
};

}  // namespace
}  // namespace bq
