// How the formats lie in strips (matmul/strips.hpp), for the products of few rows: a format opens block after
// block of all rows of a strip at once.
//
//   kTop         the largest of its integers, which are unsigned and kOffset above the values
//   Open         what a block keeps over its runs; made of its words and its headers
//   weight<g, i>  integers 32 g + 4 i to 32 g + 4 i + 3 of each row; or all eight of these vectors at once:
//   weights<g>
//
// Blocks with float scales (kSuper false), one or two runs in 32 elements:
//   kRuns, scale<j>  the scale of run j, j from 0 on in the block, as many as there are or one for all
//   minus_minimum    if kMinima
// Super-blocks of 256 (kSuper true), value = d * scale * integer - dmin * minimum:
//   kRun        16 or 32 elements; 256 if all scales are 1
//   scale<j>    of run j, 32 bits
//   less<g>     two words of 16 bits, for the halves of the 32 elements: minima or, with an offset and runs
//   of
//               16 or 256, scales
//   factor<j>   the scale of run j again, as two words of 16 bits
//   minima<i>   if there are minima of runs of 32: two words, those of runs 2 i and 2 i + 1
//   codes<i>    if kCodes: what is found for groups 2 i and 2 i + 1 together, given to weights<g>
//   shifted<g>  if kShiftsRuns: the sum of products of a run with what is to be added for its sums
//   kPlaces     4 if weight<g, i, true> can leave fields of two bits where they are: times 4 ^ place<g>(i) in
//               vector i, the same in all of them but in runs of 256
//   kParts      parts of a super-block that lie alike, so that a loop can go over them: part_words(o, part)
//               and, for their groups of 32, weight_in_part<g, i>; 1 if there are none
//   kPairs      the runs of 16 alternate within the vectors, pair by pair: less<g> has their scales
//   d, dmin
#pragma once

#include "formats/common_form.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

template <class V, FormatId id>
struct Strip;

// All vectors of elements 32 g to 32 g + 31, in either of the two ways.
template <class F, int g, bool... kInPlace, class Open, class Bytes>
BQ_INLINE void strip_weights(const Open& o, Bytes (&u)[8]) {
    if constexpr (requires { F::template weights<g, kInPlace...>(o, u); })
        F::template weights<g, kInPlace...>(o, u);
    else
        unroll<8>([&](auto i)
                      BQ_INLINE_LAMBDA { u[i] = F::template weight<g, decltype(i)::value, kInPlace...>(o); });
}

// ---- blocks with float scales

struct PlainStrip {
    static constexpr bool kSuper = false, kMinima = false;
    static constexpr int kRuns = 1, kScales = 1, kPlaces = 1, kParts = 1;
};

template <class V>
struct F16ScaledStrip : PlainStrip {
    struct Open {
        const uint8_t* words;
        typename V::Floats d;
        BQ_INLINE Open(const uint8_t* w, const uint8_t* headers) : words(w), d(V::f16(headers)) {}
    };
    template <int j>
    static BQ_INLINE typename V::Floats scale(const Open& o) {
        return o.d;
    }
};
template <class V>
struct F16MinimaStrip : PlainStrip {
    static constexpr bool kMinima = true;
    struct Open {
        const uint8_t* words;
        typename V::Floats d, m;
        BQ_INLINE Open(const uint8_t* w, const uint8_t* headers)
            : words(w), d(V::f16(headers)), m(V::f16(headers + 2 * V::kLanes)) {}
    };
    template <int j>
    static BQ_INLINE typename V::Floats scale(const Open& o) {
        return o.d;
    }
    // The formats add theirs.
    static BQ_INLINE typename V::Floats minus_minimum(const Open& o) { return o.m; }
};

template <class V>
BQ_INLINE typename V::Bytes strip_word(const uint8_t* words, int i) {
    return V::load(words + 4 * V::kLanes * i);
}

// Vector i of four words of nibbles: the low ones are elements 4 j to 4 j + 3, the high ones those 16 above.
template <int i, class V>
BQ_INLINE typename V::Bytes strip_nibbles(const uint8_t* words) {
    return V::template field<i / 4 * 4>(strip_word<V>(words, i % 4), 15);
}
// One word of fifth bits, of elements 4 i to 4 i + 3 at bit i of each byte, and four of nibbles.
template <int i, class V>
BQ_INLINE typename V::Bytes strip_five_bits(const uint8_t* words) {
    return V::masked_or(V::template shifted<i - 4>(strip_word<V>(words, 0)), 16,
                        strip_nibbles<i, V>(words + 4 * V::kLanes));
}

