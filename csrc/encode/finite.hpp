// The check that every row passes before it is encoded.
#pragma once

#include "formats/half.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

BQ_INLINE bool is_nonfinite(float x) {
    constexpr uint32_t kExponent = 0x7f800000u;
    return (bits_as<uint32_t>(x) & kExponent) == kExponent;
}

// See FirstNonfinite. Left to the compiler's vectorizer.
int64_t first_nonfinite(const float* x, int64_t n) {
    constexpr int64_t kChunk = 256, kLanes = 64;
    int64_t begin = 0;
    for (; begin + kChunk <= n; begin += kChunk) {
        uint32_t bad[kLanes] = {};
        for (int64_t i = begin; i < begin + kChunk; i += kLanes)
            for (int64_t j = 0; j < kLanes; ++j) bad[j] |= is_nonfinite(x[i + j]);
        uint32_t any = 0;
        for (int64_t j = 0; j < kLanes; ++j) any |= bad[j];
        if (any) break;
    }
    for (; begin < n; ++begin)
        if (is_nonfinite(x[begin])) return begin;
    return -1;
}

}  // namespace
}  // namespace bq
