// The products of strips of the grid formats and of TQ1_0 with AVX-512 VBMI. A vector holds the indices of
// four points of each of 16 weight rows; what is found for them are elements i, 8 + i, 16 + i and 24 + i of
// 32, which is why these formats take the activations transposed. Described in strip_formats.hpp; tables in
// codebooks/strip_tables.hpp.
#pragma once

#include "formats/codebooks/strip_tables.hpp"
#include "simd/strip_avx512.hpp"
#include "simd/strip_formats.hpp"
#include "simd/vbmi.hpp"

namespace bq {
namespace {

struct StripVbmi : StripAvx512 {
    // The sums of pairs of products, times the two words of 16 bits of each lane. Pairs fit int16.
    template <int kSteps>
    static BQ_INLINE Ints dots_of_pairs(const Bytes* u, const int8_t* x, Ints words) {
        Ints sum = no_ints();
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const __m512i pairs = _mm512_maddubs_epi16(u[i], _mm512_set1_epi32(load_as<int32_t>(x + 4 * i)));
            sum = _mm512_dpwssd_epi32(sum, pairs, words);
        });
        return sum;
    }
    // A table of sixteen entries again and again: only the low four bits of the indices count.
    static BQ_INLINE Bytes repeated(const codebooks::StripLevels& table) {
        return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table.at)));
    }
    static BQ_INLINE Bytes look_up_low_bits(Bytes table, Bytes indices) {
        return _mm512_permutexvar_epi8(indices, table);
    }
    // The same with 64 entries.
    static BQ_INLINE Bytes look_up_six_bits(const codebooks::WideLevels& table, Bytes indices) {
        return _mm512_permutexvar_epi8(indices, _mm512_load_si512(table.at));
    }
    // Fields of `step` bits of each word, from bit `from` on, to the low bits of its bytes.
    static BQ_INLINE Bytes spread(Bytes words, int from, int step) {
        const int64_t first = int64_t{from} * 0x0101010101010101;
        const int64_t fields = 0x0302010003020100 * step + 0x2020202000000000;
        return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(first + fields), words);
    }
    static BQ_INLINE __mmask64 top_bits(Bytes a) { return _mm512_movepi8_mask(a); }
    static BQ_INLINE __mmask64 has(Bytes a, int bit) { return _mm512_test_epi8_mask(a, splat(1 << bit)); }
    // (a & mask) | ones, in 32 bits.
    static BQ_INLINE Ints odd(Ints a, int mask, int ones) {
        return _mm512_ternarylogic_epi32(a, splat_ints(mask), splat_ints(ones), 0xea);
    }
    // Odd scales from the two nibbles of byte i, as two words of 16 bits.
    template <int i>
    static BQ_INLINE Ints odd_pair(Bytes words) {
        const __m512i high = pick_high_pair<i, i>(words);
        return odd(_mm512_srlv_epi16(high, splat_ints(11 << 16 | 7)), 30 << 16 | 30, 1 << 16 | 1);
    }
};

// IQ2: from two vectors of four two-bit codes, those of elements 4, 5, 0 and 1 and of 2, 6, 3 and 7, and one
// of signs. An index has the codes and the signs of two elements in six bits, and each has a table that looks
// at its own: so eight elements take three shifts. Bits 6 and 7 of an index do not count.
BQ_INLINE void iq2_points(__m512i first, __m512i last, __m512i signs, __m512i (&u)[8]) {
    using V = StripVbmi;
    const auto two = [&](__m512i index, __m512i& a, const codebooks::WideLevels& of_a, __m512i& b,
                         const codebooks::WideLevels& of_b) BQ_INLINE_LAMBDA {
        a = V::look_up_six_bits(of_a, index);
        b = V::look_up_six_bits(of_b, index);
    };
    const auto& levels = codebooks::kIq2Levels;
    const __m512i in_turn = V::splat(0x33);
    two(V::select(V::splat(0x0f), first, signs), u[4], levels[0], u[5], levels[1]);
    two(V::select(V::splat(0x3c), V::shifted<2>(first), signs), u[0], levels[2], u[1], levels[3]);
    two(V::select(in_turn, last, signs), u[2], levels[4], u[3], levels[5]);
    two(V::select(in_turn, V::shifted<2>(last), V::shifted<4>(signs)), u[6], levels[4], u[7], levels[5]);
}

