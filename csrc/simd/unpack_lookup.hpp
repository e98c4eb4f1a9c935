// The formats of 4-bit indices into sixteen values, in vectors: see unpack.hpp.
#pragma once

#include "simd/unpack.hpp"

namespace bq {
namespace {

// The eight pairs of bits of a word in bytes of their own.
static BQ_INLINE uint64_t spread_pairs(uint16_t word) {
    uint64_t v = word;
    v = (v | v << 24) & 0x000000ff000000ffull;
    v = (v | v << 12) & 0x000f000f000f000full;
    return (v | v << 6) & 0x0303030303030303ull;
}

template <class S>
struct Unpack<S, FormatId::IQ4_NL> : LegacyScales<S, FormatId::IQ4_NL> {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::lookup(iq4::kLevels, S::load_nibbles(b + offsetof(BlockIQ4_NL, qs)));
    }
};

// The eight 6-bit scales of IQ4_XS as bytes, 32 above their values.
static BQ_INLINE uint64_t iq4_xs_scales(const uint8_t* b) {
    const uint64_t low = spread_nibbles(load_as<uint32_t>(b + offsetof(BlockIQ4_XS, scales_l)));
    const uint64_t high = spread_pairs(load_as<uint16_t>(b + offsetof(BlockIQ4_XS, scales_h)));
    return low | high << 4;
}

template <class S>
struct Unpack<S, FormatId::IQ4_XS> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::lookup(iq4::kLevels, S::load_nibbles(b + offsetof(BlockIQ4_XS, qs) + 16 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const auto d = S::splat8(S::f16(b + offsetof(BlockIQ4_XS, d)));
        scale[0] = S::mul(d, S::sub(S::from_u8(iq4_xs_scales(b)), S::splat8(32.0f)));
    }
};

template <class S>
struct Unpack<S, FormatId::MXFP4> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::lookup(fp4::kDoubled, S::load_nibbles(b + offsetof(BlockMXFP4, qs)));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        uint64_t e = 0;
        for (int i = 0; i < kBlocks; ++i)
            e |= static_cast<uint64_t>(b[i * sizeof(BlockMXFP4) + offsetof(BlockMXFP4, e)]) << 8 * i;
        scale[0] = S::halves_of_e8m0(e);
    }
};

template <class S>
struct Unpack<S, FormatId::NVFP4> {
    static constexpr int kRun = 16, kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::lookup(fp4::kDoubled, S::load_nibbles_of_eights(b + offsetof(BlockNVFP4, qs) + 16 * j));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        uint64_t bits[2] = {0, 0};
        for (int i = 0; i < kBlocks; ++i) {
            const uint64_t four =
                load_as<uint32_t>(b + i * sizeof(BlockNVFP4) + offsetof(BlockNVFP4, scales));
            bits[i / 2] |= four << 32 * (i % 2);
        }
        for (int i = 0; i < 2; ++i) scale[i] = S::halves_of_ue4m3(bits[i]);
    }
};

}  // namespace
}  // namespace bq
