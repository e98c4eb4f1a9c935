// Blocks to the common form in vectors: for each format, written once over the vocabulary,
//
//   kRun      elements that share a scale here: 16, or 32 with the scale of a longer run repeated
//   kOffset   value = scale * (chunk - kOffset) - minimum; 0 when kSigned
//   kSigned   chunks hold signed bytes; otherwise 0..127
//   chunk     the elements 32 j to 32 j + 31 of a block
//   scales<n> of n blocks, 256 elements at most: a float for each run in order, zeros after the last;
//             minimum is written only if the format has minima
//
// The scalar formulas of csrc/formats are the reference. A new format needs one such struct.
#pragma once

#include <cstddef>

#include "formats/common_form.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

template <class S, FormatId id>
struct Unpack;

// The nibbles of a word in bytes of their own, the first in the low byte.
static BQ_INLINE uint64_t spread_nibbles(uint32_t word) {
    uint64_t v = word;
    v = (v | v << 16) & 0x0000ffff0000ffffull;
    v = (v | v << 8) & 0x00ff00ff00ff00ffull;
    return (v | v << 4) & 0x0f0f0f0f0f0f0f0full;
}

// The formats of 32 elements: a float16 scale at byte 0, a float16 minimum at byte 2 if the format has
// minima.
template <class S, FormatId id>
struct LegacyScales {
    static constexpr int kRun = 32;
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* w, typename S::Floats* scale, typename S::Floats* minimum) {
        using Form = CommonForm<id>;
        scale[0] = S::template gather_f16<kBlocks>(w, Form::bytes);
        if constexpr (Form::has_minima)  // stored with the other sign; 0 - x would not negate a zero
            minimum[0] = S::sub(S::splat8(-0.0f), S::template gather_f16<kBlocks>(w + 2, Form::bytes));
    }
};

template <class S>
struct Unpack<S, FormatId::Q4_0> : LegacyScales<S, FormatId::Q4_0> {
    static constexpr int kOffset = 8;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockQ4_0, qs));
    }
};

template <class S>
struct Unpack<S, FormatId::Q4_1> : LegacyScales<S, FormatId::Q4_1> {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load_nibbles(b + offsetof(BlockQ4_1, qs));
    }
};

template <class S>
struct Unpack<S, FormatId::Q5_0> : LegacyScales<S, FormatId::Q5_0> {
    static constexpr int kOffset = 16;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::bit_or(S::load_nibbles(b + offsetof(BlockQ5_0, qs)),
                         S::bits(load_as<uint32_t>(b + offsetof(BlockQ5_0, qh)), 16));
    }
};

template <class S>
struct Unpack<S, FormatId::Q5_1> : LegacyScales<S, FormatId::Q5_1> {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::bit_or(S::load_nibbles(b + offsetof(BlockQ5_1, qs)),
                         S::bits(load_as<uint32_t>(b + offsetof(BlockQ5_1, qh)), 16));
    }
};

template <class S>
struct Unpack<S, FormatId::Q8_0> : LegacyScales<S, FormatId::Q8_0> {
    static constexpr int kOffset = 0;
    static constexpr bool kSigned = true;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::load(b + offsetof(BlockQ8_0, qs));
    }
};

template <class S>
struct Unpack<S, FormatId::Q2_K> {
    static constexpr int kRun = 16, kOffset = 0;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::field(S::load(b + offsetof(BlockQ2_K, qs) + j / 4 * 32), 2 * (j % 4), 2, 0);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats* minimum) {
        constexpr uint64_t nibbles = 0x0f0f0f0f0f0f0f0full;
        const auto d = S::splat8(S::f16(b + offsetof(BlockQ2_K, d)));
        const auto dmin = S::splat8(S::f16(b + offsetof(BlockQ2_K, dmin)));
        for (int i = 0; i < 2; ++i) {
            const uint64_t packed = load_as<uint64_t>(b + offsetof(BlockQ2_K, scales) + 8 * i);
            scale[i] = S::mul(d, S::from_u8(packed & nibbles));
            minimum[i] = S::mul(dmin, S::from_u8(packed >> 4 & nibbles));
        }
    }
};

