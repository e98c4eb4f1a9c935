// The scales and minima of a block into its bits, one store_scales for each format. `weights` say how much a
// change of each run's scale counts: the sum of the squares of its integers.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "assemble/assemble.hpp"
#include "assemble/scale_fit.hpp"
#include "formats/common_form.hpp"

namespace bq::assemble {

struct RunScales {
    const float* scales;
    const float* minima;
    const float* weights;
    Rounding rounding;
};

// The bits of a float16, or -1. (Not through a pointer: blocks have no alignment.)
static inline int f16_for(float value, Rounding rounding) {
    uint16_t bits;
    if (exact_f16(value, &bits)) return bits;
    return rounding == Rounding::exact || !std::isfinite(value) ? -1 : nearest_f16(value);
}

static inline bool fit_multiples(const float* scales, const float* weights, int n, const Multiples& range,
                                 Rounding rounding, Factors* out) {
    if (exact_multiples(scales, n, range, out)) return true;
    if (rounding == Rounding::exact) return false;
    for (int j = 0; j < n; ++j)
        if (!std::isfinite(scales[j])) return false;
    *out = nearest_multiples(scales, weights, n, range);
    return true;
}

// A block of one run with a float16 scale.
template <class Block>
BlockFit store_scales(const RunScales& in, Block& b) {
    const int d = f16_for(in.scales[0], in.rounding);
    if (d < 0) return {Misfit::scale, 0};
    b.d = static_cast<uint16_t>(d);
    return {};
}

template <class Block>
BlockFit store_scale_and_offset(const RunScales& in, Block& b) {
    const int d = f16_for(in.scales[0], in.rounding), m = f16_for(-in.minima[0], in.rounding);
    if (d < 0) return {Misfit::scale, 0};
    if (m < 0) return {Misfit::minimum, 0};
    b.d = static_cast<uint16_t>(d);
    b.m = static_cast<uint16_t>(m);
    return {};
}
static inline BlockFit store_scales(const RunScales& in, BlockQ4_1& b) {
    return store_scale_and_offset(in, b);
}
static inline BlockFit store_scales(const RunScales& in, BlockQ5_1& b) {
    return store_scale_and_offset(in, b);
}

template <class ValueOf>
bool store_code(float scale, int count, Rounding rounding, ValueOf value_of, uint8_t* code) {
    if (!std::isfinite(scale)) return false;
    *code = static_cast<uint8_t>(nearest_code(scale, count, value_of));
    return rounding == Rounding::nearest || value_of(*code) == scale;
}
static inline BlockFit store_scales(const RunScales& in, BlockMXFP4& b) {
    const auto value_of = [](int code) { return fp4::half_of_e8m0(static_cast<uint8_t>(code)); };
    return store_code(in.scales[0], 256, in.rounding, value_of, &b.e) ? BlockFit{}
                                                                      : BlockFit{Misfit::scale, 0};
}
static inline BlockFit store_scales(const RunScales& in, BlockNVFP4& b) {
    const auto value_of = [](int code) { return fp4::half_of_ue4m3(static_cast<uint8_t>(code)); };
    for (int j = 0; j < 4; ++j) {
        // Bytes from 0x80 on repeat those below, but for this one.
        b.scales[j] = 0xff;
        if (in.scales[j] == fp4::half_of_ue4m3(0xff)) continue;
        if (!store_code(in.scales[j], 0x7f, in.rounding, value_of, &b.scales[j])) return {Misfit::scale, j};
    }
    return {};
}

// What the scales (and minima) of a super-block's runs are multiples of; step 0 for the other formats.
template <class Block>
inline constexpr Multiples kMultiples = {};
template <>
inline constexpr Multiples kMultiples<BlockQ2_K> = {0, 15, 1, 1.0f};
template <>
inline constexpr Multiples kMultiples<BlockQ3_K> = {-32, 31, 1, 1.0f, true};
template <>
inline constexpr Multiples kMultiples<BlockQ4_K> = {0, 63, 1, 1.0f};
template <>
inline constexpr Multiples kMultiples<BlockQ5_K> = {0, 63, 1, 1.0f};
template <>
inline constexpr Multiples kMultiples<BlockQ6_K> = {-128, 127, 1, 1.0f};
template <>
inline constexpr Multiples kMultiples<BlockIQ4_XS> = {-32, 31, 1, 1.0f};

template <>
inline constexpr Multiples kMultiples<BlockIQ2_XXS> = {1, 31, 2, 0.125f};
template <>
inline constexpr Multiples kMultiples<BlockIQ2_XS> = {1, 31, 2, 0.125f};
template <>
inline constexpr Multiples kMultiples<BlockIQ2_S> = {1, 31, 2, 0.125f};
template <>
inline constexpr Multiples kMultiples<BlockIQ3_XXS> = {1, 31, 2, 0.25f};
template <>
inline constexpr Multiples kMultiples<BlockIQ3_S> = {1, 31, 2, 1.0f};
template <>
inline constexpr Multiples kMultiples<BlockIQ1_S> = {1, 15, 2, 0.125f};
template <>
inline constexpr Multiples kMultiples<BlockIQ1_M> = {1, 15, 2, 0.125f};

// Scales and minima are multiples of d and dmin.
template <int runs, class Block>
BlockFit fit_two(const RunScales& in, Block& b, uint8_t* scales, uint8_t* minima) {
    constexpr Multiples range = kMultiples<Block>;
    Factors factors;
    if (!fit_multiples(in.scales, in.weights, runs, range, in.rounding, &factors))
        return {Misfit::scale, 0, runs};
    b.d = factors.d;
    for (int j = 0; j < runs; ++j) scales[j] = static_cast<uint8_t>(factors.m[j]);
    float even[runs];
    for (float& weight : even) weight = 1;
    if (!fit_multiples(in.minima, even, runs, range, in.rounding, &factors))
        return {Misfit::minimum, 0, runs};
    b.dmin = factors.d;
    for (int j = 0; j < runs; ++j) minima[j] = static_cast<uint8_t>(factors.m[j]);
    return {};
}
static inline BlockFit store_scales(const RunScales& in, BlockQ2_K& b) {
    uint8_t scales[16], minima[16];
    const BlockFit fit = fit_two<16>(in, b, scales, minima);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(scales[j] | minima[j] << 4);
    return fit;
}
template <class Block>
BlockFit store_eight_runs(const RunScales& in, Block& b) {
    uint8_t scales[8], minima[8];
    const BlockFit fit = fit_two<8>(in, b, scales, minima);
    if (fit.misfit == Misfit::none) store_q4_scales(scales, minima, b.scales);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockQ4_K& b) {
    return store_eight_runs(in, b);
}
static inline BlockFit store_scales(const RunScales& in, BlockQ5_K& b) {
    return store_eight_runs(in, b);
}

// Scales alone: stored receives m - low in steps.
template <class Block>
BlockFit fit_one(const RunScales& in, int runs, uint16_t* d, uint8_t* stored) {
    constexpr Multiples range = kMultiples<Block>;
    Factors factors;
    if (!fit_multiples(in.scales, in.weights, runs, range, in.rounding, &factors))
        return {Misfit::scale, 0, runs};
    *d = factors.d;
    for (int j = 0; j < runs; ++j) stored[j] = static_cast<uint8_t>((factors.m[j] - range.low) / range.step);
    return {};
}
template <class Block>
BlockFit fit_d(const RunScales& in, int runs, Block& b, uint8_t* stored) {
    uint16_t d = 0;
    const BlockFit fit = fit_one<Block>(in, runs, &d, stored);
    b.d = d;
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockQ3_K& b) {
    uint8_t stored[16];
    const BlockFit fit = fit_d(in, 16, b, stored);
    if (fit.misfit == Misfit::none) store_q3_scales(stored, b.scales);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockQ6_K& b) {
    uint8_t stored[16];
    const BlockFit fit = fit_d(in, 16, b, stored);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(stored[j] - 128);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ4_XS& b) {
    uint8_t stored[8];
    const BlockFit fit = fit_d(in, 8, b, stored);
    if (fit.misfit == Misfit::none) bq::store_scales(stored, b);
    return fit;
}

static inline void store_nibbles(const uint8_t* stored, int runs, uint8_t* scales) {
    for (int j = 0; j < runs / 2; ++j)
        scales[j] = static_cast<uint8_t>(stored[2 * j] | stored[2 * j + 1] << 4);
}
static inline uint32_t with_top_nibble(uint32_t word, uint8_t nibble) {
    return (word & 0x0fffffffu) | static_cast<uint32_t>(nibble) << 28;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ2_XXS& b) {
    uint8_t stored[8];
    const BlockFit fit = fit_d(in, 8, b, stored);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 8; ++j) b.runs[j].signs_scale = with_top_nibble(b.runs[j].signs_scale, stored[j]);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ3_XXS& b) {
    uint8_t stored[8];
    const BlockFit fit = fit_d(in, 8, b, stored);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 8; ++j) b.signs_scale[j] = with_top_nibble(b.signs_scale[j], stored[j]);
    return fit;
}
template <int runs, class Block>
BlockFit store_nibble_scales(const RunScales& in, Block& b) {
    uint8_t stored[runs];
    const BlockFit fit = fit_d(in, runs, b, stored);
    if (fit.misfit == Misfit::none) store_nibbles(stored, runs, b.scales);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ2_XS& b) {
    return store_nibble_scales<16>(in, b);
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ2_S& b) {
    return store_nibble_scales<16>(in, b);
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ3_S& b) {
    return store_nibble_scales<8>(in, b);
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ1_S& b) {
    uint8_t stored[8];
    const BlockFit fit = fit_d(in, 8, b, stored);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 8; ++j) b.qh[j] = static_cast<uint16_t>((b.qh[j] & 0x8fff) | stored[j] << 12);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ1_M& b) {
    uint8_t stored[16];
    uint16_t d = 0;
    const BlockFit fit = fit_one<BlockIQ1_M>(in, 16, &d, stored);
    if (fit.misfit == Misfit::none)
        for (int word = 0; word < 4; ++word) {
            int bits = (d >> 4 * word & 15) << 12;
            for (int j = 0; j < 4; ++j) bits |= stored[4 * word + j] << 3 * j;
            b.scales[word] = static_cast<uint16_t>(bits);
        }
    return fit;
}

// What store_scales takes, for people.
template <class Block>
std::string describe_scales() {
    constexpr Multiples range = kMultiples<Block>;
    if (range.step == 0) return "a float16";
    std::string text = "one float16 times ";
    if (range.unit != 1) text += "1/" + std::to_string(static_cast<int>(1 / range.unit)) + " times ";
    text += range.step == 1 ? "integers" : "odd integers";
    return text + " from " + std::to_string(range.low) + " to " + std::to_string(range.high);
}
template <>
inline std::string describe_scales<BlockMXFP4>() {
    return "a power of two from 2^-128 to 2^127";
}
template <>
inline std::string describe_scales<BlockNVFP4>() {
    return "half of an unsigned 8-bit float E4M3";
}

}  // namespace bq::assemble
