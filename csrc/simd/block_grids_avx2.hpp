// Dot<id> of block_avx2.hpp for the grid formats. Points come one by one from the tables in memory; all else
// is made for a whole super-block at once, and what is then needed bit by bit is stored: indices of points
// that have more than eight bits, signs of which the eighth is implied, scales.
#pragma once

#include "simd/block_dot_avx2.hpp"

namespace bq {
namespace {

struct GridAvx2 {
    using Eights = const int8_t (*)[8];
    using Fours = const int8_t (*)[4];

    // Points, given their indices side by side.
    template <class Index>
    static BQ_INLINE __m256i points(Eights at, const Index* i) {
        const Pair a = pair(i), b = pair(i + 2);
        return join(two(at[a.low], at[a.high]), two(at[b.low], at[b.high]));
    }
    template <class Index>
    static BQ_INLINE __m256i points(Fours at, const Index* i) {
        return join(four(at, pair(i), pair(i + 2)), four(at, pair(i + 4), pair(i + 6)));
    }

    static BQ_INLINE __m256i splat_words(int value) { return Avx2::splat_words(value); }
    static BQ_INLINE __m256i load_half_twice(const uint8_t* p) {
        return _mm256_broadcastsi128_si256(load_half(p));
    }
    static BQ_INLINE __m256i splat_eight(const void* p) {
        return _mm256_set1_epi64x(static_cast<long long>(load_as<uint64_t>(p)));
    }
    static BQ_INLINE __m256i words_of_bytes(const uint8_t* p) { return _mm256_cvtepu8_epi16(load_half(p)); }
    template <class T, int N>
    static BQ_INLINE void store(T (&to)[N], int at, __m256i a) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + at), a);
    }
    // What vpshufb needs, given a pattern of eight bytes for each quarter.
    static BQ_INLINE __m256i quarters(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
        return _mm256_setr_epi64x(static_cast<long long>(a), static_cast<long long>(b),
                                  static_cast<long long>(c), static_cast<long long>(d));
    }
    // Byte i as four words.
    static constexpr uint64_t wide(int i) { return 0x8000800080008000 + i * 0x0001000100010001ull; }
    // Bytes i and i + 1 as two words each.
    static constexpr uint64_t two_wide(int i) { return wide(i) + 0x0001000100000000ull; }
    // Word i four times.
    static constexpr uint64_t word(int i) { return 0x0100010001000100ull + 2 * i * 0x0101010101010101ull; }

    // The implied eighth bit of 32 times seven bits, which are in bytes or in the low bytes of words.
    static BQ_INLINE __m256i with_even_sign(__m256i sevens) {
        const __m256i parity = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
        const __m256i nibbles =
            _mm256_and_si256(_mm256_xor_si256(sevens, _mm256_srli_epi16(sevens, 4)), _mm256_set1_epi8(15));
        return _mm256_or_si256(sevens, _mm256_shuffle_epi8(parity, nibbles));
    }
    // Four times seven bits of each dword to bytes.
    static BQ_INLINE __m256i sevens(__m256i dwords) {
        const __m256i fourteens = _mm256_blend_epi16(dwords, _mm256_slli_epi32(dwords, 2), 0xaa);
        return _mm256_or_si256(_mm256_and_si256(fourteens, splat_words(0x7f)),
                               _mm256_and_si256(_mm256_slli_epi16(fourteens, 1), splat_words(0x7f00)));
    }
    // What has the signs of the elements: 127, or 127 plus the bit of the element where it is set. The bits
    // of eight elements are in a byte `stride` bytes after those of the eight before.
    template <int stride>
    static BQ_INLINE __m256i signs_of(__m256i bits) {
        constexpr uint64_t next = stride * 0x0101010101010101ull;
        const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
        const __m256i own = _mm256_shuffle_epi8(bits, quarters(0, next, 2 * next, 3 * next));
        return _mm256_add_epi8(_mm256_and_si256(own, bit), _mm256_set1_epi8(127));
    }
    static BQ_INLINE __m256i signs(const uint8_t* bits) {
        return signs_of<1>(_mm256_set1_epi32(load_as<int32_t>(bits)));
    }
    static BQ_INLINE __m256i signs(const uint16_t* bits) { return signs_of<2>(splat_eight(bits)); }

  private:
    struct Pair {
        uint64_t low, high;
    };
    // Two indices by one load. Loads bind the grid formats: one for each index was up to a sixth slower, one
    // for four or eight, with more shifts, a twentieth.
    static BQ_INLINE Pair pair(const uint8_t* i) {
        uint32_t v = load_as<uint16_t>(i);
        keep_in_register(v);
        return {v & 255, v >> 8};
    }
    static BQ_INLINE Pair pair(const uint16_t* i) {
        uint32_t v = load_as<uint32_t>(i);
        keep_in_register(v);
        return {v & 65535, v >> 16};
    }
    static BQ_INLINE __m128i load_half(const uint8_t* p) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
    static BQ_INLINE __m256i join(__m128i low, __m128i high) {
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    static BQ_INLINE __m128i two(const int8_t (&low)[8], const int8_t (&high)[8]) {
        const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(low));
        return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(first), reinterpret_cast<const __m64*>(high)));
    }
    static BQ_INLINE __m128i four(Fours at, Pair a, Pair b) {
        return _mm_setr_epi32(load_as<int32_t>(at[a.low]), load_as<int32_t>(at[a.high]),
                              load_as<int32_t>(at[b.low]), load_as<int32_t>(at[b.high]));
    }
};