struct Iq2Strip : SuperStrip<StripVbmi> {
    static constexpr int kTop = 86, kOffset = 43;
    static BQ_INLINE __m512 d(const Open& o) {
        return StripVbmi::mul(StripVbmi::f16(o.headers), StripVbmi::splat(0.125f));
    }
};

template <>
struct Strip<StripVbmi, FormatId::IQ2_XXS> : Iq2Strip {
    using V = StripVbmi;
    template <int j>
    static BQ_INLINE __m512i scale(const Open& o) {
        return V::odd(_mm512_srli_epi32(strip_word<V>(o.words, 2 * j + 1), 27), 30, 1);
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, __m512i (&u)[8]) {
        const __m512i index = strip_word<V>(o.words, 2 * g);
        const __m512i signs = V::spread(strip_word<V>(o.words, 2 * g + 1), 0, 7);
        const __mmask64 bits[1] = {V::top_bits(index)};
        const auto& table = codebooks::iq2_xxs::kStrip.at;
        iq2_points(look_up<2>(table[0], index, bits), look_up<2>(table[1], index, bits),
                   look_up<1>(codebooks::kEvenSigns.at, signs, nullptr), u);
    }
};

// What is found for the points of two groups of 32 at a time: two halves of each.
struct PointCodes {
    __m512i first[2], last[2];
};

template <>
struct Strip<StripVbmi, FormatId::IQ2_XS> : Iq2Strip {
    using V = StripVbmi;
    static constexpr bool kPairs = true, kCodes = true;
    template <int g>
    static BQ_INLINE __m512i less(const Open& o) {
        return V::odd_pair<g % 4>(strip_word<V>(o.words, 16 + g / 4));
    }
    template <int two>
    static BQ_INLINE PointCodes codes(const Open& o) {
        __m512i low[2];
        __mmask64 bits[2][2];
        for (int i = 0; i < 2; ++i) {
            low[i] = strip_word<V>(o.words, 4 * two + 2 * i);
            bits[i][0] = V::top_bits(low[i]);
            bits[i][1] = V::has(strip_word<V>(o.words, 4 * two + 2 * i + 1), 0);
        }
        PointCodes found;
        look_up_all<4>(codebooks::iq2_xs::kStrip.at[0], low, {bits[0], bits[1]}, found.first);
        look_up_all<4>(codebooks::iq2_xs::kStrip.at[1], low, {bits[0], bits[1]}, found.last);
        return found;
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, const PointCodes& c, __m512i (&u)[8]) {
        const __m512i signs = V::shifted<1>(strip_word<V>(o.words, 2 * g + 1));
        iq2_points(c.first[g % 2], c.last[g % 2], look_up<1>(codebooks::kEvenSigns.at, signs, nullptr), u);
    }
};

template <>
struct Strip<StripVbmi, FormatId::IQ2_S> : Iq2Strip {
    using V = StripVbmi;
    static constexpr bool kPairs = true, kCodes = true;
    template <int g>
    static BQ_INLINE __m512i less(const Open& o) {
        return V::odd_pair<g % 4>(strip_word<V>(o.words, 18 + g / 4));
    }
    template <int two>
    static BQ_INLINE PointCodes codes(const Open& o) {
        __m512i low[2];
        __mmask64 bits[2][3];
        const __m512i stored = strip_word<V>(o.words, 16 + two / 2);
        const __m512i high[2] = {V::spread(stored, 16 * (two % 2), 2),
                                 V::spread(stored, 16 * (two % 2) + 8, 2)};
        for (int i = 0; i < 2; ++i) {
            low[i] = strip_word<V>(o.words, 2 * two + i);
            bits[i][0] = V::top_bits(low[i]);
            for (int bit = 0; bit < 2; ++bit) bits[i][1 + bit] = V::has(high[i], bit);
        }
        PointCodes found;
        look_up_all<8>(codebooks::iq2_s::kStrip.at[0], low, {bits[0], bits[1]}, found.first);
        look_up_all<8>(codebooks::iq2_s::kStrip.at[1], low, {bits[0], bits[1]}, found.last);
        return found;
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, const PointCodes& c, __m512i (&u)[8]) {
        iq2_points(c.first[g % 2], c.last[g % 2], strip_word<V>(o.words, 8 + g), u);
    }
};

