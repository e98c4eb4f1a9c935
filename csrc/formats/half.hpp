// Scalar conversions between float32 and the 16-bit floats: round to nearest even, every bit as ggml's.
// Included by the per-instruction-set sources: everything here has internal linkage, and calls nothing of
// std.
#pragma once

#include <cstdint>

namespace bq {

// std::bit_cast as an intrinsic: std's is a function that an unoptimized build would emit for the linker to
// share.
template <class To, class From>
static constexpr To bits_as(From value) {
    return __builtin_bit_cast(To, value);
}

static constexpr float f16_to_f32(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1f;
    const uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31) return bits_as<float>(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0) return bits_as<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    // Zero or subnormal: mantissa * 2^-24 is exact in float32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return bits_as<float>(bits_as<uint32_t>(magnitude) | sign);
}

static constexpr uint16_t f32_to_f16(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // one NaN, as ggml
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {
        // Below 2^-14: adding 0.5 makes the FPU round to a multiple of 2^-24.
        const float rounded = bits_as<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (bits_as<uint32_t>(rounded) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

static constexpr float bf16_to_f32(uint16_t b) {
    return bits_as<float>(static_cast<uint32_t>(b) << 16);
}

static constexpr uint16_t f32_to_bf16(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64);  // quiet NaN
    return static_cast<uint16_t>((bits + (0x7fffu + (bits >> 16 & 1))) >> 16);
}

}  // namespace bq