struct GridDotAvx2 {
    static constexpr int kOffset = 0, kTogether = 1;
    template <class Chunk>
    static BQ_INLINE void add(__m256i& sum, bool first, const Chunk& c, const int8_t* a, __m256i factor) {
        add_pairs(sum, first, pairs(c, a), factor);
    }

    // IQ2 and IQ3: magnitudes, whose signs go to the activations.
    struct Signed {
        __m256i magnitudes, signs;
    };
    static BQ_INLINE __m256i pairs(const Signed& c, const int8_t* a) {
        return _mm256_maddubs_epi16(c.magnitudes, _mm256_sign_epi8(Avx2::load(a), c.signs));
    }
    static BQ_INLINE __m256i pairs(__m256i c, const int8_t* a) {
        return _mm256_maddubs_epi16(c, Avx2::load(a));
    }
};

// Scales of eight runs, words, each twice.
struct EightRunsAvx2 {
    alignas(32) int32_t scales[8];
    BQ_INLINE void keep(__m256i words) {
        GridAvx2::store(scales, 0, words);
        keep_in_memory(scales);
    }
    BQ_INLINE __m256i factor(int j) const { return _mm256_set1_epi32(scales[j]); }
    // 2 * (a >> 28) + 1 of eight dwords, as words, each twice.
    static BQ_INLINE __m256i odd_top_nibbles(__m256i dwords) {
        const __m256i odd = _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi32(dwords, 27), _mm256_set1_epi32(30)), _mm256_set1_epi32(1));
        return _mm256_or_si256(odd, _mm256_slli_epi32(odd, 16));
    }
};

template <>
struct DotAvx2<FormatId::IQ2_XXS> : GridDotAvx2 {
    struct Opened : EightRunsAvx2 {
        alignas(32) uint8_t signs[32];
        BQ_INLINE void open(const uint8_t* b) {
            const __m256 first = _mm256_castsi256_ps(Avx2::load(b + offsetof(BlockIQ2_XXS, runs)));
            const __m256 last = _mm256_castsi256_ps(Avx2::load(b + offsetof(BlockIQ2_XXS, runs) + 32));
            const __m256i odd_dwords =
                _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(first, last, 0xdd)), 0xd8);
            GridAvx2::store(signs, 0, GridAvx2::with_even_sign(GridAvx2::sevens(odd_dwords)));
            keep_in_memory(signs);
            keep(odd_top_nibbles(odd_dwords));
        }
    };
    static BQ_INLINE Signed chunk(const Opened& o, int, const uint8_t* b, int j) {
        return {GridAvx2::points(codebooks::iq2_xxs::kPoints.at, b + offsetof(BlockIQ2_XXS, runs) + 8 * j),
                GridAvx2::signs(o.signs + 4 * j)};
    }
    static BQ_INLINE __m256i factor(const Opened& o, int, int j) { return o.factor(j); }
};

