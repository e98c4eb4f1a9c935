// Attention over the blocked KV cache. The score matrix never exists: each query keeps a running maximum, a
// running sum and an unnormalised output, and rescales them when a block of positions brings a larger score.
#pragma once

#include "transformer/transformer_kernels.hpp"
#include "transformer/vector_math.hpp"

namespace bq {
namespace {

constexpr int kBlock = static_cast<int>(kCacheBlock);
constexpr int kQueries = 16;  // units that share one conversion of a block to float

// A block of the cache as floats: itself, or converted into `scratch`.
inline const float* block_as_floats(const float* block, float*, int64_t) {
    return block;
}
inline const float* block_as_floats(const uint16_t* block, float* scratch, int64_t n) {
    halves_to_floats(block, scratch, n);
    return scratch;
}
inline void cache_from_float(float value, float& out) {
    out = value;
}
inline void cache_from_float(float value, uint16_t& out) {
    out = float_to_half(value);
}

template <class Element>
void store_rows(const float* k, const float* v, void* keys_base, void* values_base, int64_t rows,
                int64_t position, const CacheShape& cache) {
    const int64_t head_size = cache.dim * kBlock;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t block = (position + r) / kBlock;
        const int64_t slot = (position + r) % kBlock;
        for (int64_t h = 0; h < cache.kv_heads; ++h) {
            const int64_t head = (block * cache.kv_heads + h) * head_size;
            Element* keys = static_cast<Element*>(keys_base) + head + slot;
            Element* values = static_cast<Element*>(values_base) + head + slot * cache.dim;
            const float* k_row = k + (r * cache.kv_heads + h) * cache.dim;
            const float* v_row = v + (r * cache.kv_heads + h) * cache.dim;
            for (int64_t d = 0; d < cache.dim; ++d) cache_from_float(k_row[d], keys[d * kBlock]);
            for (int64_t d = 0; d < cache.dim; ++d) cache_from_float(v_row[d], values[d]);
        }
    }
}

// A query under way: what it may see, and the online softmax.
struct Query {
    const float* q;
    float* out;           // sum of weight * value so far
    int64_t first, last;  // positions it sees, both included
    float maximum, sum;
};

// out = out * rescale + sum over positions of weight * value, for `width` neighbouring elements.
template <int width>
inline void add_values(float* out, float rescale, const float* weights, const float* values, int64_t stride,
                       int low, int high) {
    float sums[width];
    for (int i = 0; i < width; ++i) sums[i] = out[i] * rescale;
    for (int t = low; t < high; ++t)
        for (int i = 0; i < width; ++i) sums[i] = multiply_add(weights[t], values[t * stride + i], sums[i]);
    for (int i = 0; i < width; ++i) out[i] = sums[i];
}

// One block of keys and values as floats against one query.
inline void attend_block(Query& query, const float* __restrict keys, const float* __restrict values,
                         int64_t block_start, int64_t dim, float scale) {
    const int low = query.first > block_start ? static_cast<int>(query.first - block_start) : 0;
    const int64_t visible = query.last - block_start + 1;
    const int high = visible < kBlock ? static_cast<int>(visible) : kBlock;
    if (low >= high) return;

    float weights[kBlock] = {};
    for (int64_t d = 0; d < dim; ++d) {
        const float q = query.q[d];
        for (int t = 0; t < kBlock; ++t) weights[t] = multiply_add(q, keys[d * kBlock + t], weights[t]);
    }
    // Positions not seen hold whatever the memory holds: they are replaced, not multiplied by zero.
    float scratch[kBlock];
    for (int t = 0; t < kBlock; ++t) {
        weights[t] = select((t >= low) & (t < high), weights[t] * scale, -3.4e38f);
        scratch[t] = weights[t];
    }
    const float block_maximum = fold_max<kBlock>(scratch);
    const float maximum = block_maximum > query.maximum ? block_maximum : query.maximum;
    const float rescale = query.sum > 0.0f ? exp_clamped(query.maximum - maximum) : 0.0f;
    for (int t = 0; t < kBlock; ++t) {
        weights[t] = select((t >= low) & (t < high), exp_clamped(weights[t] - maximum), 0.0f);
        scratch[t] = weights[t];
    }
    query.sum = query.sum * rescale + fold_sum<kBlock>(scratch);
    query.maximum = maximum;

    int64_t d = 0;
    for (; d + 64 <= dim; d += 64)
        add_values<64>(query.out + d, rescale, weights, values + d, dim, low, high);
    for (; d + 8 <= dim; d += 8) add_values<8>(query.out + d, rescale, weights, values + d, dim, low, high);
    for (; d < dim; ++d) add_values<1>(query.out + d, rescale, weights, values + d, dim, low, high);
}

template <class Element>
void attention_rows(const AttentionRows& a, int64_t begin, int64_t end) {
    const int64_t dim = a.cache.dim;
    const int64_t group = a.heads / a.cache.kv_heads;
    const int64_t units_per_kv_head = a.rows * group;
    const int64_t block_elements = dim * kBlock;
    alignas(64) float key_scratch[kMaxHeadDim * kCacheBlock];
    alignas(64) float value_scratch[kMaxHeadDim * kCacheBlock];

    while (begin < end) {
        const int64_t kv_head = begin / units_per_kv_head;
        int64_t stop = (kv_head + 1) * units_per_kv_head;
        stop = stop < end ? stop : end;
        stop = stop < begin + kQueries ? stop : begin + kQueries;

        Query queries[kQueries];
        const int count = static_cast<int>(stop - begin);
        int64_t first = a.position + a.rows, last = 0;
        for (int i = 0; i < count; ++i) {
            const int64_t unit = begin + i - kv_head * units_per_kv_head;
            const int64_t row = unit / group;
            const int64_t offset = (row * a.heads + kv_head * group + unit % group) * dim;
            Query& query = queries[i];
            query.q = a.q + offset;
            query.out = a.out + offset;
            query.last = a.position + row;
            query.first = a.window > 0 && query.last >= a.window ? query.last - a.window + 1 : 0;
            query.maximum = -3.4e38f;
            query.sum = 0.0f;
            for (int64_t d = 0; d < dim; ++d) query.out[d] = 0.0f;
            first = query.first < first ? query.first : first;
            last = query.last > last ? query.last : last;
        }
        for (int64_t block = first / kBlock; block <= last / kBlock; ++block) {
            const int64_t head = (block * a.cache.kv_heads + kv_head) * block_elements;
            const Element* stored_keys = static_cast<const Element*>(a.keys) + head;
            const Element* stored_values = static_cast<const Element*>(a.values) + head;
            const float* keys = block_as_floats(stored_keys, key_scratch, block_elements);
            const float* values = block_as_floats(stored_values, value_scratch, block_elements);
            for (int i = 0; i < count; ++i)
                attend_block(queries[i], keys, values, block * kBlock, dim, a.scale);
        }
        for (int i = 0; i < count; ++i) {
            const float factor = 1.0f / queries[i].sum;
            for (int64_t d = 0; d < dim; ++d) queries[i].out[d] *= factor;
        }
        begin = stop;
    }
}

}  // namespace
}  // namespace bq
