// The formats of 32 elements with float16 scales, one struct each, and how each unpacks into the common form
// (common_form.hpp). Element i of the first half of a block is in the low nibble of qs[i], element i + 16 in
// the high nibble; a fifth bit of element i is bit i of qh.
#pragma once

#include <cstdint>

#include "formats/half.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockQ4_0 {  // d * (q - 8)
    uint16_t d;     // f16
    uint8_t qs[16];
};
struct BlockQ4_1 {  // d * q + m
    uint16_t d, m;  // f16
    uint8_t qs[16];
};
struct BlockQ5_0 {  // d * (q - 16)
    uint16_t d;     // f16
    uint8_t qh[4];  // little-endian 32 bits
    uint8_t qs[16];
};
struct BlockQ5_1 {  // d * q + m
    uint16_t d, m;  // f16
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ8_0 {  // d * q
    uint16_t d;     // f16
    int8_t qs[32];
};
#pragma pack(pop)

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34);

namespace legacy {

static inline void nibbles(const uint8_t* qs, int offset, int8_t* q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = static_cast<int8_t>((qs[i] & 15) - offset);
        q[i + 16] = static_cast<int8_t>((qs[i] >> 4) - offset);
    }
}

static inline void five_bits(const uint8_t* qs, const uint8_t* qh, int offset, int8_t* q) {
    for (int i = 0; i < 16; ++i) {
        const int low_half_bit = qh[i / 8] >> i % 8 & 1;
        const int high_half_bit = qh[2 + i / 8] >> i % 8 & 1;
        q[i] = static_cast<int8_t>((low_half_bit << 4 | (qs[i] & 15)) - offset);
        q[i + 16] = static_cast<int8_t>((high_half_bit << 4 | qs[i] >> 4) - offset);
    }
}

// Levels are the integers as stored, 0 and up.
static inline void store_nibbles(const uint8_t* levels, uint8_t* qs) {
    for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>((levels[i] & 15) | (levels[i + 16] & 15) << 4);
}

static inline void store_fifth_bits(const uint8_t* levels, uint8_t* qh) {
    for (int byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (levels[8 * byte + i] >> 4 & 1) << i;
        qh[byte] = static_cast<uint8_t>(bits);
    }
}

}  // namespace legacy

static inline void unpack_values(const BlockQ4_0& b, int8_t* q) {
    legacy::nibbles(b.qs, 8, q);
}
static inline void unpack_values(const BlockQ4_1& b, int8_t* q) {
    legacy::nibbles(b.qs, 0, q);
}
static inline void unpack_values(const BlockQ5_0& b, int8_t* q) {
    legacy::five_bits(b.qs, b.qh, 16, q);
}
static inline void unpack_values(const BlockQ5_1& b, int8_t* q) {
    legacy::five_bits(b.qs, b.qh, 0, q);
}
static inline void unpack_values(const BlockQ8_0& b, int8_t* q) {
    for (int i = 0; i < 32; ++i) q[i] = b.qs[i];
}

static inline void store_levels(const uint8_t* levels, BlockQ4_0& b) {
    legacy::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ4_1& b) {
    legacy::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ5_0& b) {
    legacy::store_nibbles(levels, b.qs);
    legacy::store_fifth_bits(levels, b.qh);
}
static inline void store_levels(const uint8_t* levels, BlockQ5_1& b) {
    legacy::store_nibbles(levels, b.qs);
    legacy::store_fifth_bits(levels, b.qh);
}

static inline void store_levels(const uint8_t* levels, BlockQ8_0& b) {  // level 128 is zero
    for (int i = 0; i < 32; ++i) b.qs[i] = static_cast<int8_t>(levels[i] - 128);
}

static inline void unpack_scales(const BlockQ4_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}
static inline void unpack_scales(const BlockQ4_1& b, float* scales, float* minima) {
    scales[0] = f16_to_f32(b.d);
    minima[0] = -f16_to_f32(b.m);
}
static inline void unpack_scales(const BlockQ5_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}
static inline void unpack_scales(const BlockQ5_1& b, float* scales, float* minima) {
    scales[0] = f16_to_f32(b.d);
    minima[0] = -f16_to_f32(b.m);
}
static inline void unpack_scales(const BlockQ8_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}

}  // namespace bq
