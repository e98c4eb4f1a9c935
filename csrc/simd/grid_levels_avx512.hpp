// The levels of the grid formats in AVX-512. The codes of a block's points, two or three bits for each
// element (csrc/formats/codebooks/grids.hpp), are looked up together: small grids with vpermt2w, which has 64
// words at hand, large ones word by word. A chunk spreads its codes, shifts each element's to the bottom and
// adds the sign.
#pragma once

#include "formats/codebooks/grids.hpp"
#include "simd/avx512.hpp"
#include "simd/levels.hpp"

namespace bq {
namespace {

// grid[i] for 32 words i.
template <int kCount>
BQ_INLINE __m512i codes_of_points(const uint16_t* grid, __m512i i) {
    if constexpr (kCount == 64) {
        return _mm512_permutex2var_epi16(_mm512_loadu_si512(grid), i, _mm512_loadu_si512(grid + 32));
    } else {
        const __mmask32 upper = _mm512_test_epi16_mask(i, _mm512_set1_epi16(kCount / 2));
        const __m512i low = codes_of_points<kCount / 2>(grid, i);
        return _mm512_mask_mov_epi16(low, upper, codes_of_points<kCount / 2>(grid + kCount / 2, i));
    }
}
// Words whose bytes are those at p.
BQ_INLINE __m512i words_of_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(Avx2::load(p));
}

// Each of eight words four times.
BQ_INLINE __m512i each_four_times(__m128i eight) {
    const __m512i word = _mm512_set_epi16(7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2,
                                          2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_epi16(word, _mm512_castsi128_si512(eight));
}

// The eighth sign of each byte of seven: set where the number of the others is odd.
BQ_INLINE __m256i with_eighth_sign(__m256i seven) {
    __m256i parity = _mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4));
    parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 2));
    parity = _mm256_xor_si256(parity, _mm256_srli_epi16(parity, 1));
    return _mm256_or_si256(seven, _mm256_slli_epi16(_mm256_and_si256(parity, _mm256_set1_epi8(1)), 7));
}
// The same from words of four times seven bits; what is above them does not matter.
BQ_INLINE __m256i signs_of_four_sevens(__m256i v) {
    const auto bits = [](__m256i a, int mask)
                          BQ_INLINE_LAMBDA { return _mm256_and_si256(a, _mm256_set1_epi32(mask)); };
    v = _mm256_or_si256(bits(v, 0x3fff), bits(_mm256_slli_epi32(v, 2), 0x3fff0000));
    v = _mm256_or_si256(bits(v, 0x007f007f), bits(_mm256_slli_epi32(v, 1), 0x7f007f00));
    return with_eighth_sign(v);
}

BQ_INLINE void store_signs(uint8_t* p, __m256i signs) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), signs);
}

// The codes of 32 elements at the bottom of their words, from the four codes of their points in each 64 bits.
BQ_INLINE __m512i codes_of_elements(__m512i four) {
    // Lane n of 128 bits takes code n for each of its words.
    const __m512i spread =
        _mm512_set_epi64(0x0706070607060706, 0x0706070607060706, 0x0504050405040504, 0x0504050405040504,
                         0x0302030203020302, 0x0302030203020302, 0x0100010001000100, 0x0100010001000100);
    const __m512i down = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14));
    return _mm512_srlv_epi16(_mm512_shuffle_epi8(four, spread), down);
}

// Indices from codes of two bits: the third bit is set where that of `third` is, the fourth in a second run.
template <int kRun>
BQ_INLINE __m512i index_of_codes(__m512i codes, uint32_t third) {
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(8), 1);
    const __m512i run = kRun == 16 ? second : _mm512_setzero_si512();
    const __m512i index =
        _mm512_ternarylogic_epi64(codes, _mm512_set1_epi16(3), run, 0xea);  // codes & 3 | run
    return _mm512_mask_add_epi16(index, third, index, _mm512_set1_epi16(4));
}

