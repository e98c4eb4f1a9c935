// What the reference transformer loop needs of an instruction set, besides matmul. Kernels are pure, like
// those of targets/kernels.hpp; each row, head or element is computed the same way whatever range it is part
// of.
#pragma once

#include <cstdint>

namespace bq {

// Positions of the KV cache are stored in blocks, keys transposed inside a block so that the scores of a
// block are computed side by side without horizontal sums:
//   keys   [blocks, kv_heads, dim, kCacheBlock]
//   values [blocks, kv_heads, kCacheBlock, dim]
// In Q8_0 each head's block is followed by float16 scales, [ceil(dim / 32), kCacheBlock] for both.
inline constexpr int64_t kCacheBlock = 32;
inline constexpr int64_t kMaxHeadDim = 256;

// Bytes of a head's block of keys, or of values, in Q8_0.
constexpr int64_t q8_0_cache_bytes(int64_t dim) {
    return dim * kCacheBlock + (dim + 31) / 32 * kCacheBlock * 2;
}

struct CacheShape {
    int64_t kv_heads;
    int64_t dim;  // of a head, <= kMaxHeadDim
};

struct RopeRows {
    float* x;  // [rows, heads, dim], rotated in place
    int64_t heads, dim;
    const float* cos;  // [rows, pairs]; 2 * pairs <= dim, what lies beyond is left alone
    const float* sin;
    int64_t pairs;
    bool interleaved;  // pairs are (2i, 2i + 1), else (i, i + pairs)
};

struct AttentionRows {
    const float* q;  // [rows, heads, dim]
    const void* keys;
    const void* values;
    float* out;  // [rows, heads, dim]
    int64_t rows, heads;
    CacheShape cache;
    int64_t position;  // of row 0; row r sees positions 0 .. position + r
    int64_t window;    // 0, or how many of them, its own included
    float scale;
};

struct TransformerKernels {
    // out = x / sqrt(mean(x^2) + eps) * weight for rows begin <= r < end of n floats.
    void (*rms_norm)(const float* x, const float* weight, float* out, int64_t begin, int64_t end, int64_t n,
                     float eps) = nullptr;
    // Rotates the pairs of every head of rows begin <= r < end.
    void (*rope)(const RopeRows& rows, int64_t begin, int64_t end) = nullptr;
    // Writes rows k, v [rows, kv_heads, dim] into the cache from `position` on. Halves saturate at +-65504.
    void (*store_f32)(const float* k, const float* v, void* keys, void* values, int64_t rows,
                      int64_t position, const CacheShape& cache) = nullptr;
    void (*store_f16)(const float* k, const float* v, void* keys, void* values, int64_t rows,
                      int64_t position, const CacheShape& cache) = nullptr;
    void (*store_q8_0)(const float* k, const float* v, void* keys, void* values, int64_t rows,
                       int64_t position, const CacheShape& cache) = nullptr;
    // Causal grouped-query attention with an online softmax. Units begin <= u < end of heads * rows, in the
    // order [kv_heads, rows, heads / kv_heads], so that neighbours share keys and values.
    void (*attention_f32)(const AttentionRows& rows, int64_t begin, int64_t end) = nullptr;
    void (*attention_f16)(const AttentionRows& rows, int64_t begin, int64_t end) = nullptr;
    void (*attention_q8_0)(const AttentionRows& rows, int64_t begin, int64_t end) = nullptr;
    // out = f(gate) * up, elements begin <= i < end; out may be gate or up. f is x * sigmoid(x), the tanh
    // form of GELU, or max(x, 0)^2.
    using Gated = void (*)(const float* gate, const float* up, float* out, int64_t begin, int64_t end);
    Gated gated_silu = nullptr;
    Gated gated_gelu = nullptr;
    Gated gated_relu_squared = nullptr;
    // x += y, elements begin <= i < end.
    void (*add)(float* x, const float* y, int64_t begin, int64_t end) = nullptr;
};

}  // namespace bq
