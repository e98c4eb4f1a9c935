// Formats whose runs have few different values. Decoding them to 16-bit floats, it is cheaper to convert each
// value of a run once and to look the elements up than to convert every element:
//
//   kCount   values of a run, a power of two up to 16; 0 for the formats that have too many
//   kValues  value l = scale * kValues[l] - minimum
//   index    which of its run's values each element of a chunk has
#pragma once

#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"

namespace bq {
namespace {

template <class S, FormatId id>
struct Levels {
    static constexpr int kCount = 0;
};

// Integers 0, 1, 2, ... less the offset: the chunks are the indices.
template <class S, FormatId id, int count>
struct EvenLevels {
    static constexpr int kCount = count;
    static constexpr int kOffset = Unpack<S, id>::kOffset;
    static_assert(!Unpack<S, id>::kSigned && kOffset <= 8);
    static constexpr int8_t kValues[16] = {0 - kOffset,  1 - kOffset,  2 - kOffset,  3 - kOffset,
                                           4 - kOffset,  5 - kOffset,  6 - kOffset,  7 - kOffset,
                                           8 - kOffset,  9 - kOffset,  10 - kOffset, 11 - kOffset,
                                           12 - kOffset, 13 - kOffset, 14 - kOffset, 15 - kOffset};
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) { return Unpack<S, id>::chunk(b, j); }
};

template <class S>
struct Levels<S, FormatId::Q4_0> : EvenLevels<S, FormatId::Q4_0, 16> {};
template <class S>
struct Levels<S, FormatId::Q4_1> : EvenLevels<S, FormatId::Q4_1, 16> {};
template <class S>
struct Levels<S, FormatId::Q2_K> : EvenLevels<S, FormatId::Q2_K, 4> {};
template <class S>
struct Levels<S, FormatId::Q3_K> : EvenLevels<S, FormatId::Q3_K, 8> {};
template <class S>
struct Levels<S, FormatId::Q4_K> : EvenLevels<S, FormatId::Q4_K, 16> {};
template <class S>
struct Levels<S, FormatId::TQ1_0> : EvenLevels<S, FormatId::TQ1_0, 4> {};
template <class S>
struct Levels<S, FormatId::TQ2_0> : EvenLevels<S, FormatId::TQ2_0, 4> {};
template <class S>
struct Levels<S, FormatId::Q1_0> : EvenLevels<S, FormatId::Q1_0, 4> {};
template <class S>
struct Levels<S, FormatId::Q2_0> : EvenLevels<S, FormatId::Q2_0, 4> {};

template <class S>
struct Levels<S, FormatId::IQ4_NL> {
    static constexpr int kCount = 16;
    static constexpr const int8_t (&kValues)[16] = iq4::kLevels;
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockIQ4_NL, qs));
    }
};
template <class S>
struct Levels<S, FormatId::IQ4_XS> {
    static constexpr int kCount = 16;
    static constexpr const int8_t (&kValues)[16] = iq4::kLevels;
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        return S::load_nibbles(b + offsetof(BlockIQ4_XS, qs) + 16 * j);
    }
};
template <class S>
struct Levels<S, FormatId::MXFP4> {
    static constexpr int kCount = 16;
    static constexpr const int8_t (&kValues)[16] = fp4::kDoubled;
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockMXFP4, qs));
    }
};

// Three magnitudes, 8, 25 and 43, which differ in the bits 4 and 5; the third bit of the index is the sign.
template <class S, FormatId id>
struct SignedTriples {
    static constexpr int kCount = 8;
    static constexpr int8_t kValues[16] = {8, 25, 43, 0, -8, -25, -43, 0};
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, id>;
        return S::bit_or(S::field(F::points(b, j), 4, 2, 0), S::field(F::signs(b, j), 2, 1, 2));
    }
};
template <class S>
struct Levels<S, FormatId::IQ2_XXS> : SignedTriples<S, FormatId::IQ2_XXS> {};
template <class S>
struct Levels<S, FormatId::IQ2_XS> : SignedTriples<S, FormatId::IQ2_XS> {};
template <class S>
struct Levels<S, FormatId::IQ2_S> : SignedTriples<S, FormatId::IQ2_S> {};

// Eight magnitudes, which differ in three bits; the fourth bit of the index is the sign.
template <class S>
struct Levels<S, FormatId::IQ3_XXS> {
    static constexpr int kCount = 16;
    static constexpr int8_t kValues[16] = {4,  12,  20,  28,  36,  44,  52,  62,
                                           -4, -12, -20, -28, -36, -44, -52, -62};
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, FormatId::IQ3_XXS>;
        return S::bit_or(S::field(F::points(b, j), 3, 3, 0), S::field(F::signs(b, j), 3, 1, 3));
    }
};
template <class S>
struct Levels<S, FormatId::IQ3_S> {
    static constexpr int kCount = 16;
    static constexpr int8_t kValues[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, FormatId::IQ3_S>;
        return S::bit_or(S::field(F::points(b, j), 1, 3, 0), S::field(F::signs(b, j), 3, 1, 3));
    }
};

// The points 0, 8 and -8 differ in the bits 3 and 4; the third bit of the index is set where they are moved
// up.
template <class S, FormatId id>
struct ShiftedTernary {
    static constexpr int kCount = 8;
    static constexpr int8_t kValues[16] = {-1, 7, 0, -9, 1, 9, 0, -7};
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, id>;
        return S::bit_or(S::field(F::points(b, j), 3, 2, 0), S::field(F::up(b, j), 2, 1, 2));
    }
};
template <class S>
struct Levels<S, FormatId::IQ1_S> : ShiftedTernary<S, FormatId::IQ1_S> {};
template <class S>
struct Levels<S, FormatId::IQ1_M> : ShiftedTernary<S, FormatId::IQ1_M> {};

// The values of a format as floats, repeated to fill sixteen.
template <class S, FormatId id>
struct LevelFloats {
    float v[16];
    constexpr LevelFloats() : v() {
        for (int i = 0; i < 16; ++i) v[i] = Levels<S, id>::kValues[i % Levels<S, id>::kCount];
    }
};

}  // namespace
}  // namespace bq
