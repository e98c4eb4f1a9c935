// The check that a row passes before it is encoded, but by the encoders that notice what is not finite
// themselves.
#pragma once

#include "formats/half.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

inline constexpr uint32_t kInfinity = 0x7f800000u;

BQ_INLINE uint32_t magnitude(float x) {
    return bits_as<uint32_t>(x) & 0x7fffffffu;
}

// See FirstNonfinite. Left to the compiler's vectorizer: the largest magnitudes of a chunk, side by side.
int64_t first_nonfinite(const float* x, int64_t n) {
    constexpr int64_t kChunk = 512, kLanes = 32;
    int64_t begin = 0;
    for (; begin + kChunk <= n; begin += kChunk) {
        uint32_t largest[kLanes] = {};
        for (int64_t i = begin; i < begin + kChunk; i += kLanes)
            for (int64_t j = 0; j < kLanes; ++j) {
                const uint32_t m = magnitude(x[i + j]);
                largest[j] = m > largest[j] ? m : largest[j];
            }
        uint32_t all = 0;
        for (int64_t j = 0; j < kLanes; ++j) all = largest[j] > all ? largest[j] : all;
        if (all >= kInfinity) break;
    }
    for (; begin < n; ++begin)
        if (magnitude(x[begin]) >= kInfinity) return begin;
    return -1;
}

}  // namespace
}  // namespace bq
