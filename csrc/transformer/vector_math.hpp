// Small pieces of arithmetic that compilers turn into vector code: branch-free, fixed-length inner loops,
// sums in a fixed order. Everything here has internal linkage, because each instruction set compiles its own
// copy.
#pragma once

#include <math.h>

#include <cstdint>

namespace bq {
namespace {

constexpr int kLanes = 16;  // partial sums of a reduction, on every instruction set, so that results agree

inline float bits_to_float(uint32_t bits) {
    return __builtin_bit_cast(float, bits);
}
inline uint32_t float_to_bits(float value) {
    return __builtin_bit_cast(uint32_t, value);
}

// a * b + c, fused where that is one instruction (elsewhere it would be a library call).
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// Asks for a cache line that will be read soon.
inline void prefetch([[maybe_unused]] const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#endif
}

// chosen ? a : b by masks: compilers keep a conditional of floats as a branch, which stops vectorisation.
inline float select(bool chosen, float a, float b) {
    const uint32_t mask = 0u - static_cast<uint32_t>(chosen);
    return bits_to_float((float_to_bits(a) & mask) | (float_to_bits(b) & ~mask));
}

// e^x within 2 units in the last place for -87 <= x <= 88; clamped outside. NaN gives NaN.
inline float exp_clamped(float x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = select(x < -87.0f, -87.0f, x);
    x = select(x > 88.0f, 88.0f, x);
    const float shifted = x * 1.44269504f + kRound;
    const float n = shifted - kRound;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * bits_to_float((float_to_bits(shifted) + 127u) << 23);
}

// A finite half to float, without branches.
inline float half_to_float(uint16_t h) {
    const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
    const float normal = bits_to_float(magnitude + 0x38000000u);
    const float subnormal = bits_to_float(magnitude + 0x38800000u) - bits_to_float(0x38800000u);
    const float value = select(magnitude < 0x00800000u, subnormal, normal);
    return bits_to_float(float_to_bits(value) | static_cast<uint32_t>(h & 0x8000u) << 16);
}

// To the nearest half, ties to even, saturating at +-65504. NaN becomes a saturated value.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    magnitude = magnitude > 0x477fe000u ? 0x477fe000u : magnitude;  // 65504
    const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
    // Below 2^-14: adding 0.5 rounds to a multiple of 2^-24.
    const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t mask = 0u - static_cast<uint32_t>(magnitude < 0x38800000u);
    return static_cast<uint16_t>(sign | (subnormal & mask) | (normal & ~mask));
}

// Both fold the upper half of v onto the lower, again and again; n is a power of two. They overwrite v.
template <int n>
inline float fold_sum(float* v) {
    if constexpr (n > 1) {
        for (int i = 0; i < n / 2; ++i) v[i] += v[i + n / 2];
        return fold_sum<n / 2>(v);
    }
    return v[0];
}

template <int n>
inline float fold_max(float* v) {
    if constexpr (n > 1) {
        for (int i = 0; i < n / 2; ++i) v[i] = select(v[i] > v[i + n / 2], v[i], v[i + n / 2]);
        return fold_max<n / 2>(v);
    }
    return v[0];
}

inline float sum_of_squares(const float* x, int64_t n) {
    float sums[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
    for (int lane = 0; i < n; ++i, ++lane) sums[lane] += x[i] * x[i];
    return fold_sum<kLanes>(sums);
}

inline float square_root(float x) {
    return ::sqrtf(x);
}

}  // namespace
}  // namespace bq