// IQ3: from the codes of elements 0 and 1, 2 and 3, and so on, in nibbles that leave the lowest bit to the
// sign, or the one above, and the signs of the even elements and the odd ones.
BQ_INLINE void iq3_points(const __m512i (&codes)[4], __m512i signs, const codebooks::StripLevels (&levels)[2],
                          __m512i (&u)[8]) {
    using V = StripVbmi;
    const __m512i tables[2] = {V::repeated(levels[0]), V::repeated(levels[1])};
    const __m512i masks[2] = {V::splat(0xee), V::splat(0xdd)}, later = V::shifted<2>(signs);
    unroll<4>([&](auto i) BQ_INLINE_LAMBDA {
        const __m512i both = V::select(masks[i % 2], codes[i], i < 2 ? signs : later);
        u[2 * i] = V::look_up_low_bits(tables[i % 2], both);
        u[2 * i + 1] = V::look_up_low_bits(tables[i % 2], V::shifted<4>(both));
    });
}

template <>
struct Strip<StripVbmi, FormatId::IQ3_XXS> : SuperStrip<StripVbmi> {
    using V = StripVbmi;
    static constexpr int kTop = 124, kOffset = 62;
    static BQ_INLINE __m512 d(const Open& o) { return V::mul(V::f16(o.headers), V::splat(0.25f)); }
    template <int j>
    static BQ_INLINE __m512i scale(const Open& o) {
        return V::odd(_mm512_srli_epi32(strip_word<V>(o.words, 16 + j), 27), 30, 1);
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, __m512i (&u)[8]) {
        const __m512i even = strip_word<V>(o.words, 2 * g), odd = strip_word<V>(o.words, 2 * g + 1);
        const __mmask64 of_even[1] = {V::top_bits(even)}, of_odd[1] = {V::top_bits(odd)};
        const auto& table = codebooks::iq3_xxs::kStrip.at;
        const __m512i codes[4] = {look_up<2>(table[0], even, of_even), look_up<2>(table[1], even, of_even),
                                  look_up<2>(table[0], odd, of_odd), look_up<2>(table[1], odd, of_odd)};
        const __m512i signs = V::spread(strip_word<V>(o.words, 16 + g), 0, 7);
        iq3_points(codes, look_up<1>(codebooks::kEvenSignsEvenFirst.at, signs, nullptr),
                   codebooks::kIq3XxsLevels, u);
    }
};

template <>
struct Strip<StripVbmi, FormatId::IQ3_S> : SuperStrip<StripVbmi> {
    using V = StripVbmi;
    static constexpr int kTop = 31, kOffset = 16;
    template <int j>
    static BQ_INLINE __m512i scale(const Open& o) {
        const __m512i words = strip_word<V>(o.words, 26);
        if constexpr (j == 0) return V::odd(_mm512_slli_epi32(words, 1), 30, 1);
        return V::odd(_mm512_srli_epi32(words, 4 * j - 1), 30, 1);
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, __m512i (&u)[8]) {
        const __m512i even = strip_word<V>(o.words, 2 * g), odd = strip_word<V>(o.words, 2 * g + 1);
        const __m512i high = V::spread(strip_word<V>(o.words, 16 + g / 4), 8 * (g % 4), 2);
        const __mmask64 of_even[2] = {V::top_bits(even), V::has(high, 0)};
        const __mmask64 of_odd[2] = {V::top_bits(odd), V::has(high, 1)};
        const auto& table = codebooks::iq3_s::kStrip.at;
        const __m512i codes[4] = {look_up<4>(table[0], even, of_even), look_up<4>(table[1], even, of_even),
                                  look_up<4>(table[0], odd, of_odd), look_up<4>(table[1], odd, of_odd)};
        iq3_points(codes, strip_word<V>(o.words, 18 + g), codebooks::kIq3SLevels, u);
    }
};