// Words of nine bits of a point and seven of its signs.
template <>
struct DotAvx2<FormatId::IQ2_XS> : GridDotAvx2 {
    struct Opened {
        alignas(32) uint16_t index[32], signs[32];
        BQ_INLINE void open(const uint8_t* b) {
            for (int i = 0; i < 32; i += 16) {
                const __m256i words = Avx2::load(b + offsetof(BlockIQ2_XS, qs) + 2 * i);
                GridAvx2::store(index, i, _mm256_and_si256(words, GridAvx2::splat_words(511)));
                GridAvx2::store(signs, i, GridAvx2::with_even_sign(_mm256_srli_epi16(words, 9)));
            }
            keep_in_memory(index);
            keep_in_memory(signs);
        }
    };
    static BQ_INLINE Signed chunk(const Opened& o, int, const uint8_t*, int j) {
        return {GridAvx2::points(codebooks::iq2_xs::kPoints.at, o.index + 4 * j),
                GridAvx2::signs(o.signs + 4 * j)};
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* b) {
        return SuperBlock<Avx2, FormatId::IQ2_XS>::scales(b);
    }
};

template <>
struct DotAvx2<FormatId::IQ2_S> : GridDotAvx2 {
    struct Opened {
        alignas(32) uint16_t index[32];
        BQ_INLINE void open(const uint8_t* b) {
            // Each byte of qh four times, in words; of these the pair of bits that is the point's.
            const __m256i high = GridAvx2::splat_eight(b + offsetof(BlockIQ2_S, qh));
            const __m256i to_256 = _mm256_set1_epi64x(0x0004001000400100);
            for (int i = 0; i < 2; ++i) {
                const __m256i each = GridAvx2::quarters(GridAvx2::wide(4 * i), GridAvx2::wide(4 * i + 1),
                                                        GridAvx2::wide(4 * i + 2), GridAvx2::wide(4 * i + 3));
                const __m256i pairs = _mm256_mullo_epi16(_mm256_shuffle_epi8(high, each), to_256);
                GridAvx2::store(
                    index, 16 * i,
                    _mm256_or_si256(GridAvx2::words_of_bytes(b + offsetof(BlockIQ2_S, qs) + 16 * i),
                                    _mm256_and_si256(pairs, GridAvx2::splat_words(0x300))));
            }
            keep_in_memory(index);
        }
    };
    static BQ_INLINE Signed chunk(const Opened& o, int, const uint8_t* b, int j) {
        return {GridAvx2::points(codebooks::iq2_s::kPoints.at, o.index + 4 * j),
                GridAvx2::signs(b + offsetof(BlockIQ2_S, signs) + 4 * j)};
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* b) {
        return SuperBlock<Avx2, FormatId::IQ2_S>::scales(b);
    }
};

template <>
struct DotAvx2<FormatId::IQ3_XXS> : GridDotAvx2 {
    struct Opened : EightRunsAvx2 {
        alignas(32) uint8_t signs[32];
        BQ_INLINE void open(const uint8_t* b) {
            const __m256i stored = Avx2::load(b + offsetof(BlockIQ3_XXS, signs_scale));
            GridAvx2::store(signs, 0, GridAvx2::with_even_sign(GridAvx2::sevens(stored)));
            keep_in_memory(signs);
            keep(odd_top_nibbles(stored));
        }
    };
    static BQ_INLINE Signed chunk(const Opened& o, int, const uint8_t* b, int j) {
        return {GridAvx2::points(codebooks::iq3_xxs::kPoints.at, b + offsetof(BlockIQ3_XXS, qs) + 8 * j),
                GridAvx2::signs(o.signs + 4 * j)};
    }
    static BQ_INLINE __m256i factor(const Opened& o, int, int j) { return o.factor(j); }
};

