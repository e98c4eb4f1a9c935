// Formats whose runs have few different values. Decoding them to 16-bit floats, it is cheaper to convert each
// value of a run once and to look the elements up than to convert every element:
//
//   kCount   values of a run, a power of two up to 32; 0 for the formats that have too many
//   value    value(l) is the integer of level l: scale * value(l) - minimum
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
    static_assert(!Unpack<S, id>::kSigned && kOffset <= 16);
    static constexpr int value(int l) { return l - kOffset; }
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
struct Levels<S, FormatId::Q5_0> : EvenLevels<S, FormatId::Q5_0, 32> {};
template <class S>
struct Levels<S, FormatId::Q5_1> : EvenLevels<S, FormatId::Q5_1, 32> {};
template <class S>
struct Levels<S, FormatId::Q5_K> : EvenLevels<S, FormatId::Q5_K, 32> {};
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
    static constexpr int value(int l) { return iq4::kLevels[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockIQ4_NL, qs));
    }
};
template <class S>
struct Levels<S, FormatId::IQ4_XS> {
    static constexpr int kCount = 16;
    static constexpr int value(int l) { return iq4::kLevels[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        return S::load_nibbles(b + offsetof(BlockIQ4_XS, qs) + 16 * j);
    }
};
template <class S>
struct Levels<S, FormatId::MXFP4> {
    static constexpr int kCount = 16;
    static constexpr int value(int l) { return fp4::kDoubled[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockMXFP4, qs));
    }
};

template <class S>
struct Levels<S, FormatId::NVFP4> {
    static constexpr int kCount = 16;
    static constexpr int value(int l) { return fp4::kDoubled[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        return S::load_nibbles_of_eights(b + offsetof(BlockNVFP4, qs) + 16 * j);
    }
};

// Three magnitudes, 8, 25 and 43, which differ in the bits 4 and 5; the third bit of the index is the sign.
template <class S, FormatId id>
struct SignedTriples {
    static constexpr int kCount = 8;
    static constexpr int8_t kValues[16] = {8, 25, 43, 0, -8, -25, -43, 0};
    static constexpr int value(int l) { return kValues[l]; }
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
    static constexpr int value(int l) { return kValues[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, FormatId::IQ3_XXS>;
        return S::bit_or(S::field(F::points(b, j), 3, 3, 0), S::field(F::signs(b, j), 3, 1, 3));
    }
};
template <class S>
struct Levels<S, FormatId::IQ3_S> {
    static constexpr int kCount = 16;
    static constexpr int8_t kValues[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
    static constexpr int value(int l) { return kValues[l]; }
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
    static constexpr int value(int l) { return kValues[l]; }
    static BQ_INLINE typename S::Bytes index(const uint8_t* b, int j) {
        using F = Unpack<S, id>;
        return S::bit_or(S::field(F::points(b, j), 3, 2, 0), S::field(F::up(b, j), 2, 1, 2));
    }
};
template <class S>
struct Levels<S, FormatId::IQ1_S> : ShiftedTernary<S, FormatId::IQ1_S> {};
template <class S>
struct Levels<S, FormatId::IQ1_M> : ShiftedTernary<S, FormatId::IQ1_M> {};

// The values of a format as floats, repeated to fill 32.
template <class S, FormatId id>
struct LevelFloats {
    float v[32];
    constexpr LevelFloats() : v() {
        for (int i = 0; i < 32; ++i) v[i] = Levels<S, id>::value(i % Levels<S, id>::kCount);
    }
};

// The indices of 32 elements in the form that S::look_up takes, chunk j of 256 elements at w. What chunks
// have in common can be prepared ahead, in kBytes bytes at a multiple of 64. Where a chunk has two runs, the
// levels of the second follow those of the first.
template <class S, FormatId id>
struct ChunkLevels {
    static constexpr int kBytes = 1;
    static BQ_INLINE void prepare(const uint8_t*, uint8_t*) {}
    static BQ_INLINE auto index(const uint8_t* w, const uint8_t*, int j) {
        constexpr int kChunksPerBlock = CommonForm<id>::elements / 32;
        auto i = Levels<S, id>::index(w + j / kChunksPerBlock * CommonForm<id>::bytes, j % kChunksPerBlock);
        if constexpr (Unpack<S, id>::kRun == 16)
            i = S::bit_or(i, S::bits(0xffff0000u, Levels<S, id>::kCount));
        return S::level_index(i);
    }
};

}  // namespace
}  // namespace bq