template <class V, class Scales>
struct NibbleStrip : Scales {
    static constexpr int kTop = 15, kOffset = 0;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const typename Scales::Open& o) {
        return strip_nibbles<i, V>(o.words);
    }
};
template <class V, class Scales>
struct FiveBitStrip : Scales {
    static constexpr int kTop = 31, kOffset = 0;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const typename Scales::Open& o) {
        return strip_five_bits<i, V>(o.words);
    }
};

template <class V>
struct Strip<V, FormatId::Q4_0> : NibbleStrip<V, F16ScaledStrip<V>> {
    static constexpr int kOffset = 8;
};
template <class V>
struct Strip<V, FormatId::Q4_1> : NibbleStrip<V, F16MinimaStrip<V>> {};
template <class V>
struct Strip<V, FormatId::Q5_0> : FiveBitStrip<V, F16ScaledStrip<V>> {
    static constexpr int kOffset = 16;
};
template <class V>
struct Strip<V, FormatId::Q5_1> : FiveBitStrip<V, F16MinimaStrip<V>> {};

// Where eight signed bits can be raised, they are.
template <class V>
struct SignedStrip {
    static constexpr int kTop = 255, kOffset = V::kRaised ? 128 : 0;
};

template <class V>
struct Strip<V, FormatId::Q8_0> : F16ScaledStrip<V>, SignedStrip<V> {
    using typename F16ScaledStrip<V>::Open;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return V::raised(strip_word<V>(o.words, i));
    }
};
template <class V>
struct Strip<V, FormatId::IQ4_NL> : F16ScaledStrip<V>, SignedStrip<V> {
    using typename F16ScaledStrip<V>::Open;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return V::look_up(V::levels(iq4::kLevels, SignedStrip<V>::kOffset), strip_nibbles<i, V>(o.words));
    }
};
template <class V>
struct Strip<V, FormatId::MXFP4> : PlainStrip {
    static constexpr int kTop = 24, kOffset = 12;
    struct Open {
        const uint8_t* words;
        typename V::Floats d;
        BQ_INLINE Open(const uint8_t* w, const uint8_t* headers) : words(w), d(V::half_of_e8m0(headers)) {}
    };
    template <int j>
    static BQ_INLINE typename V::Floats scale(const Open& o) {
        return o.d;
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return V::look_up(V::levels(fp4::kDoubled, kOffset), strip_nibbles<i, V>(o.words));
    }
};
template <class V>
struct Strip<V, FormatId::NVFP4> : PlainStrip {
    static constexpr int kTop = 24, kOffset = 12, kRuns = 2, kScales = 4;
    struct Open {
        const uint8_t* words;
        typename V::Bytes scales;
        BQ_INLINE Open(const uint8_t* w, const uint8_t*) : words(w), scales(strip_word<V>(w, 0)) {}
    };
    template <int j>
    static BQ_INLINE typename V::Floats scale(const Open& o) {
        return V::half_of_ue4m3(V::template pick<j>(o.scales));
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        // Runs of 16: two words, the low nibbles first.
        const auto word = strip_word<V>(o.words, 1 + 4 * g + i / 4 * 2 + i % 2);
        return V::look_up(V::levels(fp4::kDoubled, kOffset), V::template field<i / 2 % 2 * 4>(word, 15));
    }
};
// Bits doubled, so that the offset is one.
template <class V>
struct Strip<V, FormatId::Q1_0> : F16ScaledStrip<V> {
    static constexpr int kTop = 2, kOffset = 1;
    using typename F16ScaledStrip<V>::Open;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return V::template field<i - 1>(strip_word<V>(o.words, g), 2);
    }
};
template <class V>
struct Strip<V, FormatId::Q2_0> : F16ScaledStrip<V> {
    static constexpr int kTop = 3, kOffset = 1;
    using typename F16ScaledStrip<V>::Open;
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return V::template field<i % 4 * 2>(strip_word<V>(o.words, 2 * g + i / 4), 3);
    }
};

// ---- super-blocks

// With d, and dmin if there are minima, as headers.
template <class V>
struct SuperStrip {
    static constexpr bool kSuper = true, kMinima = false, kPairs = false;
    static constexpr bool kShiftsRuns = false, kCodes = false;
    struct Codes {};
    template <int two, class Open>
    static BQ_INLINE Codes codes(const Open&) {
        return {};
    }
    static constexpr int kRun = 32, kOffset = 0, kPlaces = 1, kParts = 1;
    struct Open {
        const uint8_t *words, *headers;
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : words(w), headers(h) {}
    };
    template <int g>
    static constexpr int place(int) {
        return 0;
    }
    static BQ_INLINE typename V::Floats d(const Open& o) { return V::f16(o.headers); }
    static BQ_INLINE typename V::Floats dmin(const Open& o) { return V::f16(o.headers + 2 * V::kLanes); }
};

