// The formats with codebooks in vectors: see unpack.hpp. Points are loaded whole from the expanded tables;
// signs are one bit for each element of a chunk.
#pragma once

#include "simd/unpack.hpp"

namespace bq {
namespace {

inline constexpr uint64_t kOneInEachByte = 0x0101010101010101ull;

// The signs of 32 elements from the four times seven bits that are stored (codebooks::even_signs).
static BQ_INLINE uint32_t even_signs_of_four(uint32_t stored) {
    const uint32_t signs =
        (stored & 0x7f) | (stored & 0x3f80) << 1 | (stored & 0x1fc000) << 2 | (stored & 0xfe00000) << 3;
    uint32_t parity = signs ^ signs >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return signs | (parity & 0x01010101) << 7;
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

template <class S>
struct Unpack<S, FormatId::IQ2_XXS> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* run = b + offsetof(BlockIQ2_XXS, runs) + 8 * j;
        const auto points = S::load_points(codebooks::iq2_xxs::kPoints.at, run[0], run[1], run[2], run[3]);
        return S::negate(points, even_signs_of_four(load_as<uint32_t>(run + 4)));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = top_nibbles(b + offsetof(BlockIQ2_XXS, runs) + 4, 8);
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ2_XXS, d)) * 0.125f, nibbles);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ2_XS> {
    static constexpr int kRun = 16, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint64_t v = load_as<uint64_t>(b + offsetof(BlockIQ2_XS, qs) + 8 * j);
        const auto points = S::load_points(codebooks::iq2_xs::kPoints.at, v & 511, v >> 16 & 511,
                                           v >> 32 & 511, v >> 48 & 511);
        const uint64_t signs = (v >> 9 & 0x7f) | (v >> 18 & 0x3f80) | (v >> 27 & 0x1fc000) | v >> 57 << 21;
        return S::negate(points, even_signs_of_four(static_cast<uint32_t>(signs)));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        nibble_scales<S>(b + offsetof(BlockIQ2_XS, d), b + offsetof(BlockIQ2_XS, scales), scale);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ2_S> {
    static constexpr int kRun = 16, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ2_S, qs) + 4 * j;
        const unsigned high = b[offsetof(BlockIQ2_S, qh) + j];
        const auto points = S::load_points(codebooks::iq2_s::kPoints.at, qs[0] | (high << 8 & 0x300),
                                           qs[1] | (high << 6 & 0x300), qs[2] | (high << 4 & 0x300),
                                           qs[3] | (high << 2 & 0x300));
        return S::negate(points, load_as<uint32_t>(b + offsetof(BlockIQ2_S, signs) + 4 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        nibble_scales<S>(b + offsetof(BlockIQ2_S, d), b + offsetof(BlockIQ2_S, scales), scale);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ3_XXS> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ3_XXS, qs) + 8 * j;
        const auto points = S::load_points(codebooks::iq3_xxs::kPoints.at, qs[0], qs[1], qs[2], qs[3], qs[4],
                                           qs[5], qs[6], qs[7]);
        return S::negate(
            points, even_signs_of_four(load_as<uint32_t>(b + offsetof(BlockIQ3_XXS, signs_scale) + 4 * j)));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = top_nibbles(b + offsetof(BlockIQ3_XXS, signs_scale), 4);
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ3_XXS, d)) * 0.25f, nibbles);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ3_S> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ3_S, qs) + 8 * j;
        const unsigned high = b[offsetof(BlockIQ3_S, qh) + j];
        const auto points =
            S::load_points(codebooks::iq3_s::kPoints.at, qs[0] | (high << 8 & 256), qs[1] | (high << 7 & 256),
                           qs[2] | (high << 6 & 256), qs[3] | (high << 5 & 256), qs[4] | (high << 4 & 256),
                           qs[5] | (high << 3 & 256), qs[6] | (high << 2 & 256), qs[7] | (high << 1 & 256));
        return S::negate(points, load_as<uint32_t>(b + offsetof(BlockIQ3_S, signs) + 4 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t nibbles = spread_nibbles(load_as<uint32_t>(b + offsetof(BlockIQ3_S, scales)));
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ3_S, d)), nibbles);
    }
};

// Four ternary points in eighths, moved down where `down` is set and up elsewhere.
template <class S>
static BQ_INLINE typename S::Bytes shifted_points(int a, int b, int c, int d, uint32_t down) {
    const auto points = S::load_points(codebooks::iq1_s::kPoints.at, a, b, c, d);
    return S::sub(points, S::negate(S::splat(-1), down));
}

template <class S>
struct Unpack<S, FormatId::IQ1_S> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ1_S, qs) + 4 * j;
        const int high = load_as<uint16_t>(b + offsetof(BlockIQ1_S, qh) + 2 * j);
        return shifted_points<S>(qs[0] | (high << 8 & 0x700), qs[1] | (high << 5 & 0x700),
                                 qs[2] | (high << 2 & 0x700), qs[3] | (high >> 1 & 0x700),
                                 high >> 15 ? ~0u : 0u);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        uint64_t integers = 0;
        for (int j = 0; j < 8; ++j)
            integers |= static_cast<uint64_t>(b[offsetof(BlockIQ1_S, qh) + 2 * j + 1] >> 4 & 7) << 8 * j;
        scale[0] = odd_scales<S>(S::f16(b + offsetof(BlockIQ1_S, d)) * 0.125f, integers);
    }
};

template <class S>
struct Unpack<S, FormatId::IQ1_M> {
    static constexpr int kRun = 16, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        const uint8_t* qs = b + offsetof(BlockIQ1_M, qs) + 4 * j;
        const int high = load_as<uint16_t>(b + offsetof(BlockIQ1_M, qh) + 2 * j);
        // Bits 3, 7, 11 and 15 to one in each byte, and from there to the whole byte.
        const uint32_t down =
            (high >> 3 & 1) | (high << 1 & 0x100) | (high << 5 & 0x10000) | high >> 15 << 24;
        return shifted_points<S>(qs[0] | (high << 8 & 0x700), qs[1] | (high << 4 & 0x700),
                                 qs[2] | (high & 0x700), qs[3] | (high >> 4 & 0x700), down * 255);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const uint64_t words = load_as<uint64_t>(b + offsetof(BlockIQ1_M, scales));
        // Each word's nibble of d, and its four times three bits in bytes of their own.
        const uint64_t nibbles = words >> 12 & 0x000f000f000f000full;
        const uint64_t pairs = nibbles | nibbles >> 12;
        const uint16_t d = static_cast<uint16_t>((pairs & 0xff) | (pairs >> 32 & 0xff) << 8);
        uint8_t half[2];
        memcpy(half, &d, 2);
        const float eighth = S::f16(half) * 0.125f;
        for (int i = 0; i < 2; ++i) {
            uint64_t integers = 0;
            for (int j = 0; j < 8; ++j) integers |= (words >> (32 * i + j / 4 * 16 + j % 4 * 3) & 7) << 8 * j;
            scale[i] = odd_scales<S>(eighth, integers);
        }
    }
};

}  // namespace
}  // namespace bq
