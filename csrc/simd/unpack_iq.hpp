// The formats with codebooks in vectors: see unpack.hpp. Points are loaded whole from the expanded tables;
// signs are one bit for each element of a chunk.
#pragma once

#include "simd/unpack.hpp"

namespace bq {
namespace {

// The signs of 32 elements, as masks, from the four times seven bits that are stored.
template <class S>
static BQ_INLINE typename S::Bytes even_signs_of_four(uint32_t stored) {
    return S::load_points(codebooks::kEvenSignMasks.at, stored & 127, stored >> 7 & 127, stored >> 14 & 127,
                          stored >> 21 & 127);
}

// The scales of eight runs whose integers are odd: twice the byte, plus one.
template <class S>
static BQ_INLINE typename S::Floats odd_scales(float d, uint64_t bytes) {
    return S::mul(S::splat8(d), S::from_u8(bytes << 1 | kOneInEachByte));
}

// The top nibbles of eight 32-bit words that are `stride` bytes apart.
static BQ_INLINE uint64_t top_nibbles(const uint8_t* words, int stride) {
    uint64_t nibbles = 0;
    for (int j = 0; j < 8; ++j) nibbles |= static_cast<uint64_t>(words[j * stride + 3] >> 4) << 8 * j;
    return nibbles;
}

// d * (scale + 1/2) / 4 of sixteen runs.
template <class S>
static BQ_INLINE void nibble_scales(const uint8_t* d, const uint8_t* packed, typename S::Floats* scale) {
    const float eighth = S::f16(d) * 0.125f;
    scale[0] = odd_scales<S>(eighth, spread_nibbles(load_as<uint32_t>(packed)));
    scale[1] = odd_scales<S>(eighth, spread_nibbles(load_as<uint32_t>(packed + 4)));
}

// Magnitudes points(b, j) and masks signs(b, j), all ones for the negative elements.
template <class S, FormatId id>
struct SignedPoints {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::negate(Unpack<S, id>::points(b, j), Unpack<S, id>::signs(b, j));
    }
};

template <class S>
struct Unpack<S, FormatId::IQ2_XXS> : SignedPoints<S, FormatId::IQ2_XXS> {
    static constexpr int kRun = 32;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ2_XXS, runs) + 8 * j;
        return S::load_points(codebooks::iq2_xxs::kPoints.at, qs[0], qs[1], qs[2], qs[3]);
    }
    static BQ_INLINE typename S::Bytes signs(const uint8_t* b, int j) {
        return even_signs_of_four<S>(load_as<uint32_t>(b + offsetof(BlockIQ2_XXS, runs) + 8 * j + 4));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = top_nibbles(b + offsetof(BlockIQ2_XXS, runs) + 4, 8);
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ2_XXS, d)) * 0.125f, nibbles);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ2_XS> : SignedPoints<S, FormatId::IQ2_XS> {
    static constexpr int kRun = 16;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint64_t v = load_as<uint64_t>(b + offsetof(BlockIQ2_XS, qs) + 8 * j);
        return S::load_points(codebooks::iq2_xs::kPoints.at, v & 511, v >> 16 & 511, v >> 32 & 511,
                              v >> 48 & 511);
    }
    static BQ_INLINE typename S::Bytes signs(const uint8_t* b, int j) {
        const uint64_t v = load_as<uint64_t>(b + offsetof(BlockIQ2_XS, qs) + 8 * j);
        return S::load_points(codebooks::kEvenSignMasks.at, v >> 9 & 127, v >> 25 & 127, v >> 41 & 127,
                              v >> 57);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        nibble_scales<S>(b + offsetof(BlockIQ2_XS, d), b + offsetof(BlockIQ2_XS, scales), scale);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ2_S> : SignedPoints<S, FormatId::IQ2_S> {
    static constexpr int kRun = 16;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ2_S, qs) + 4 * j;
        const unsigned high = b[offsetof(BlockIQ2_S, qh) + j];
        return S::load_points(codebooks::iq2_s::kPoints.at, qs[0] | (high << 8 & 0x300),
                              qs[1] | (high << 6 & 0x300), qs[2] | (high << 4 & 0x300),
                              qs[3] | (high << 2 & 0x300));
    }
    static BQ_INLINE typename S::Bytes signs(const uint8_t* b, int j) {
        return S::bit_mask(load_as<uint32_t>(b + offsetof(BlockIQ2_S, signs) + 4 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        nibble_scales<S>(b + offsetof(BlockIQ2_S, d), b + offsetof(BlockIQ2_S, scales), scale);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ3_XXS> : SignedPoints<S, FormatId::IQ3_XXS> {
    static constexpr int kRun = 32;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ3_XXS, qs) + 8 * j;
        return S::load_points(codebooks::iq3_xxs::kPoints.at, qs[0], qs[1], qs[2], qs[3], qs[4], qs[5], qs[6],
                              qs[7]);
    }
    static BQ_INLINE typename S::Bytes signs(const uint8_t* b, int j) {
        return even_signs_of_four<S>(load_as<uint32_t>(b + offsetof(BlockIQ3_XXS, signs_scale) + 4 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = top_nibbles(b + offsetof(BlockIQ3_XXS, signs_scale), 4);
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ3_XXS, d)) * 0.25f, nibbles);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ3_S> : SignedPoints<S, FormatId::IQ3_S> {
    static constexpr int kRun = 32;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ3_S, qs) + 8 * j;
        const unsigned high = b[offsetof(BlockIQ3_S, qh) + j];
        return S::load_points(codebooks::iq3_s::kPoints.at, qs[0] | (high << 8 & 256),
                              qs[1] | (high << 7 & 256), qs[2] | (high << 6 & 256), qs[3] | (high << 5 & 256),
                              qs[4] | (high << 4 & 256), qs[5] | (high << 3 & 256), qs[6] | (high << 2 & 256),
                              qs[7] | (high << 1 & 256));
    }
    static BQ_INLINE typename S::Bytes signs(const uint8_t* b, int j) {
        return S::bit_mask(load_as<uint32_t>(b + offsetof(BlockIQ3_S, signs) + 4 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = spread_nibbles(load_as<uint32_t>(b + offsetof(BlockIQ3_S, scales)));
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ3_S, d)), nibbles);
    }
};

