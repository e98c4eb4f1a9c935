// The fused dot of the grid formats and of TQ1_0 with AVX-512 VBMI: whole tables are looked up in registers,
// 64 indices at a time, instead of one point after the other from memory. Described in block_avx2.hpp.
//   vpermi2b        an entry of 128 bytes for each of 64 indices; larger tables are put together by masks
//   vpmultishiftqb  fields of bits, wherever they are, to bytes of their own
// Points of eight elements have few levels: their tables hold a bit for each element (codebooks/planes.hpp),
// and what is found for eight points is a mask of 64 elements.
#pragma once

#include "formats/codebooks/planes.hpp"
#include "simd/block_avx512.hpp"
#include "simd/vbmi.hpp"

namespace bq {
namespace {

struct Vbmi {
    static BQ_INLINE __m512i load(const void* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE __m512i load_pair(const uint8_t* low, const uint8_t* high) {
        return _mm512_inserti64x4(_mm512_castsi256_si512(Avx2::load(low)), Avx2::load(high), 1);
    }
    static BQ_INLINE __m256i load_sixteens(const uint8_t* low, const uint8_t* high) {
        return _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
    }
    static BQ_INLINE __mmask64 mask(const uint8_t* p) { return load_as<uint64_t>(p); }
    static BQ_INLINE __mmask64 has(__m512i a, int bit) {
        return _mm512_test_epi8_mask(a, _mm512_set1_epi8(static_cast<char>(1 << bit)));
    }
    // Bits of a where the mask is set, else of b.
    static BQ_INLINE __m512i select(__m512i mask, __m512i a, __m512i b) {
        return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
    }
    static BQ_INLINE __m512i splat(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
    // Eight bytes eight times, the next ones each `step` larger.
    static BQ_INLINE __m512i steps(int64_t eight, int64_t step) {
        const __m512i times = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        const __m512i each = _mm512_mullo_epi64(times, _mm512_set1_epi64(step * 0x0101010101010101));
        return _mm512_add_epi8(_mm512_set1_epi64(eight), each);
    }
    // To be read as masks, from memory.
    static BQ_INLINE void store(uint8_t (&to)[64], __m512i a) {
        _mm512_store_si512(to, a);
        keep_in_memory(to);
    }
    static BQ_INLINE void store(uint8_t (&to)[32], __m512i a) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(a));
        keep_in_memory(to);
    }
    // The signs of 64 times eight elements from their seven bits.
    static BQ_INLINE __m512i even_signs(__m512i sevens) {
        return look_up<1>(codebooks::kEvenSigns.at, sevens, nullptr);
    }
    // Four times seven bits of each half of a qword.
    static BQ_INLINE __m512i sevens(__m512i words) {
        return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x352e2720150e0700), words);
    }
    // 2 * (a >> 28) + 1 of sixteen dwords, as words, each twice.
    static BQ_INLINE __m512i odd_top_nibbles(__m512i dwords) {
        const __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi32(dwords, 27), _mm512_set1_epi32(30),
                                                      _mm512_set1_epi32(1), 0xea);
        return _mm512_or_si512(odd, _mm512_slli_epi32(odd, 16));
    }
};

// Where c is `offset` above a magnitude: the same above its negative in the elements of the mask.
BQ_INLINE __m512i negated(__m512i c, __mmask64 negative, int offset) {
    return _mm512_mask_sub_epi8(c, negative, Vbmi::splat(2 * offset), c);
}

// The pairs of products fit int16, since no integer exceeds 124.
struct VbmiDot {
    static BQ_INLINE void add(__m512i& sum, bool first, __m512i c, const int8_t* a, __m512i factor) {
        const __m512i pairs = _mm512_maddubs_epi16(c, _mm512_loadu_si512(a));
        sum = _mm512_dpwssd_epi32(first ? _mm512_setzero_si512() : sum, pairs, factor);
    }
};

template <FormatId id>
struct VbmiDotOf;