// Field `part` of 0 to 3 of pairs of bits, where it is or shifted down.
template <int part, class V, bool kInPlace = false>
BQ_INLINE typename V::Bytes two_bits(typename V::Bytes word) {
    if constexpr (kInPlace) return V::template field<0>(word, 3 << 2 * part);
    return V::template field<2 * part>(word, 3);
}

// Words of four fields of two bits that belong to four groups of 32.
template <class V>
struct TwoBitStrip : SuperStrip<V> {
    static constexpr int kTop = 3, kPlaces = V::kLeavesPlaces ? 4 : 1, kParts = 2;
    template <int g>
    static constexpr int place(int) {
        return g % 4;
    }
    template <int g, int i, bool kInPlace = false>
    static BQ_INLINE typename V::Bytes weight_in_part(const uint8_t* words) {
        return two_bits<g, V, kInPlace>(strip_word<V>(words, i));
    }
};

template <class V>
struct Strip<V, FormatId::Q2_K> : TwoBitStrip<V> {
    static constexpr int kRun = 16;
    static constexpr bool kMinima = true;
    struct Open : SuperStrip<V>::Open {
        typename V::Bytes stored[4];
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : SuperStrip<V>::Open(w, h) {
            for (int i = 0; i < 4; ++i) stored[i] = strip_word<V>(w, i);
        }
    };
    template <int j>
    static BQ_INLINE typename V::Ints scale(const Open& o) {
        return V::template pick<j % 4>(V::template field<0>(o.stored[j / 4], 15));
    }
    template <int j>
    static BQ_INLINE typename V::Ints factor(const Open& o) {
        return V::template pick_pair<j % 4, j % 4>(V::template field<0>(o.stored[j / 4], 15));
    }
    template <int g>
    static BQ_INLINE typename V::Ints less(const Open& o) {
        return V::template pick_pair<2 * g % 4, 2 * g % 4 + 1>(V::template field<4>(o.stored[g / 2], 15));
    }
    static BQ_INLINE const uint8_t* part_words(const Open& o, int part) {
        return o.words + 4 * V::kLanes * (4 + 8 * part);
    }
    template <int g, int i, bool kInPlace = false>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return TwoBitStrip<V>::template weight_in_part<g % 4, i, kInPlace>(part_words(o, g / 4));
    }
};

template <class V>
struct Strip<V, FormatId::TQ2_0> : TwoBitStrip<V> {
    static constexpr int kRun = 256, kOffset = 1;
    using typename TwoBitStrip<V>::Open;
    template <int g>
    static BQ_INLINE typename V::Ints less(const Open&) {
        return V::splat_words(1);
    }
    static BQ_INLINE const uint8_t* part_words(const Open& o, int part) {
        return o.words + 4 * V::kLanes * 8 * part;
    }
    template <int g, int i, bool kInPlace = false>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return TwoBitStrip<V>::template weight_in_part<g % 4, i, kInPlace>(part_words(o, g / 4));
    }
};

// Half of a super-block whose words of single bits, eight of them, serve both: moved to where the bits of the
// other half would be.
template <class V>
struct BitsOfHalf {
    const uint8_t* low;  // words of the other bits
    typename V::Bytes bits[8];
    BQ_INLINE BitsOfHalf(const uint8_t* words, const uint8_t* bit_words, int left, int right) : low(words) {
        for (int i = 0; i < 8; ++i) bits[i] = V::moved(strip_word<V>(bit_words, i), left, right);
    }
};

// Scales of runs of 16 in signed bytes, in order, four to a word.
template <class V>
struct ByteScaledStrip : SuperStrip<V> {
    static constexpr int kRun = 16;
    struct Open : SuperStrip<V>::Open {
        typename V::Bytes scales[4];
        using SuperStrip<V>::Open::Open;
    };
    template <int j>
    static BQ_INLINE typename V::Ints scale(const Open& o) {
        return V::template pick_signed<j % 4>(o.scales[j / 4]);
    }
    template <int j>
    static BQ_INLINE typename V::Ints factor(const Open& o) {
        return V::template pick_signed_pair<j % 4, j % 4>(o.scales[j / 4]);
    }
    template <int g>
    static BQ_INLINE typename V::Ints less(const Open& o) {
        return V::template pick_signed_pair<2 * g % 4, 2 * g % 4 + 1>(o.scales[g / 2]);
    }
};