// Ternary points in eighths, points(b, j), moved up where the mask up(b, j) is set and down elsewhere.
template <class S, FormatId id>
struct ShiftedPoints {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const auto shift = S::bit_or(Unpack<S, id>::up(b, j), S::splat(1));  // -1 or 1
        return S::sub(Unpack<S, id>::points(b, j), shift);
    }
};

// The scales of the eight runs of IQ1_S as stored, as bytes.
static BQ_INLINE uint64_t iq1_s_scales(const uint8_t* b) {
    uint64_t integers = 0;
    for (int j = 0; j < 8; ++j)
        integers |= static_cast<uint64_t>(b[offsetof(BlockIQ1_S, qh) + 2 * j + 1] >> 4 & 7) << 8 * j;
    return integers;
}

template <class S>
struct Unpack<S, FormatId::IQ1_S> : ShiftedPoints<S, FormatId::IQ1_S> {
    static constexpr int kRun = 32;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ1_S, qs) + 4 * j;
        const int high = load_as<uint16_t>(b + offsetof(BlockIQ1_S, qh) + 2 * j);
        return S::load_points(codebooks::iq1_s::kPoints.at, qs[0] | (high << 8 & 0x700),
                              qs[1] | (high << 5 & 0x700), qs[2] | (high << 2 & 0x700),
                              qs[3] | (high >> 1 & 0x700));
    }
    static BQ_INLINE typename S::Bytes up(const uint8_t* b, int j) {
        return S::splat((b[offsetof(BlockIQ1_S, qh) + 2 * j + 1] >> 7) - 1);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ1_S, d)) * 0.125f, iq1_s_scales(b));
    }
};

// The scale that IQ1_M keeps in the top nibbles of four words.
template <class S>
static BQ_INLINE float iq1_m_unit(const uint8_t* b) {
    const uint64_t nibbles =
        load_as<uint64_t>(b + offsetof(BlockIQ1_M, scales)) >> 12 & 0x000f000f000f000full;
    const uint64_t pairs = nibbles | nibbles >> 12;
    const uint16_t d = static_cast<uint16_t>((pairs & 0xff) | (pairs >> 32 & 0xff) << 8);
    return S::f16(reinterpret_cast<const uint8_t*>(&d));
}
// The scales of its sixteen runs as stored, four times three bits in each word, as bytes.
static BQ_INLINE void iq1_m_scales(const uint8_t* b, uint64_t (&stored)[2]) {
    const uint64_t words = load_as<uint64_t>(b + offsetof(BlockIQ1_M, scales));
    for (int i = 0; i < 2; ++i) {
        uint64_t v = (words >> 32 * i & 0xfff) | (words >> 32 * i & 0xfff0000) << 16;
        v = (v & 0x0000003f0000003full) | (v & 0x00000fc000000fc0ull) << 10;
        stored[i] = (v & 0x0007000700070007ull) | (v & 0x0038003800380038ull) << 5;
    }
}

template <class S>
struct Unpack<S, FormatId::IQ1_M> : ShiftedPoints<S, FormatId::IQ1_M> {
    static constexpr int kRun = 16;
    static BQ_INLINE typename S::Bytes points(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ1_M, qs) + 4 * j;
        const int high = load_as<uint16_t>(b + offsetof(BlockIQ1_M, qh) + 2 * j);
        return S::load_points(codebooks::iq1_s::kPoints.at, qs[0] | (high << 8 & 0x700),
                              qs[1] | (high << 4 & 0x700), qs[2] | (high & 0x700),
                              qs[3] | (high >> 4 & 0x700));
    }
    static BQ_INLINE typename S::Bytes up(const uint8_t* b, int j) {
        // Bits 3, 7, 11 and 15 to one in each byte, and from there to the whole byte.
        const uint32_t high = load_as<uint16_t>(b + offsetof(BlockIQ1_M, qh) + 2 * j) ^ 0xffffu;
        const uint32_t one = (high >> 3 & 1) | (high << 1 & 0x100) | (high << 5 & 0x10000) | high >> 15 << 24;
        return S::bit_mask(one * 255);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const float eighth = iq1_m_unit<S>(b) * 0.125f;
        uint64_t stored[2];
        iq1_m_scales(b, stored);
        for (int i = 0; i < 2; ++i) scale[i] = odd_scales<S>(eighth, stored[i]);
    }
};

}  // namespace
}  // namespace bq
