// The arithmetic under the searches, for the scalar encoders and the scalar parts of those in lanes: nothing
// here calls the standard library.
#pragma once

#include <cstdint>

#include "formats/half.hpp"

namespace bq::search {

static inline float as_float(int value) {
    return static_cast<float>(value);
}

static inline int clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

// Nearest integer, ties to even, for |value| < 2^22. Adding 1.5 * 2^23 leaves it in the low bits of the sum's
// mantissa; beyond the range those bits are what they are (infinity gives -2^22, NaN 0).
static inline int round_to_int(float value) {
    const uint32_t bits = bits_as<uint32_t>(value + 12582912.0f);
    return static_cast<int>(bits & 0x7fffffu) - 0x400000;
}

// Towards zero; what does not fit an int (NaN too) gives INT32_MIN, as x86's conversion instruction does.
static inline int truncate_to_int(float value) {
    return value >= -0x1p31f && value < 0x1p31f ? static_cast<int>(value) : INT32_MIN;
}

// Halves away from zero.
static inline int round_half_away(float value) {
    const int whole = truncate_to_int(value);
    if (whole == INT32_MIN) return whole;
    const float fraction = value - as_float(whole);
    return whole + (fraction >= 0.5f) - (fraction <= -0.5f);
}

// A scale as stored. When sums overflow, a scale can be infinity / infinity; the sign of that NaN differs
// between processors, and x86's is the one that ggml's bytes have.
static inline uint16_t scale_to_f16(float scale) {
    return scale != scale ? 0xfe00 : f32_to_f16(scale);
}

}  // namespace bq::search