template <class V>
struct Strip<V, FormatId::Q3_K> : ByteScaledStrip<V> {
    static constexpr int kTop = 7, kOffset = 4, kParts = 2;
    struct Open : ByteScaledStrip<V>::Open {
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : ByteScaledStrip<V>::Open(w, h) {
            using Bytes = typename V::Bytes;
            // Low nibbles of scales 0 to 3 and 8 to 11 in the first word, high pairs in the third.
            const Bytes low[2] = {strip_word<V>(w, 24), strip_word<V>(w, 25)}, high = strip_word<V>(w, 26);
            unroll<4>([&](auto i) BQ_INLINE_LAMBDA {
                constexpr int part = decltype(i)::value;
                const Bytes nibbles = V::template field<part / 2 * 4>(low[part % 2], 15);
                const Bytes whole = V::masked_or(V::template shifted<2 * part - 4>(high), 48, nibbles);
                this->scales[part] = V::sub_bytes(whole, V::splat(32));
            });
        }
    };
    static BQ_INLINE BitsOfHalf<V> part_words(const Open& o, int part) {
        const uint8_t* const pairs = o.words + 4 * V::kLanes * (8 + 8 * part);
        return {pairs, o.words, part == 0 ? 2 : 0, part == 0 ? 0 : 2};
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight_in_part(const BitsOfHalf<V>& half) {
        return V::masked_or(V::template shifted<g>(half.bits[i]), 4,
                            two_bits<g, V>(strip_word<V>(half.low, i)));
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        const auto low = two_bits<g % 4, V>(strip_word<V>(o.words, 8 + g / 4 * 8 + i));
        return V::masked_or(V::template shifted<g - 2>(strip_word<V>(o.words, i)), 4, low);
    }
};

// The six-bit scales and minima of Q4_K and Q5_K as bytes.
template <class V>
struct SixBitStrip {
    typename V::Bytes scales[2], minima[2];
    BQ_INLINE explicit SixBitStrip(const uint8_t* words) {
        const auto a = strip_word<V>(words, 0), b = strip_word<V>(words, 1), c = strip_word<V>(words, 2);
        scales[0] = V::template field<0>(a, 63);
        minima[0] = V::template field<0>(b, 63);
        scales[1] = V::masked_or(V::template shifted<2>(a), 48, V::template field<0>(c, 15));
        minima[1] = V::masked_or(V::template shifted<2>(b), 48, V::template field<4>(c, 15));
    }
};

template <class V>
struct SixBitSuperStrip : SuperStrip<V> {
    static constexpr bool kMinima = true;
    struct Open : SuperStrip<V>::Open {
        SixBitStrip<V> six;
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : SuperStrip<V>::Open(w, h), six(w) {}
    };
    template <int j>
    static BQ_INLINE typename V::Ints scale(const Open& o) {
        return V::template pick<j % 4>(o.six.scales[j / 4]);
    }
    template <int j>
    static BQ_INLINE typename V::Ints factor(const Open& o) {
        return V::template pick_pair<j % 4, j % 4>(o.six.scales[j / 4]);
    }
    template <int g>
    static BQ_INLINE typename V::Ints less(const Open& o) {
        return V::template pick_pair<g % 4, g % 4>(o.six.minima[g / 4]);
    }
    template <int i>
    static BQ_INLINE typename V::Ints minima(const Open& o) {
        return V::template pick_pair<2 * i % 4, 2 * i % 4 + 1>(o.six.minima[i / 2]);
    }
};

template <class V>
struct Strip<V, FormatId::Q4_K> : SixBitSuperStrip<V> {
    static constexpr int kTop = 15, kParts = 4;
    using typename SixBitSuperStrip<V>::Open;
    static BQ_INLINE const uint8_t* part_words(const Open& o, int part) {
        return o.words + 4 * V::kLanes * (3 + 8 * part);
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight_in_part(const uint8_t* words) {
        return V::template field<4 * g>(strip_word<V>(words, i), 15);
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return weight_in_part<g % 2, i>(part_words(o, g / 2));
    }
};
template <class V>
struct Strip<V, FormatId::Q5_K> : SixBitSuperStrip<V> {
    static constexpr int kTop = 31, kParts = 2;
    using typename SixBitSuperStrip<V>::Open;
    static BQ_INLINE BitsOfHalf<V> part_words(const Open& o, int part) {
        const uint8_t* const bits = o.words + 4 * V::kLanes * 3;
        return {bits + 4 * V::kLanes * (8 + 16 * part), bits, part == 0 ? 4 : 0, 0};
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight_in_part(const BitsOfHalf<V>& half) {
        const auto low = V::template field<g % 2 * 4>(strip_word<V>(half.low, g / 2 * 8 + i), 15);
        return V::masked_or(V::template shifted<g>(half.bits[i]), 16, low);
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        const auto low = V::template field<g % 2 * 4>(strip_word<V>(o.words, 11 + g / 2 * 8 + i), 15);
        return V::masked_or(V::template shifted<g - 4>(strip_word<V>(o.words, 3 + i)), 16, low);
    }
};

template <class V>
struct Strip<V, FormatId::Q6_K> : ByteScaledStrip<V> {
    static constexpr int kTop = 63, kOffset = 32, kParts = 2;
    struct Open : ByteScaledStrip<V>::Open {
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h) : ByteScaledStrip<V>::Open(w, h) {
            for (int i = 0; i < 4; ++i) this->scales[i] = strip_word<V>(w, 48 + i);
        }
    };
    struct Half {
        const uint8_t *low, *high;  // words of nibbles, of pairs of bits
    };
    static BQ_INLINE Half part_words(const Open& o, int part) {
        return {o.words + 4 * V::kLanes * 16 * part, o.words + 4 * V::kLanes * (32 + 8 * part)};
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight_in_part(const Half& half) {
        const auto low = V::template field<g / 2 * 4>(strip_word<V>(half.low, 8 * (g % 2) + i), 15);
        return V::masked_or(V::template shifted<2 * g - 4>(strip_word<V>(half.high, i)), 48, low);
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return weight_in_part<g % 4, i>(part_words(o, g / 4));
    }
};

// The levels of IQ4 are nearly even steps: kStep * index + rest - kBelow, with rests as small as the indices.
struct Iq4Steps {
    static constexpr int kStep = 15, kBelow = 127, kLargestRest = 18;
    int8_t rests[16];
    constexpr Iq4Steps() : rests() {
        for (int i = 0; i < 16; ++i) rests[i] = static_cast<int8_t>(iq4::kLevels[i] - kStep * i + kBelow);
    }
};
inline constexpr Iq4Steps kIq4Steps;

template <class V>
struct Strip<V, FormatId::IQ4_XS> : SuperStrip<V>, SignedStrip<V> {
    static constexpr int kOffset = SignedStrip<V>::kOffset, kParts = 8;
    struct Open : SuperStrip<V>::Open {
        typename V::Ints low, high;  // of the scales: nibbles, and pairs of bits
        BQ_INLINE Open(const uint8_t* w, const uint8_t* h)
            : SuperStrip<V>::Open(w, h), low(strip_word<V>(w, 0)) {
            if constexpr (V::kSumsWords)
                high = V::bytes_apart(h + 2 * V::kLanes);
            else
                high = V::u16(h + 2 * V::kLanes);
        }
    };
    template <int j>
    static BQ_INLINE typename V::Ints scale(const Open& o) {
        const auto low = V::template int_field<4 * j>(o.low, 15);
        const auto high = V::template int_field<2 * j - 4>(o.high, 48);
        return V::sub(V::add(low, high), V::splat_ints(32));
    }
    // The scales of runs j and j + 4, each a word.
    template <int j>
    static BQ_INLINE typename V::Ints two_scales(const Open& o) {
        const auto low = V::template int_field<4 * j>(o.low, 0xf000f);
        const auto high = V::template int_field<2 * j - 4>(o.high, 0x300030);
        return V::sub_words(V::add_words(low, high), V::splat_words(32));
    }
    template <int j>
    static BQ_INLINE typename V::Ints factor(const Open& o) {
        const auto two = two_scales<j % 4>(o);
        return j < 4 ? V::low_words_twice(two) : V::high_words_twice(two);
    }
    static BQ_INLINE const uint8_t* part_words(const Open& o, int part) {
        return o.words + 4 * V::kLanes * (1 + 4 * part);
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight_in_part(const uint8_t* words) {
        return V::look_up(V::levels(iq4::kLevels, kOffset), strip_nibbles<i, V>(words));
    }
    template <int g, int i>
    static BQ_INLINE typename V::Bytes weight(const Open& o) {
        return weight_in_part<0, i>(part_words(o, g));
    }
};

}  // namespace
}  // namespace bq