// IQ2: magnitudes 8, 25 and 43, of which the first plane marks the last two and the second plane the last.
// Signs and planes are stored as bytes for eight elements, 32 for each block.
struct PlanesOfIq2 : VbmiDot {
    static constexpr int kTogether = 2, kOffset = 43;
    struct Planes {
        alignas(64) uint8_t above_8[64], above_25[64], negative[64];
    };
    static BQ_INLINE __m512i points(const Planes& p, int which, int j) {
        const int at = 32 * which + 8 * j;
        __m512i c = _mm512_mask_blend_epi8(Vbmi::mask(p.above_8 + at), Vbmi::splat(kOffset + 8),
                                           Vbmi::splat(kOffset + 25));
        c = _mm512_mask_mov_epi8(c, Vbmi::mask(p.above_25 + at), Vbmi::splat(kOffset + 43));
        return negated(c, Vbmi::mask(p.negative + at), kOffset);
    }
    template <int kTables>
    static BQ_INLINE void find(Planes& p, const uint8_t (&table)[2][128 * kTables], __m512i low,
                               const __mmask64* bits) {
        Vbmi::store(p.above_8, look_up<kTables>(table[0], low, bits));
        Vbmi::store(p.above_25, look_up<kTables>(table[1], low, bits));
    }
};