// IQ1: the codes of elements 0 to 3 and 4 to 7 of points with 8 + 3 bits of index.
BQ_INLINE PointCodes iq1_codes(const __m512i (&low)[2], const __m512i (&high)[2]) {
    using V = StripVbmi;
    __mmask64 bits[2][4];
    for (int i = 0; i < 2; ++i) {
        bits[i][0] = V::top_bits(low[i]);
        for (int bit = 0; bit < 3; ++bit) bits[i][1 + bit] = V::has(high[i], bit);
    }
    PointCodes found;
    look_up_all<16>(codebooks::iq1_s::kLowerCodes.at, low, {bits[0], bits[1]}, found.first);
    for (int i = 0; i < 2; ++i)
        found.last[i] = look_up_upper_half(codebooks::iq1_s::kUpperCodes, low[i], high[i]);
    return found;
}
// The upper bits of the indices of two groups of 32 and what is above them: fields of `step` bits.
template <int kStep>
BQ_INLINE PointCodes iq1_two_groups(const uint8_t* words, int two) {
    using V = StripVbmi;
    const __m512i stored = strip_word<V>(words, 8 + two);
    return iq1_codes({strip_word<V>(words, 2 * two), strip_word<V>(words, 2 * two + 1)},
                     {V::spread(stored, 0, kStep), V::spread(stored, 16, kStep)});
}

// In eighths: 8 * (code - 1) + 1, or - 1 where the run is moved down.
template <>
struct Strip<StripVbmi, FormatId::IQ1_S> : Iq2Strip {
    using V = StripVbmi;
    static constexpr int kTop = 3, kOffset = 0;
    static constexpr bool kShiftsRuns = true, kCodes = true;
    template <int j>
    static BQ_INLINE __m512i scale(const Open& o) {
        return V::odd(_mm512_srli_epi32(strip_word<V>(o.words, 8 + j / 2), 16 * (j % 2) + 11), 14, 1);
    }
    template <int g>
    static BQ_INLINE __m512i shifted(const Open& o, __m512i dot, const int16_t* sums) {
        const __mmask16 down =
            _mm512_test_epi32_mask(strip_word<V>(o.words, 8 + g / 2),
                                   V::splat_ints(static_cast<int>(g % 2 ? 0x80000000u : 0x8000u)));
        const __m512i less = _mm512_mask_blend_epi32(down, V::splat_words(-7), V::splat_words(-9));
        return V::dot_pair(_mm512_slli_epi32(dot, 3), less, sums);
    }
    template <int two>
    static BQ_INLINE PointCodes codes(const Open& o) {
        return iq1_two_groups<3>(o.words, two);
    }
    template <int g>
    static BQ_INLINE void weights(const Open&, const PointCodes& c, __m512i (&u)[8]) {
        codes_of(c.first[g % 2], u);
        codes_of(c.last[g % 2], u + 4);
    }

  private:
    static BQ_INLINE void codes_of(__m512i four, __m512i* u) {
        u[0] = V::field<0>(four, 3);
        u[1] = V::look_up_six_bits(codebooks::kCodeFields[0], four);
        u[2] = V::look_up_six_bits(codebooks::kCodeFields[1], four);
        u[3] = V::field<6>(four, 3);
    }
};

