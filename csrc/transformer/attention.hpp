// Attention over the blocked KV cache. The score matrix never exists: each query keeps a running maximum, a
// running sum and an unnormalised output, and rescales them when a block of positions brings a larger score.
// Queries that share keys go through a block together, so that what is loaded and converted serves all of
// them; each sees the same arithmetic however many they are.
#pragma once

#include "transformer/cache_numbers.hpp"

namespace bq {
namespace {

constexpr int kQueries = 16;  // units that go through the blocks together
constexpr float kNever = -3.4e38f;

// A query under way: what it may see, and the online softmax.
struct Query {
    const float* q;
    float* out;           // sum of weight * value so far
    int64_t first, last;  // positions it sees, both included
    float maximum, sum;
};

// A block of a head, and the one after it, which is fetched meanwhile.
struct Block {
    const uint8_t* keys;
    const uint8_t* values;
    const uint8_t* next_keys;
    const uint8_t* next_values;
    int64_t start, dim;
};

// scores[c][t] = query c times key t.
template <class S, class Cache, int kCount>
BQ_INLINE void score(const Query* queries, const Block& block, float (*scores)[kBlock]) {
    using Wide = typename S::Wide;
    constexpr int kVectors = kBlock / S::kWide;
    const int64_t group = Cache::kScaled ? 32 : block.dim;
    const int64_t row_bytes = Cache::bytes(block.dim) / block.dim;
    Wide total[kCount][kVectors];
    for (int c = 0; c < kCount; ++c)
        for (int v = 0; v < kVectors; ++v) total[c][v] = S::wide_zero();
    for (int64_t start = 0; start < block.dim; start += group) {
        const int64_t stop = start + group < block.dim ? start + group : block.dim;
        Wide sums[kCount][kVectors];
        for (int c = 0; c < kCount; ++c)
            for (int v = 0; v < kVectors; ++v) sums[c][v] = S::wide_zero();
        for (int64_t d = start; d < stop; ++d) {
            for (int line = 0; line < Cache::kLines; ++line) {
                prefetch(block.next_keys + d * row_bytes + 64 * line);
                prefetch(block.next_values + d * row_bytes + 64 * line);
            }
            Wide keys[kVectors];
            for (int v = 0; v < kVectors; ++v)
                keys[v] = Cache::template load<S>(block.keys, d * kBlock + v * S::kWide);
            for (int c = 0; c < kCount; ++c) {
                const Wide q = S::wide_splat(queries[c].q[d]);
                for (int v = 0; v < kVectors; ++v) sums[c][v] = S::mul_add(keys[v], q, sums[c][v]);
            }
        }
        const uint8_t* scales = block.keys + block.dim * kBlock + start / 32 * kBlock * 2;
        for (int v = 0; v < kVectors; ++v) {
            const Wide scale = Cache::kScaled ? S::load_f16(scales + 2 * v * S::kWide) : S::wide_splat(1.0f);
            for (int c = 0; c < kCount; ++c)
                total[c][v] = Cache::kScaled ? S::mul_add(sums[c][v], scale, total[c][v]) : sums[c][v];
        }
    }
    for (int c = 0; c < kCount; ++c)
        for (int v = 0; v < kVectors; ++v) S::store_f32(scores[c] + v * S::kWide, total[c][v]);
}

// Scores become weights; returns what the output so far must be multiplied with.
inline float soften(Query& query, float* __restrict weights, int64_t block_start, float scale) {
    const int low = query.first > block_start ? static_cast<int>(query.first - block_start) : 0;
    const int64_t visible = query.last - block_start + 1;
    const int high = visible < kBlock ? static_cast<int>(visible) : kBlock;
    // Positions not seen hold whatever the memory holds: they are replaced, not multiplied by zero.
    float scratch[kBlock];
    for (int t = 0; t < kBlock; ++t) {
        weights[t] = select((t >= low) & (t < high), weights[t] * scale, kNever);
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
    return rescale;
}

// out[d] = out[d] * rescale + sum over positions low <= t < high of weight * value, for elements at <= d.
template <class S, class Cache, int kCount, int kVectors>
BQ_INLINE void add_values(const Query* queries, const float* rescale, const float (*weights)[kBlock],
                          const Block& block, int64_t at, int low, int high) {
    using Wide = typename S::Wide;
    Wide sums[kCount][kVectors];
    for (int c = 0; c < kCount; ++c)
        for (int v = 0; v < kVectors; ++v)
            sums[c][v] = S::mul(S::load_f32(queries[c].out + at + v * S::kWide), S::wide_splat(rescale[c]));
    for (int t = low; t < high; ++t) {
        Wide values[kVectors];
        for (int v = 0; v < kVectors; ++v)
            values[v] = Cache::template load<S>(block.values, t * block.dim + at + v * S::kWide);
        for (int c = 0; c < kCount; ++c) {
            const Wide weight = S::wide_splat(weights[c][t]);
            for (int v = 0; v < kVectors; ++v) sums[c][v] = S::mul_add(values[v], weight, sums[c][v]);
        }
    }
    for (int c = 0; c < kCount; ++c)
        for (int v = 0; v < kVectors; ++v) S::store_f32(queries[c].out + at + v * S::kWide, sums[c][v]);
}

// One block against kCount queries.
template <class S, class Cache, int kCount>
void attend(Query* queries, const Block& block, float scale) {
    alignas(64) float weights[kCount][kBlock];
    score<S, Cache, kCount>(queries, block, weights);
    float rescale[kCount];
    int64_t first = queries[0].first, last = queries[0].last;
    for (int c = 0; c < kCount; ++c) {
        rescale[c] = soften(queries[c], weights[c], block.start, scale);
        first = queries[c].first < first ? queries[c].first : first;
        last = queries[c].last > last ? queries[c].last : last;
    }
    const int low = first > block.start ? static_cast<int>(first - block.start) : 0;
    const int high = last - block.start + 1 < kBlock ? static_cast<int>(last - block.start + 1) : kBlock;

    const int64_t dim = block.dim;
    alignas(64) float scaled[kCount][kBlock];
    for (int64_t at = 0; at < dim; at += 32) {
        const float (*factors)[kBlock] = weights;
        if constexpr (Cache::kScaled) {
            const uint8_t* scales = block.values + dim * kBlock + at * kBlock / 16;
            for (int v = 0; v < kBlock; v += S::kWide) {
                const auto factor = S::load_f16(scales + 2 * v);
                for (int c = 0; c < kCount; ++c)
                    S::store_f32(scaled[c] + v, S::mul(S::load_f32(weights[c] + v), factor));
            }
            factors = scaled;
        }
        const bool aligned = !Cache::kScaled || dim % S::kWide == 0;
        if (at + 32 <= dim && aligned) {
            add_values<S, Cache, kCount, 32 / S::kWide>(queries, rescale, factors, block, at, low, high);
            continue;
        }
        const int64_t stop = at + 32 < dim ? at + 32 : dim;
        int64_t d = at;
        if (aligned)
            for (; d + S::kWide <= stop; d += S::kWide)
                add_values<S, Cache, kCount, 1>(queries, rescale, factors, block, d, low, high);
        for (; d < stop; ++d) {
            for (int c = 0; c < kCount; ++c) {
                float sum = queries[c].out[d] * rescale[c];
                for (int t = low; t < high; ++t)
                    sum = multiply_add(factors[c][t], Cache::get(block.values, t * dim + d), sum);
                queries[c].out[d] = sum;
            }
        }
    }
}

template <class S, class Cache>
void attend_all(Query* queries, int count, const Block& block, float scale) {
    constexpr int kMany = S::kWide > 8 ? 8 : 2;  // as many accumulators as there are registers for
    int i = 0;
    for (; i + kMany <= count; i += kMany) attend<S, Cache, kMany>(queries + i, block, scale);
    if constexpr (kMany > 2)
        for (; i + 2 <= count; i += 2) attend<S, Cache, 2>(queries + i, block, scale);
    for (; i < count; ++i) attend<S, Cache, 1>(queries + i, block, scale);
}

template <class S, class Cache>
void attention_rows(const AttentionRows& a, int64_t begin, int64_t end) {
    const int64_t dim = a.cache.dim;
    const int64_t group = a.heads / a.cache.kv_heads;
    const int64_t units_per_kv_head = a.rows * group;
    const int64_t head_bytes = Cache::bytes(dim);
    const auto* keys = static_cast<const uint8_t*>(a.keys);
    const auto* values = static_cast<const uint8_t*>(a.values);

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
            query.maximum = kNever;
            query.sum = 0.0f;
            for (int64_t d = 0; d < dim; ++d) query.out[d] = 0.0f;
            first = query.first < first ? query.first : first;
            last = query.last > last ? query.last : last;
        }
        const int64_t stride = a.cache.kv_heads * head_bytes;
        for (int64_t block = first / kBlock; block <= last / kBlock; ++block) {
            const int64_t offset = block * stride + kv_head * head_bytes;
            const int64_t next = offset + (block < last / kBlock ? stride : 0);
            const Block at{keys + offset, values + offset, keys + next, values + next, block * kBlock, dim};
            attend_all<S, Cache>(queries, count, at, a.scale);
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