template <>
struct VbmiDotOf<FormatId::IQ2_XXS> : PlanesOfIq2 {
    struct Opened {
        Planes planes;
        alignas(64) uint8_t scale[64];
        BQ_INLINE Opened(const uint8_t* a, const uint8_t* b) {
            const __m512i first = Vbmi::load(a + offsetof(BlockIQ2_XXS, runs));
            const __m512i last = Vbmi::load(b + offsetof(BlockIQ2_XXS, runs));
            const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            const __m512i low = _mm512_permutex2var_epi32(first, even, last);
            const __m512i signs =
                _mm512_permutex2var_epi32(first, _mm512_or_si512(even, _mm512_set1_epi32(1)), last);
            const __mmask64 bits[1] = {_mm512_movepi8_mask(low)};
            find<2>(planes, codebooks::iq2_xxs::kPlanes.at, low, bits);
            Vbmi::store(planes.negative, Vbmi::even_signs(Vbmi::sevens(signs)));
            Vbmi::store(scale, Vbmi::odd_top_nibbles(signs));
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int which, const uint8_t*, int j) {
        return points(o.planes, which, j);
    }
    static BQ_INLINE __m256i scales(const Opened& o, int which, const uint8_t*) {
        return Avx2::load(o.scale + 32 * which);
    }
};

// Words of nine bits of a point and seven of its signs.
template <>
struct VbmiDotOf<FormatId::IQ2_XS> : PlanesOfIq2 {
    struct Opened {
        Planes planes;
        BQ_INLINE Opened(const uint8_t* a, const uint8_t* b) {
            const __m512i first = Vbmi::load(a + offsetof(BlockIQ2_XS, qs));
            const __m512i last = Vbmi::load(b + offsetof(BlockIQ2_XS, qs));
            const __m512i even = Vbmi::steps(0x0e0c0a0806040200, 0x10);
            const __m512i low = _mm512_permutex2var_epi8(first, even, last);
            const __m512i high = _mm512_permutex2var_epi8(first, _mm512_or_si512(even, Vbmi::splat(1)), last);
            const __mmask64 bits[2] = {_mm512_movepi8_mask(low), Vbmi::has(high, 0)};
            find<4>(planes, codebooks::iq2_xs::kPlanes.at, low, bits);
            Vbmi::store(planes.negative, Vbmi::even_signs(_mm512_srli_epi16(high, 1)));
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int which, const uint8_t*, int j) {
        return points(o.planes, which, j);
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* w) {
        return SuperBlock<Avx512, FormatId::IQ2_XS>::scales(w);
    }
};

template <>
struct VbmiDotOf<FormatId::IQ2_S> : PlanesOfIq2 {
    struct Opened {
        Planes planes;
        BQ_INLINE Opened(const uint8_t* a, const uint8_t* b) {
            const __m512i low = Vbmi::load_pair(a + offsetof(BlockIQ2_S, qs), b + offsetof(BlockIQ2_S, qs));
            Vbmi::store(planes.negative,
                        Vbmi::load_pair(a + offsetof(BlockIQ2_S, signs), b + offsetof(BlockIQ2_S, signs)));
            // Pairs of bits of point l at bit 2 l of eight bytes.
            const __m512i high = _mm512_mask_blend_epi64(
                0xf0, _mm512_set1_epi64(load_as<int64_t>(a + offsetof(BlockIQ2_S, qh))),
                _mm512_set1_epi64(load_as<int64_t>(b + offsetof(BlockIQ2_S, qh))));
            const __m512i where = _mm512_add_epi8(
                _mm512_set1_epi64(0x0e0c0a0806040200),
                _mm512_setr_epi64(0, 0x1010101010101010, 0x2020202020202020, 0x3030303030303030, 0,
                                  0x1010101010101010, 0x2020202020202020, 0x3030303030303030));
            const __m512i pairs = _mm512_multishift_epi64_epi8(where, high);
            const __mmask64 bits[3] = {_mm512_movepi8_mask(low), Vbmi::has(pairs, 0), Vbmi::has(pairs, 1)};
            find<8>(planes, codebooks::iq2_s::kPlanes.at, low, bits);
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int which, const uint8_t*, int j) {
        return points(o.planes, which, j);
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* w) {
        return SuperBlock<Avx512, FormatId::IQ2_S>::scales(w);
    }
};

// IQ1: eight times -1, 0 or 1, one up or down; masks for the ones and the minus ones, and for those that are
// moved down.
struct PlanesOfIq1 : VbmiDot {
    static constexpr int kTogether = 2, kOffset = 9;
    struct Planes {
        alignas(64) uint8_t plus[64], minus[64], down[64];
    };
    static BQ_INLINE __m512i chunk_of(const Planes& p, int which, int j) {
        const int at = 32 * which + 8 * j;
        const __m512i c = _mm512_mask_blend_epi8(Vbmi::mask(p.down + at), Vbmi::splat(kOffset + 1),
                                                 Vbmi::splat(kOffset - 1));
        const __m512i up = _mm512_mask_add_epi8(c, Vbmi::mask(p.plus + at), c, Vbmi::splat(8));
        return _mm512_mask_sub_epi8(up, Vbmi::mask(p.minus + at), up, Vbmi::splat(8));
    }
    static BQ_INLINE void find(Planes& p, __m512i low, __m512i high) {
        const __mmask64 bits[4] = {_mm512_movepi8_mask(low), Vbmi::has(high, 0), Vbmi::has(high, 1),
                                   Vbmi::has(high, 2)};
        const __m512i lower = look_up<16>(codebooks::iq1_s::kLowerHalves.at, low, bits);
        const __m512i nibble = Vbmi::splat(15);
        const __m512i upper = look_up_upper_half(codebooks::iq1_s::kUpperHalves, low, high);
        Vbmi::store(p.plus, Vbmi::select(nibble, lower, _mm512_slli_epi16(upper, 4)));
        Vbmi::store(p.minus, Vbmi::select(nibble, _mm512_srli_epi16(lower, 4), upper));
    }
};

template <>
struct VbmiDotOf<FormatId::IQ1_S> : PlanesOfIq1 {
    struct Opened {
        Planes planes;
        alignas(64) uint8_t scale[64];
        BQ_INLINE Opened(const uint8_t* a, const uint8_t* b) {
            const __m512i low = Vbmi::load_pair(a + offsetof(BlockIQ1_S, qs), b + offsetof(BlockIQ1_S, qs));
            // A word for four points: three bits of each, the scale, the shift.
            const __m256i words =
                Vbmi::load_sixteens(a + offsetof(BlockIQ1_S, qh), b + offsetof(BlockIQ1_S, qh));
            const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                                                           _mm512_castsi256_si512(words));
            const __m512i where =
                _mm512_add_epi8(_mm512_set1_epi64(0x1916131009060300),
                                _mm512_setr_epi64(0, 0x2020202020202020, 0, 0x2020202020202020, 0,
                                                  0x2020202020202020, 0, 0x2020202020202020));
            find(planes, low, _mm512_multishift_epi64_epi8(where, twice));
            const __m512i wide = _mm512_cvtepi16_epi32(words);
            Vbmi::store(planes.down, _mm512_srai_epi32(wide, 31));
            const __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi32(wide, 11), _mm512_set1_epi32(14),
                                                          _mm512_set1_epi32(1), 0xea);
            Vbmi::store(scale, _mm512_or_si512(odd, _mm512_slli_epi32(odd, 16)));
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int which, const uint8_t*, int j) {
        return chunk_of(o.planes, which, j);
    }
    static BQ_INLINE __m256i scales(const Opened& o, int which, const uint8_t*) {
        return Avx2::load(o.scale + 32 * which);
    }
};

template <>
struct VbmiDotOf<FormatId::IQ1_M> : PlanesOfIq1 {
    struct Opened {
        Planes planes;
        BQ_INLINE Opened(const uint8_t* a, const uint8_t* b) {
            const __m512i low = Vbmi::load_pair(a + offsetof(BlockIQ1_M, qs), b + offsetof(BlockIQ1_M, qs));
            // A nibble for each point: three bits of it and the shift.
            const __m512i words = _mm512_cvtepu8_epi16(
                Vbmi::load_sixteens(a + offsetof(BlockIQ1_M, qh), b + offsetof(BlockIQ1_M, qh)));
            const __m512i high = _mm512_or_si512(words, _mm512_slli_epi16(words, 4));
            find(planes, low, high);
            Vbmi::store(planes.down, _mm512_movm_epi8(Vbmi::has(high, 3)));
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int which, const uint8_t*, int j) {
        return chunk_of(o.planes, which, j);
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* w) {
        return SuperBlock<Avx512, FormatId::IQ1_M>::scales(w);
    }
};

// IQ3: points of four elements; the tables hold the first two and the last two in three bits each.
struct CodesOfIq3 : VbmiDot {
    static constexpr int kTogether = 1;
    // The codes of the 64 elements of points 16 j to 16 j + 15, in bytes of their own whose other bits are
    // of others: from bit 0 on, or from bit 1 on.
    template <int kShift>
    static BQ_INLINE __m512i codes(__m512i first, __m512i last, int j) {
        // The low half of a qword: first and last of a point, first and last of the next.
        const __m512i pick =
            _mm512_add_epi8(_mm512_setr_epi64(0x41014000, 0x43034202, 0x45054404, 0x47074606, 0x49094808,
                                              0x4b0b4a0a, 0x4d0d4c0c, 0x4f0f4e0e),
                            Vbmi::splat(16 * j));
        const __m512i where = _mm512_set1_epi64(kShift == 0 ? 0x1b1813100b080300 : 0x1a17120f0a07023f);
        return _mm512_multishift_epi64_epi8(where, _mm512_permutex2var_epi8(first, pick, last));
    }
};

template <>
struct VbmiDotOf<FormatId::IQ3_XXS> : CodesOfIq3 {
    static constexpr int kOffset = 62;
    struct Opened {
        __m512i first, last;
        alignas(32) uint8_t negative[32], scale[32];
        BQ_INLINE Opened(const uint8_t* a, const uint8_t*) {
            const __m512i low = Vbmi::load(a + offsetof(BlockIQ3_XXS, qs));
            const __mmask64 bits[1] = {_mm512_movepi8_mask(low)};
            first = look_up<2>(codebooks::iq3_xxs::kCodes.at[0], low, bits);
            last = look_up<2>(codebooks::iq3_xxs::kCodes.at[1], low, bits);
            const __m512i signs = _mm512_castsi256_si512(Avx2::load(a + offsetof(BlockIQ3_XXS, signs_scale)));
            Vbmi::store(negative, Vbmi::even_signs(Vbmi::sevens(signs)));
            Vbmi::store(scale, Vbmi::odd_top_nibbles(signs));
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int, const uint8_t*, int j) {
        // vpermb takes six bits: each level eight times.
        const __m512i levels = _mm512_set1_epi64(kLevels);
        const __m512i c = _mm512_permutexvar_epi8(codes<0>(o.first, o.last, j), levels);
        return negated(c, Vbmi::mask(o.negative + 8 * j), kOffset);
    }
    static BQ_INLINE __m256i scales(const Opened& o, int, const uint8_t*) { return Avx2::load(o.scale); }

