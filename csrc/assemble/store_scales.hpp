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

static inline bool store_f16(float value, Rounding rounding, uint16_t* bits) {
    if (exact_f16(value, bits)) return true;
    if (rounding == Rounding::exact || !std::isfinite(value)) return false;
    *bits = nearest_f16(value);
    return true;
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
    return store_f16(in.scales[0], in.rounding, &b.d) ? BlockFit{} : BlockFit{Misfit::scale, 0};
}

template <class Block>
BlockFit store_scale_and_offset(const RunScales& in, Block& b) {
    if (!store_f16(in.scales[0], in.rounding, &b.d)) return {Misfit::scale, 0};
    return store_f16(-in.minima[0], in.rounding, &b.m) ? BlockFit{} : BlockFit{Misfit::minimum, 0};
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
BlockFit fit_one(const RunScales& in, int runs, Block& b, uint8_t* stored) {
    constexpr Multiples range = kMultiples<Block>;
    Factors factors;
    if (!fit_multiples(in.scales, in.weights, runs, range, in.rounding, &factors))
        return {Misfit::scale, 0, runs};
    b.d = factors.d;
    for (int j = 0; j < runs; ++j) stored[j] = static_cast<uint8_t>((factors.m[j] - range.low) / range.step);
    return {};
}
static inline BlockFit store_scales(const RunScales& in, BlockQ3_K& b) {
    uint8_t stored[16];
    const BlockFit fit = fit_one(in, 16, b, stored);
    if (fit.misfit == Misfit::none) store_q3_scales(stored, b.scales);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockQ6_K& b) {
    uint8_t stored[16];
    const BlockFit fit = fit_one(in, 16, b, stored);
    if (fit.misfit == Misfit::none)
        for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(stored[j] - 128);
    return fit;
}
static inline BlockFit store_scales(const RunScales& in, BlockIQ4_XS& b) {
    uint8_t stored[8];
    const BlockFit fit = fit_one(in, 8, b, stored);
    if (fit.misfit == Misfit::none) bq::store_scales(stored, b);
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