template <>
struct DotAvx2<FormatId::IQ3_S> : GridDotAvx2 {
    struct Opened : EightRunsAvx2 {
        alignas(32) uint16_t index[64];
        BQ_INLINE void open(const uint8_t* b) {
            // Each byte of qh eight times, in words; of these the bit that is the point's.
            const __m256i high = GridAvx2::splat_eight(b + offsetof(BlockIQ3_S, qh));
            const __m256i to_256 =
                _mm256_setr_epi16(256, 128, 64, 32, 16, 8, 4, 2, 256, 128, 64, 32, 16, 8, 4, 2);
            for (int i = 0; i < 4; ++i) {
                const __m256i each = GridAvx2::quarters(GridAvx2::wide(2 * i), GridAvx2::wide(2 * i),
                                                        GridAvx2::wide(2 * i + 1), GridAvx2::wide(2 * i + 1));
                const __m256i bits = _mm256_mullo_epi16(_mm256_shuffle_epi8(high, each), to_256);
                GridAvx2::store(
                    index, 16 * i,
                    _mm256_or_si256(GridAvx2::words_of_bytes(b + offsetof(BlockIQ3_S, qs) + 16 * i),
                                    _mm256_and_si256(bits, GridAvx2::splat_words(0x100))));
            }
            keep_in_memory(index);
            keep(SuperBlock<Avx2, FormatId::IQ3_S>::scales(b));
        }
    };
    static BQ_INLINE Signed chunk(const Opened& o, int, const uint8_t* b, int j) {
        return {GridAvx2::points(codebooks::iq3_s::kPoints.at, o.index + 8 * j),
                GridAvx2::signs(b + offsetof(BlockIQ3_S, signs) + 4 * j)};
    }
    static BQ_INLINE __m256i factor(const Opened& o, int, int j) { return o.factor(j); }
};

// IQ1 in eighths: -8, 0 or 8, one up or down. Points are raised by 8; what that and the shift add is taken
// away for all runs of a super-block at once, with the sums of the activations.
struct RaisedDotAvx2 : GridDotAvx2 {
    // Dword j % 4 of each half four times: here shuffles of registers are faster than loads.
    static BQ_INLINE __m256i in_quarters(__m256i a, int j) {
        switch (j % 4) {
            case 0:
                return _mm256_shuffle_epi32(a, 0x00);
            case 1:
                return _mm256_shuffle_epi32(a, 0x55);
            case 2:
                return _mm256_shuffle_epi32(a, 0xaa);
            default:
                return _mm256_shuffle_epi32(a, 0xff);
        }
    }
    template <class Opened>
    static BQ_INLINE __m256i finish(const Opened& o, __m256i sum, const int16_t* sums) {
        return _mm256_sub_epi32(sum, _mm256_madd_epi16(o.excess, Avx2::load(sums)));
    }
};

template <>
struct DotAvx2<FormatId::IQ1_S> : RaisedDotAvx2 {
    struct Opened {
        alignas(32) uint16_t index[32];
        __m256i scales, excess;
        BQ_INLINE __m256i factor(int j) const {
            return in_quarters(j < 4 ? _mm256_permute2x128_si256(scales, scales, 0x00)
                                     : _mm256_permute2x128_si256(scales, scales, 0x11),
                               j);
        }
        BQ_INLINE void open(const uint8_t* b) {
            // A word for four points: three bits of each, the scale, the shift.
            const __m256i words = GridAvx2::load_half_twice(b + offsetof(BlockIQ1_S, qh));
            const __m256i to_top = _mm256_set1_epi64x(0x0010008004002000);
            for (int i = 0; i < 2; ++i) {
                const __m256i each = GridAvx2::quarters(GridAvx2::word(4 * i), GridAvx2::word(4 * i + 1),
                                                        GridAvx2::word(4 * i + 2), GridAvx2::word(4 * i + 3));
                const __m256i top = _mm256_mullo_epi16(_mm256_shuffle_epi8(words, each), to_top);
                const __m256i high =
                    _mm256_and_si256(_mm256_srli_epi16(top, 5), GridAvx2::splat_words(0x700));
                GridAvx2::store(
                    index, 16 * i,
                    _mm256_or_si256(GridAvx2::words_of_bytes(b + offsetof(BlockIQ1_S, qs) + 16 * i), high));
            }
            keep_in_memory(index);
            const __m256i one = GridAvx2::splat_words(1);
            const __m256i twice =
                _mm256_shuffle_epi8(words, GridAvx2::quarters(0x0302030201000100, 0x0706070605040504,
                                                              0x0b0a0b0a09080908, 0x0f0e0f0e0d0c0d0c));
            scales = _mm256_or_si256(
                _mm256_and_si256(_mm256_srli_epi16(twice, 11), GridAvx2::splat_words(14)), one);
            // 8 and 1 times the scale where the shift is down, else 8 less 1 times.
            excess = _mm256_sub_epi16(_mm256_slli_epi16(scales, 3),
                                      _mm256_sign_epi16(scales, _mm256_or_si256(twice, one)));
        }
    };
    static BQ_INLINE __m256i chunk(const Opened& o, int, const uint8_t*, int j) {
        return GridAvx2::points(codebooks::iq1_s::kRaisedPoints.at, o.index + 4 * j);
    }
    static BQ_INLINE __m256i factor(const Opened& o, int, int j) { return o.factor(j); }
};