  private:
    // The levels 4, 12, 20, 28, 36, 44, 52, 62 above the offset.
    static constexpr int64_t kLevels = 0x3e342c241c140c04 + 0x3e3e3e3e3e3e3e3e;
};

// Levels 2 * code + 1, and 16 above: bits.
template <>
struct VbmiDotOf<FormatId::IQ3_S> : CodesOfIq3 {
    static constexpr int kOffset = 16;
    struct Opened {
        __m512i first, last;
        BQ_INLINE Opened(const uint8_t* a, const uint8_t*) {
            const __m512i low = Vbmi::load(a + offsetof(BlockIQ3_S, qs));
            const __mmask64 bits[2] = {_mm512_movepi8_mask(low), Vbmi::mask(a + offsetof(BlockIQ3_S, qh))};
            first = look_up<4>(codebooks::iq3_s::kCodes.at[0], low, bits);
            last = look_up<4>(codebooks::iq3_s::kCodes.at[1], low, bits);
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int, const uint8_t* w, int j) {
        const __m512i c = _mm512_ternarylogic_epi32(codes<1>(o.first, o.last, j), Vbmi::splat(14),
                                                    Vbmi::splat(kOffset + 1), 0xea);
        return negated(c, Vbmi::mask(w + offsetof(BlockIQ3_S, signs) + 8 * j), kOffset);
    }
    static BQ_INLINE __m256i scales(const Opened&, int, const uint8_t* w) {
        return SuperBlock<Avx512, FormatId::IQ3_S>::scales(w);
    }
};

template <>
struct VbmiDotOf<FormatId::TQ1_0> {
    static constexpr int kTogether = 1, kOffset = 1;
    struct Opened {
        __m512i first, last;  // the first four trits of each byte, the last one
        BQ_INLINE Opened(const uint8_t* a, const uint8_t*) {
            static_assert(offsetof(BlockTQ1_0, qs) == 0 && offsetof(BlockTQ1_0, qh) == 48);
            const __m512i bytes = _mm512_maskz_loadu_epi8((__mmask64{1} << 52) - 1, a);
            const __mmask64 bits[1] = {_mm512_movepi8_mask(bytes)};
            first = look_up<2>(codebooks::kTrits.at[0], bytes, bits);
            last = look_up<2>(codebooks::kTrits.at[1], bytes, bits);
        }
    };
    static BQ_INLINE __m512i chunk(const Opened& o, int, const uint8_t*, int j) {
        // Trits of 32 bytes, side by side for two j at a time; then those of 16 bytes and of four.
        if (j < 2) {
            const __m512i twice = _mm512_shuffle_i64x2(o.first, o.first, 0x44);
            return in_low_bits(twice, _mm512_setr_epi64(0, 0, 0, 0, kTwo, kTwo, kTwo, kTwo), 4 * j);
        }
        if (j == 2) {
            const __m512i bytes =
                _mm512_permutex2var_epi64(o.last, _mm512_setr_epi64(0, 1, 2, 3, 12, 13, 12, 13), o.first);
            return in_low_bits(bytes, _mm512_setr_epi64(0, 0, 0, 0, 0, 0, kTwo, kTwo), 0);
        }
        const __m512i bytes = _mm512_permutex2var_epi32(
            o.last, _mm512_setr_epi32(24, 25, 26, 27, 24, 25, 26, 27, 8, 9, 10, 11, 28, 28, 28, 28), o.first);
        return in_low_bits(bytes, _mm512_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6, 0, 0, 0, 0, 0, 2, 4, 6), 0);
    }
    static BQ_INLINE void add(__m512i& sum, bool first, __m512i c, const int8_t* a, __m512i) {
        sum = _mm512_dpbusd_epi32(first ? _mm512_setzero_si512() : sum, c, _mm512_loadu_si512(a));
    }

  private:
    static constexpr int64_t kTwo = 0x0000000200000002;
    // Shifts dwords: bits of other bytes are masked away.
    static BQ_INLINE __m512i in_low_bits(__m512i bytes, __m512i counts, int more) {
        const __m512i all = _mm512_add_epi32(counts, _mm512_set1_epi32(more));
        return _mm512_and_si512(_mm512_srlv_epi32(bytes, all), Vbmi::splat(3));
    }
};

struct BlockVbmi : BlockAvx512 {
    template <FormatId id>
    using Dot = VbmiDotOf<id>;
};

}  // namespace
}  // namespace bq