template <>
struct Strip<StripVbmi, FormatId::IQ1_M> : Iq2Strip {
    using V = StripVbmi;
    static constexpr int kTop = 18, kOffset = 9;
    static constexpr bool kPairs = true, kCodes = true;
    static BQ_INLINE __m512 d(const Open& o) {
        const __m512i a = strip_word<V>(o.words, 12), b = strip_word<V>(o.words, 13);
        const __m512i low = V::add(V::int_field<12>(a, 15), V::int_field<24>(a, 0xf0));
        const __m512i high = V::add(V::int_field<4>(b, 0xf00), V::int_field<16>(b, 0xf000));
        return V::mul(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(V::add(low, high))), V::splat(0.125f));
    }
    template <int g>
    static BQ_INLINE __m512i less(const Open& o) {
        constexpr int from = 16 * (g / 2 % 2) + 6 * (g % 2);  // of two times three bits
        const __m512i words = strip_word<V>(o.words, 12 + g / 4);
        return V::odd(V::add(V::int_field<from - 1>(words, 14), V::int_field<from - 14>(words, 14 << 16)),
                      14 << 16 | 14, 1 << 16 | 1);
    }
    template <int two>
    static BQ_INLINE PointCodes codes(const Open& o) {
        return iq1_two_groups<4>(o.words, two);
    }
    template <int g>
    static BQ_INLINE void weights(const Open& o, const PointCodes& c, __m512i (&u)[8]) {
        const __m512i first = c.first[g % 2], last = c.last[g % 2];
        const __m512i high = V::spread(strip_word<V>(o.words, 8 + g / 2), g % 2 * 16, 4);
        // To bit 4, above the codes of two elements; bits 5 to 7 do not count.
        const __m512i down = V::shifted<-1>(high), codes = V::splat(0x0f);
        const auto two = [&](auto e, __m512i code) BQ_INLINE_LAMBDA {
            const __m512i both = V::select(codes, code, down);
            u[e] = V::look_up_six_bits(codebooks::kIq1Levels[0], both);
            u[e + 1] = V::look_up_six_bits(codebooks::kIq1Levels[1], both);
        };
        two(Index<0>{}, first);
        two(Index<2>{}, V::shifted<4>(first));
        two(Index<4>{}, last);
        two(Index<6>{}, V::shifted<4>(last));
    }
};

template <>
struct Strip<StripVbmi, FormatId::TQ1_0> : SuperStrip<StripVbmi> {
    using V = StripVbmi;
    static constexpr int kTop = 2, kRun = 256, kOffset = 1, kPlaces = 4;
    struct Open : SuperStrip<StripVbmi>::Open {
        __m512i four[13], fifth[12];  // trits of each byte, two bits each
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : SuperStrip<StripVbmi>::Open(w, h) {
            for (int i = 0; i < 13; ++i) {
                const __m512i bytes = strip_word<V>(words, i);
                const __mmask64 bits[1] = {V::top_bits(bytes)};
                four[i] = look_up<2>(codebooks::kTrits.at[0], bytes, bits);
                if (i < 12) fifth[i] = look_up<2>(codebooks::kTrits.at[1], bytes, bits);
            }
        }
    };
    template <int g>
    static BQ_INLINE __m512i less(const Open&) {
        return V::splat_words(1);
    }
    // The first four trits of a byte are 32 elements apart, or in the last four bytes four.
    template <int g>
    static constexpr int place(int i) {
        if (g < 4) return g;
        if (g == 5 || g == 6) return 2 * (g - 5) + i / 4;
        return g == 4 || i < 4 ? 0 : i - 4;
    }
    template <int g, bool kInPlace = false>
    static BQ_INLINE void weights(const Open& o, __m512i (&u)[8]) {
        unroll<8>([&](auto i) BQ_INLINE_LAMBDA {
            constexpr int at = decltype(i)::value, part = place<g>(at);
            if constexpr (g < 4)
                u[i] = two_bits<part, V, kInPlace>(o.four[at]);
            else if constexpr (g == 4)
                u[i] = o.fifth[at];
            else if constexpr (g < 7)
                u[i] = two_bits<part, V, kInPlace>(o.four[8 + at % 4]);
            else if constexpr (at < 4)
                u[i] = o.fifth[8 + at];
            else
                u[i] = two_bits<part, V, kInPlace>(o.four[12]);
        });
    }
};

}  // namespace
}  // namespace bq
