// One and two bits in element order with one scale, and how each format unpacks into the common form
// (common_form.hpp). A block is one run.
#pragma once

#include <cstdint>

#include "formats/half.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockQ1_0 {   // d where the bit is set, else -d
    uint16_t d;      // f16
    uint8_t qs[16];  // element i: bit i % 8 of byte i / 8
};
struct BlockQ2_0 {   // d * (q - 1)
    uint16_t d;      // f16
    uint8_t qs[16];  // element i: bits 2 * (i % 4) of byte i / 4
};
#pragma pack(pop)

static_assert(sizeof(BlockQ1_0) == 18 && sizeof(BlockQ2_0) == 18);

static inline void unpack_values(const BlockQ1_0& b, int8_t* q) {
    for (int i = 0; i < 128; ++i) q[i] = b.qs[i / 8] >> i % 8 & 1 ? 1 : -1;
}
static inline void unpack_values(const BlockQ2_0& b, int8_t* q) {
    for (int i = 0; i < 64; ++i) q[i] = static_cast<int8_t>((b.qs[i / 4] >> 2 * (i % 4) & 3) - 1);
}

// Levels are the integers as stored, 0 and up.
static inline void store_levels(const uint8_t* levels, BlockQ1_0& b) {
    for (int byte = 0; byte < 16; ++byte) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= levels[8 * byte + i] << i;
        b.qs[byte] = static_cast<uint8_t>(bits);
    }
}
static inline void store_levels(const uint8_t* levels, BlockQ2_0& b) {
    for (int byte = 0; byte < 16; ++byte) {
        int bits = 0;
        for (int i = 0; i < 4; ++i) bits |= levels[4 * byte + i] << 2 * i;
        b.qs[byte] = static_cast<uint8_t>(bits);
    }
}

static inline void unpack_scales(const BlockQ1_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}
static inline void unpack_scales(const BlockQ2_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}

}  // namespace bq