// The sixteen 6-bit scales of Q3_K as bytes, 32 above their values.
static BQ_INLINE void q3_k_scales(const uint8_t* b, uint64_t (&stored)[2]) {
    const uint8_t* packed = b + offsetof(BlockQ3_K, scales);
    const uint64_t low = load_as<uint64_t>(packed);
    const uint64_t four = load_as<uint32_t>(packed + 8);
    const uint64_t high = four | four << 30;  // runs 4-7 take their pairs two bits further up
    for (int i = 0; i < 2; ++i)
        stored[i] = (low >> 4 * i & 0x0f0f0f0f0f0f0f0full) | (high >> 4 * i & 0x0303030303030303ull) << 4;
}

template <class S>
struct Unpack<S, FormatId::Q3_K> {
    static constexpr int kRun = 16, kOffset = 4;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        const auto low = S::load(b + offsetof(BlockQ3_K, qs) + j / 4 * 32);
        const auto high = S::load(b + offsetof(BlockQ3_K, hmask));
        return S::bit_or(S::field(low, 2 * (j % 4), 2, 0), S::field(high, j, 1, 2));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        uint64_t stored[2];
        q3_k_scales(b, stored);
        const auto d = S::splat8(S::f16(b + offsetof(BlockQ3_K, d)));
        const auto bias = S::splat8(32.0f);
        for (int i = 0; i < 2; ++i) scale[i] = S::mul(d, S::sub(S::from_u8(stored[i]), bias));
    }
};

// The eight 6-bit scales and minima of Q4_K and Q5_K as bytes.
struct SixBits {
    uint64_t scales, minima;
};
static BQ_INLINE SixBits six_bits(const uint8_t* packed) {
    const uint64_t low = load_as<uint64_t>(packed);  // scales 0-3, minima 0-3; the others' high pairs
    const uint64_t four = load_as<uint32_t>(packed + 8);
    const uint64_t high = low >> 2 & 0x3030303030303030ull;
    return {(low & 0x3f3f3f3full) | ((four & 0x0f0f0f0full) | (high & 0xffffffffull)) << 32,
            (low >> 32 & 0x3f3f3f3full) | ((four >> 4 & 0x0f0f0f0full) | high >> 32) << 32};
}

template <class S>
static BQ_INLINE void six_bit_scales(const uint8_t* packed, float d, float dmin, typename S::Floats* scale,
                                     typename S::Floats* minimum) {
    const SixBits six = six_bits(packed);
    scale[0] = S::mul(S::splat8(d), S::from_u8(six.scales));
    minimum[0] = S::mul(S::splat8(dmin), S::from_u8(six.minima));
}

template <class S>
struct Unpack<S, FormatId::Q4_K> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        return S::field(S::load(b + offsetof(BlockQ4_K, qs) + j / 2 * 32), 4 * (j % 2), 4, 0);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats* minimum) {
        six_bit_scales<S>(b + offsetof(BlockQ4_K, scales), S::f16(b + offsetof(BlockQ4_K, d)),
                          S::f16(b + offsetof(BlockQ4_K, dmin)), scale, minimum);
    }
};

template <class S>
struct Unpack<S, FormatId::Q5_K> {
    static constexpr int kRun = 32, kOffset = 0;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        const auto low = S::load(b + offsetof(BlockQ5_K, qs) + j / 2 * 32);
        const auto high = S::load(b + offsetof(BlockQ5_K, qh));
        return S::bit_or(S::field(low, 4 * (j % 2), 4, 0), S::field(high, j, 1, 4));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats* minimum) {
        six_bit_scales<S>(b + offsetof(BlockQ5_K, scales), S::f16(b + offsetof(BlockQ5_K, d)),
                          S::f16(b + offsetof(BlockQ5_K, dmin)), scale, minimum);
    }
};

template <class S>
struct Unpack<S, FormatId::Q6_K> {
    static constexpr int kRun = 16, kOffset = 32;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, [[maybe_unused]] int j) {
        const auto low = S::load(b + offsetof(BlockQ6_K, ql) + j / 4 * 64 + j % 2 * 32);
        const auto high = S::load(b + offsetof(BlockQ6_K, qh) + j / 4 * 32);
        return S::bit_or(S::field(low, j % 4 / 2 * 4, 4, 0), S::field(high, 2 * (j % 4), 2, 4));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const auto d = S::splat8(S::f16(b + offsetof(BlockQ6_K, d)));
        for (int i = 0; i < 2; ++i)
            scale[i] = S::mul(d, S::from_i8(load_as<uint64_t>(b + offsetof(BlockQ6_K, scales) + 8 * i)));
    }
};

}  // namespace
}  // namespace bq
