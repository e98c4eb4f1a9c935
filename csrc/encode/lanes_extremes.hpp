// The encoders of legacy.cpp without an imatrix: one pass, in element order.
#pragma once

#include "encode/lanes_search.hpp"
#include "formats/legacy.hpp"

namespace bq {
namespace {

// A block of 32 in registers.
template <class V>
struct Block32 {
    static constexpr int kParts = 32 / V::kLanes;
    typename V::Float parts[kParts];
};

template <class V>
BQ_INLINE Block32<V> load_32(const float* x) {
    Block32<V> block;
    for (int p = 0; p < Block32<V>::kParts; ++p) block.parts[p] = V::load(x + p * V::kLanes);
    return block;
}

// The largest magnitude of n elements, which is the same in whatever order they are taken.
template <class V, int n>
BQ_INLINE float largest_magnitude(const float* x) {
    auto m = V::abs(V::load(x));
    for (int i = V::kLanes; i < n; i += V::kLanes) m = V::max(V::abs(V::load(x + i)), m);
    return V::max_across(m);
}

// Bit i is set where condition(part) holds for element i.
template <class V, class Condition>
BQ_INLINE uint32_t bits_of_32(Condition condition) {
    uint32_t bits = 0;
    for (int p = 0; p < 32 / V::kLanes; ++p) bits |= V::mask_bits(condition(p)) << p * V::kLanes;
    return bits;
}

// The element of largest magnitude (the first of equals), with its sign; of zeros, 0.
template <class V>
BQ_INLINE float peak_of_32(const float* x, const Block32<V>& block) {
    const float magnitude = largest_magnitude<V, 32>(x);
    const auto m = V::splat(magnitude);
    const uint32_t equal =
        bits_of_32<V>([&](int p) BQ_INLINE_LAMBDA { return V::equal(V::abs(block.parts[p]), m); });
    const uint32_t negative =
        bits_of_32<V>([&](int p) BQ_INLINE_LAMBDA { return V::less(block.parts[p], V::splat(0)); });
    return equal & (0 - equal) & negative ? -magnitude : magnitude;
}

BQ_INLINE float inverse_or_zero(float scale) {
    return scale != 0 ? 1.0f / scale : 0.0f;
}

// Elements i and i + 16 of integers below 32 into byte i; only their low four bits are taken.
template <class V>
BQ_INLINE void store_nibbles_32(const typename V::Int (&v)[32 / V::kLanes], uint8_t* qs) {
    constexpr int kHalf = 16 / V::kLanes;
    typename V::Int bytes[kHalf];
    for (int p = 0; p < kHalf; ++p)
        bytes[p] = V::bit_or(V::bit_and(v[p], V::splat_int(15)), V::template shift_left<4>(v[p + kHalf]));
    V::store_bytes_of_16(qs, bytes);
}

// The fifth bits.
template <class V>
BQ_INLINE void store_fifth_bits_32(const typename V::Int (&v)[32 / V::kLanes], uint8_t* qh) {
    const uint32_t bits =
        bits_of_32<V>([&](int p) BQ_INLINE_LAMBDA { return V::less(V::splat_int(15), v[p]); });
    for (int byte = 0; byte < 4; ++byte) qh[byte] = static_cast<uint8_t>(bits >> 8 * byte);
}

template <class V, class Block>
BQ_INLINE void store_levels_32(const typename V::Int (&v)[32 / V::kLanes], Block& b) {
    store_nibbles_32<V>(v, b.qs);
    if constexpr (requires { b.qh; }) store_fifth_bits_32<V>(v, b.qh);
}

// As level_of in legacy.cpp: what does not fit an integer counts as its low byte, which is 0.
template <class V>
BQ_INLINE typename V::Int level_of(typename V::Float value, int top) {
    return V::max(V::min(V::truncate_to_int(value), V::splat_int(top)), V::splat_int(0));
}

template <class V, class Block, int limit>
void encode_peaks(const float* x, uint8_t* out, int64_t k) {
    Block* blocks = reinterpret_cast<Block*>(out);
    for (int64_t n = 0; n < k / 32; ++n, x += 32) {
        const Block32<V> block = load_32<V>(x);
        const float scale = peak_of_32<V>(x, block) / static_cast<float>(-limit);
        const auto inverse = V::splat(inverse_or_zero(scale));
        const auto offset = V::splat(static_cast<float>(limit) + 0.5f);
        typename V::Int levels[32 / V::kLanes];
        for (int p = 0; p < 32 / V::kLanes; ++p)
            levels[p] = level_of<V>(V::add(V::mul(block.parts[p], inverse), offset), 2 * limit - 1);
        blocks[n].d = V::half_of(scale);
        store_levels_32<V>(levels, blocks[n]);
    }
}

template <class V, class Block, int top>
void encode_ranges(const float* x, uint8_t* out, int64_t k) {
    Block* blocks = reinterpret_cast<Block*>(out);
    for (int64_t n = 0; n < k / 32; ++n, x += 32) {
        const Block32<V> block = load_32<V>(x);
        auto lowest = block.parts[0], highest = lowest;
        for (int p = 1; p < 32 / V::kLanes; ++p) {
            lowest = V::min(block.parts[p], lowest);
            highest = V::max(block.parts[p], highest);
        }
        float low = V::min_across(lowest), high = V::max_across(highest);
        if (low == 0) {  // the sign of the first zero is stored
            int first = 0;
            while (x[first] != 0) ++first;
            low = x[first];
            if (high == 0) high = low;
        }
        const float scale = (high - low) / static_cast<float>(top);
        const auto inverse = V::splat(inverse_or_zero(scale)), offset = V::splat(low);
        typename V::Int levels[32 / V::kLanes];
        for (int p = 0; p < 32 / V::kLanes; ++p) {
            const auto value = V::mul(V::sub(block.parts[p], offset), inverse);
            levels[p] = level_of<V>(V::add(value, V::splat(0.5f)), top);
        }
        blocks[n].d = V::half_of(scale);
        blocks[n].m = V::half_of(low);
        store_levels_32<V>(levels, blocks[n]);
    }
}

// Halves away from zero, for |value| < 2^22: the addend is the float below 0.5, so that what is just below a
// half does not reach the next integer.
template <class V>
BQ_INLINE typename V::Int round_half_away(typename V::Float value) {
    const auto sign = V::bit_and(V::bits_of(value), V::splat_int(INT32_MIN));
    const auto half = V::bit_or(sign, V::bits_of(V::splat(0x1.fffffep-2f)));
    return V::truncate_to_int(V::add(value, V::from_bits(half)));
}

// For a scale too small for its inverse to be finite, elements are infinite or NaN, and count as 0.
BQ_INLINE float finite_inverse(float scale) {
    const float inverse = inverse_or_zero(scale);
    return inverse < __builtin_inff() ? inverse : 0.0f;
}

template <class V>
void encode_q8_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockQ8_0* blocks = reinterpret_cast<BlockQ8_0*>(out);
    for (int64_t n = 0; n < k / 32; ++n, x += 32) {
        const float scale = largest_magnitude<V, 32>(x) / 127.0f;
        const auto inverse = V::splat(finite_inverse(scale));
        blocks[n].d = V::half_of(scale);
        fill_levels<V, 32>(reinterpret_cast<uint8_t*>(blocks[n].qs), [&](int i) BQ_INLINE_LAMBDA {
            return round_half_away<V>(V::mul(V::load(x + i), inverse));
        });
    }
}

template <class V>
void encode_f16(const float* x, uint8_t* out, int64_t k, const float*) {
    int64_t i = 0;
    for (; i + V::kLanes <= k; i += V::kLanes) V::store_halves(out + 2 * i, V::load(x + i));
    for (; i < k; ++i) {
        const uint16_t half = f32_to_f16(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
}

template <class V>
void encode_bf16(const float* x, uint8_t* out, int64_t k, const float*) {
    int64_t i = 0;
    for (; i + V::kLanes <= k; i += V::kLanes) {
        const auto v = V::load(x + i);
        const auto bits = V::bits_of(v);
        const auto odd = V::bit_and(V::template shift_right<16>(bits), V::splat_int(1));
        const auto rounded = V::add(bits, V::add(odd, V::splat_int(0x7fff)));
        const auto quiet = V::bit_or(bits, V::splat_int(0x400000));
        V::store_words(out + 2 * i, V::template shift_right<16>(V::select(V::equal(v, v), rounded, quiet)));
    }
    for (; i < k; ++i) {
        const uint16_t half = f32_to_bf16(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
}

}  // namespace
}  // namespace bq