// Prepared: 32 codes of eight elements, and a sign for each element of 256.
template <int kRun>
struct PointsOfEight {
    static constexpr int kBytes = 96;
    static BQ_INLINE __m512i index(const uint8_t*, const uint8_t* prepared, int j) {
        const __m512i codes = codes_of_elements(_mm512_set1_epi64(load_as<int64_t>(prepared + 8 * j)));
        return index_of_codes<kRun>(codes, load_as<uint32_t>(prepared + 64 + 4 * j));
    }
};
// Prepared: 64 codes of four elements, and the signs.
struct PointsOfFour {
    static constexpr int kBytes = 160;
    static BQ_INLINE __m512i index(const uint8_t*, const uint8_t* prepared, int j) {
        // Lane n has code 2 n in its lower words and code 2 n + 1 in the upper ones.
        const __m512i lanes =
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(prepared + 16 * j)));
        const __m512i spread =
            _mm512_set_epi64(0x0f0e0f0e0f0e0f0e, 0x0d0c0d0c0d0c0d0c, 0x0b0a0b0a0b0a0b0a, 0x0908090809080908,
                             0x0706070607060706, 0x0504050405040504, 0x0302030203020302, 0x0100010001000100);
        const __m512i down = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 3, 6, 9, 0, 3, 6, 9));
        const __m512i level = _mm512_and_si512(_mm512_srlv_epi16(_mm512_shuffle_epi8(lanes, spread), down),
                                               _mm512_set1_epi16(7));
        return _mm512_mask_add_epi16(level, load_as<uint32_t>(prepared + 128 + 4 * j), level,
                                     _mm512_set1_epi16(8));
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ2_XXS> : PointsOfEight<32> {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m512i runs = _mm512_loadu_si512(b + offsetof(BlockIQ2_XXS, runs));
        const __m256i points = _mm512_cvtepi64_epi32(runs);
        _mm512_storeu_si512(to,
                            codes_of_points<256>(codebooks::iq2_xxs::kGrid, _mm512_cvtepu8_epi16(points)));
        store_signs(to + 64, signs_of_four_sevens(_mm512_cvtepi64_epi32(_mm512_srli_epi64(runs, 32))));
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ2_XS> : PointsOfEight<16> {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m512i v = _mm512_loadu_si512(b + offsetof(BlockIQ2_XS, qs));
        const __m512i points = _mm512_and_si512(v, _mm512_set1_epi16(511));
        _mm512_storeu_si512(to, codes_of_points<512>(codebooks::iq2_xs::kGrid, points));
        store_signs(to + 64, with_eighth_sign(_mm512_cvtepi16_epi8(_mm512_srli_epi16(v, 9))));
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ3_XXS> : PointsOfFour {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        for (int i = 0; i < 2; ++i) {
            const __m512i points = words_of_bytes(b + offsetof(BlockIQ3_XXS, qs) + 32 * i);
            _mm512_storeu_si512(to + 64 * i, codes_of_points<256>(codebooks::iq3_xxs::kGrid, points));
        }
        store_signs(to + 128, signs_of_four_sevens(S::load(b + offsetof(BlockIQ3_XXS, signs_scale))));
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ3_S> : PointsOfFour {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m512i up = _mm512_broadcast_i32x4(_mm_setr_epi16(8, 7, 6, 5, 4, 3, 2, 1));
        for (int i = 0; i < 2; ++i) {
            // Each byte of qh in the eight words of a lane.
            const __m512i lanes = _mm512_set1_epi32(load_as<int32_t>(b + offsetof(BlockIQ3_S, qh) + 4 * i));
            const __m512i lane =
                _mm512_set_epi64(0x0303030303030303, 0x0303030303030303, 0x0202020202020202,
                                 0x0202020202020202, 0x0101010101010101, 0x0101010101010101, 0, 0);
            const __m512i high = _mm512_sllv_epi16(_mm512_shuffle_epi8(lanes, lane), up);
            const __m512i points = _mm512_or_si512(words_of_bytes(b + offsetof(BlockIQ3_S, qs) + 32 * i),
                                                   _mm512_and_si512(high, _mm512_set1_epi16(256)));
            _mm512_storeu_si512(to + 64 * i, codes_of_points<512>(codebooks::iq3_s::kGrid, points));
        }
        store_signs(to + 128, S::load(b + offsetof(BlockIQ3_S, signs)));
    }
};

// Prepared for the large grids: the numbers of 32 points, and a bit for each element of 256. The codes are
// loaded one by one; kAdd turns them into the order of Levels. Points of bytes would be shorter work, but
// those of IQ1 fill half of the level-1 cache, from which the floats that are written push them.
template <int kRun, int kAdd>
struct LoadedCodes {
    static constexpr int kBytes = 96;
    static BQ_INLINE __m512i index_of(const uint16_t* grid, const uint8_t* prepared, int j) {
        const uint8_t* p = prepared + 8 * j;
        const uint64_t four = grid[load_as<uint16_t>(p)] | uint64_t{grid[load_as<uint16_t>(p + 2)]} << 16 |
                              uint64_t{grid[load_as<uint16_t>(p + 4)]} << 32 |
                              uint64_t{grid[load_as<uint16_t>(p + 6)]} << 48;
        __m512i codes = codes_of_elements(_mm512_set1_epi64(static_cast<int64_t>(four)));
        if constexpr (kAdd != 0) codes = _mm512_add_epi16(codes, _mm512_set1_epi16(kAdd));
        return index_of_codes<kRun>(codes, load_as<uint32_t>(prepared + 64 + 4 * j));
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ2_S> : LoadedCodes<16, 0> {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m128i high =
            _mm_cvtepu8_epi16(_mm_cvtsi64_si128(load_as<int64_t>(b + offsetof(BlockIQ2_S, qh))));
        const __m512i points = _mm512_or_si512(
            words_of_bytes(b + offsetof(BlockIQ2_S, qs)),
            _mm512_and_si512(_mm512_sllv_epi16(each_four_times(high), _mm512_set1_epi64(0x0002000400060008)),
                             _mm512_set1_epi16(0x300)));
        _mm512_storeu_si512(to, points);
        store_signs(to + 64, S::load(b + offsetof(BlockIQ2_S, signs)));
    }
    static BQ_INLINE __m512i index(const uint8_t*, const uint8_t* prepared, int j) {
        return ChunkLevels::index_of(codebooks::iq2_s::kGrid, prepared, j);
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ1_S> : LoadedCodes<32, 3> {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + offsetof(BlockIQ1_S, qh)));
        const __m512i down = _mm512_set1_epi64(0x0009000600030000);
        const __m512i three =
            _mm512_and_si512(_mm512_srlv_epi16(each_four_times(high), down), _mm512_set1_epi16(7));
        _mm512_storeu_si512(
            to, _mm512_or_si512(words_of_bytes(b + offsetof(BlockIQ1_S, qs)), _mm512_slli_epi16(three, 8)));
        // Up where the top bit is clear.
        const __m256i top = _mm256_srai_epi32(_mm256_cvtepi16_epi32(high), 31);
        store_signs(to + 64, _mm256_xor_si256(top, _mm256_set1_epi32(-1)));
    }
    static BQ_INLINE __m512i index(const uint8_t*, const uint8_t* prepared, int j) {
        return ChunkLevels::index_of(codebooks::iq1_s::kGrid, prepared, j);
    }
};

template <class S>
    requires(S::kGridLevels)
struct ChunkLevels<S, FormatId::IQ1_M> : LoadedCodes<16, 3> {
    static BQ_INLINE void prepare(const uint8_t* b, uint8_t* to) {
        const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + offsetof(BlockIQ1_M, qh)));
        const __m512i down = _mm512_set1_epi64(0x000c000800040000);
        const __m512i nibbles = _mm512_srlv_epi16(each_four_times(high), down);
        const __m512i three = _mm512_and_si512(nibbles, _mm512_set1_epi16(7));
        _mm512_storeu_si512(
            to, _mm512_or_si512(words_of_bytes(b + offsetof(BlockIQ1_M, qs)), _mm512_slli_epi16(three, 8)));
        store_signs(to + 64, S::bit_mask(~_mm512_test_epi16_mask(nibbles, _mm512_set1_epi16(8))));
    }
    static BQ_INLINE __m512i index(const uint8_t*, const uint8_t* prepared, int j) {
        return ChunkLevels::index_of(codebooks::iq1_s::kGrid, prepared, j);
    }
};

}  // namespace
}  // namespace bq
