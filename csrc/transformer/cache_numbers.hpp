// How the KV cache keeps numbers: float32, float16, or Q8_0 (int8 with a float16 scale for 32 elements of a
// head). A head's block of positions is `bytes(dim)` bytes: its numbers, keys as [dim][kBlock] and values as
// [kBlock][dim], and in Q8_0 after them the scales, [ceil(dim / 32)][kBlock] halves for both.
#pragma once

#include "simd/common.hpp"
#include "transformer/transformer_kernels.hpp"
#include "transformer/vector_math.hpp"

namespace bq {
namespace {

constexpr int kBlock = static_cast<int>(kCacheBlock);

struct CacheF32 {
    static constexpr bool kScaled = false;
    static constexpr int kLines = 2;  // cache lines of an element's keys, about
    static int64_t bytes(int64_t dim) { return dim * kBlock * 4; }
    // kWide numbers from number i on; i is a multiple of kWide.
    template <class S>
    static BQ_INLINE typename S::Wide load(const uint8_t* numbers, int64_t i) {
        return S::load_f32(numbers + 4 * i);
    }
    static BQ_INLINE float get(const uint8_t* numbers, int64_t i) { return load_as<float>(numbers + 4 * i); }
    static void store(const float* x, uint8_t* numbers, int64_t first, int64_t stride, int, int64_t dim) {
        float* to = reinterpret_cast<float*>(numbers) + first;
        for (int64_t d = 0; d < dim; ++d) to[d * stride] = x[d];
    }
};

struct CacheF16 {
    static constexpr bool kScaled = false;
    static constexpr int kLines = 1;  // cache lines of an element's keys, about
    static int64_t bytes(int64_t dim) { return dim * kBlock * 2; }
    template <class S>
    static BQ_INLINE typename S::Wide load(const uint8_t* numbers, int64_t i) {
        return S::load_f16(numbers + 2 * i);
    }
    static BQ_INLINE float get(const uint8_t* numbers, int64_t i) {
        return half_to_float(load_as<uint16_t>(numbers + 2 * i));
    }
    static void store(const float* x, uint8_t* numbers, int64_t first, int64_t stride, int, int64_t dim) {
        uint16_t halves[kMaxHeadDim];
        for (int64_t d = 0; d < dim; ++d) halves[d] = float_to_half(x[d]);
        uint16_t* to = reinterpret_cast<uint16_t*>(numbers) + first;
        for (int64_t d = 0; d < dim; ++d) to[d * stride] = halves[d];
    }
};

struct CacheQ8 {
    static constexpr bool kScaled = true;
    static constexpr int kGroup = 32;  // elements of a head that share a scale
    static constexpr int kLines = 1;   // cache lines of an element's keys, about
    static int64_t bytes(int64_t dim) { return q8_0_cache_bytes(dim); }
    template <class S>
    static BQ_INLINE typename S::Wide load(const uint8_t* numbers, int64_t i) {
        return S::widen(S::load(numbers + i / 32 * 32), static_cast<int>(i % 32) / S::kWide);
    }
    static BQ_INLINE float get(const uint8_t* numbers, int64_t i) {
        return static_cast<float>(static_cast<int8_t>(numbers[i]));
    }
    // As Q8_0 encodes: the largest magnitude becomes 127, and the scale is rounded to a half last.
    static void store(const float* x, uint8_t* numbers, int64_t first, int64_t stride, int slot,
                      int64_t dim) {
        auto* scales = reinterpret_cast<uint16_t*>(numbers + dim * kBlock);
        for (int64_t start = 0; start < dim; start += kGroup) {
            const int64_t stop = start + kGroup < dim ? start + kGroup : dim;
            float largest = 0.0f;
            for (int64_t d = start; d < stop; ++d) {
                const float magnitude = x[d] < 0.0f ? -x[d] : x[d];
                largest = magnitude > largest ? magnitude : largest;
            }
            const float scale = largest / 127.0f;
            const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            for (int64_t d = start; d < stop; ++d) {
                constexpr float kRound =
                    12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the low bits
                const uint32_t bits = float_to_bits(x[d] * inverse + kRound);
                numbers[first + d * stride] = static_cast<uint8_t>(bits);
            }
            scales[start / kGroup * kBlock + slot] = float_to_half(scale);
        }
    }
};

template <class Cache>
void store_rows(const float* k, const float* v, void* keys, void* values, int64_t rows, int64_t position,
                const CacheShape& cache) {
    const int64_t head_bytes = Cache::bytes(cache.dim);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t block = (position + r) / kBlock;
        const int slot = static_cast<int>((position + r) % kBlock);
        for (int64_t h = 0; h < cache.kv_heads; ++h) {
            const int64_t offset = (block * cache.kv_heads + h) * head_bytes;
            const int64_t row = (r * cache.kv_heads + h) * cache.dim;
            Cache::store(k + row, static_cast<uint8_t*>(keys) + offset, slot, kBlock, slot, cache.dim);
            Cache::store(v + row, static_cast<uint8_t*>(values) + offset, slot * cache.dim, 1, slot,
                         cache.dim);
        }
    }
}

}  // namespace
}  // namespace bq