template <>
struct DotAvx2<FormatId::IQ1_M> : RaisedDotAvx2 {
    struct Opened {
        alignas(32) uint16_t index[32];
        alignas(32) uint16_t up[32];  // 2 where the shift is up: all are raised by 9
        __m256i spread, excess;
        BQ_INLINE __m256i factor(int j) const {
            return in_quarters(
                j < 4 ? _mm256_unpacklo_epi16(spread, spread) : _mm256_unpackhi_epi16(spread, spread), j);
        }
        BQ_INLINE void open(const uint8_t* b) {
            // A nibble for each point: three bits of it and the shift.
            const __m256i nibbles = GridAvx2::load_half_twice(b + offsetof(BlockIQ1_M, qh));
            const __m256i to_256 = _mm256_set1_epi32(0x00100100);
            for (int i = 0; i < 2; ++i) {
                const __m256i each =
                    GridAvx2::quarters(GridAvx2::two_wide(8 * i), GridAvx2::two_wide(8 * i + 2),
                                       GridAvx2::two_wide(8 * i + 4), GridAvx2::two_wide(8 * i + 6));
                const __m256i high = _mm256_mullo_epi16(_mm256_shuffle_epi8(nibbles, each), to_256);
                GridAvx2::store(
                    index, 16 * i,
                    _mm256_or_si256(GridAvx2::words_of_bytes(b + offsetof(BlockIQ1_M, qs) + 16 * i),
                                    _mm256_and_si256(high, GridAvx2::splat_words(0x700))));
                GridAvx2::store(up, 16 * i,
                                _mm256_andnot_si256(_mm256_srli_epi16(high, 10), GridAvx2::splat_words(2)));
            }
            keep_in_memory(index);
            keep_in_memory(up);
            // Each word of scales four times, and of these three bits each.
            const __m256i words = GridAvx2::splat_eight(b + offsetof(BlockIQ1_M, scales));
            const __m256i each = GridAvx2::quarters(GridAvx2::word(0), GridAvx2::word(1), GridAvx2::word(2),
                                                    GridAvx2::word(3));
            const __m256i top =
                _mm256_mullo_epi16(_mm256_shuffle_epi8(words, each), _mm256_set1_epi64x(0x0010008004002000));
            const __m256i in_order =
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(top, 12), GridAvx2::splat_words(14)),
                                GridAvx2::splat_words(1));
            spread = spread_scales(in_order);
            excess = _mm256_mullo_epi16(in_order, GridAvx2::splat_words(9));
        }
    };
    static BQ_INLINE __m256i chunk(const Opened& o, int, const uint8_t*, int j) {
        constexpr uint64_t next = 0x0202020202020202;
        const __m256i up = _mm256_shuffle_epi8(GridAvx2::splat_eight(o.up + 4 * j),
                                               GridAvx2::quarters(0, next, 2 * next, 3 * next));
        return _mm256_add_epi8(GridAvx2::points(codebooks::iq1_s::kRaisedPoints.at, o.index + 4 * j), up);
    }
    static BQ_INLINE __m256i factor(const Opened& o, int, int j) { return o.factor(j); }
};

}  // namespace
}  // namespace bq
