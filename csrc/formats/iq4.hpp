// The formats whose 4-bit integers are indices into sixteen uneven levels, and how each unpacks into the
// common form (common_form.hpp).
#pragma once

#include <cstdint>

#include "formats/half.hpp"
#include "formats/legacy.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockIQ4_NL {  // d * level
    uint16_t d;       // f16
    uint8_t qs[16];   // element i < 16: low nibble of byte i; element i + 16: its high nibble
};
struct BlockIQ4_XS {      // d * (scale - 32) * level, runs of 32
    uint16_t d;           // f16
    uint16_t scales_h;    // high pairs of the eight 6-bit scales, run j at bits 2 j
    uint8_t scales_l[4];  // low nibbles, run j at byte j / 2, bits 4 * (j % 2)
    uint8_t qs[128];      // run j in bytes 16 j to 16 j + 15, as IQ4_NL
};
#pragma pack(pop)

static_assert(sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);

namespace iq4 {

// Denser around zero than far from it, as weights are.
static constexpr int8_t kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};

static inline void run_values(const uint8_t* qs, int8_t* q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = kLevels[qs[i] & 15];
        q[i + 16] = kLevels[qs[i] >> 4];
    }
}

}  // namespace iq4

static inline void unpack_values(const BlockIQ4_NL& b, int8_t* q) {
    iq4::run_values(b.qs, q);
}
static inline void unpack_values(const BlockIQ4_XS& b, int8_t* q) {
    for (int j = 0; j < 8; ++j) iq4::run_values(b.qs + 16 * j, q + 32 * j);
}

// Levels are indices into kLevels.
static inline void store_levels(const uint8_t* levels, BlockIQ4_NL& b) {
    legacy::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockIQ4_XS& b) {
    for (int j = 0; j < 8; ++j) legacy::store_nibbles(levels + 32 * j, b.qs + 16 * j);
}

// The scales as stored, 0..63 (the format subtracts 32).
static inline void store_scales(const uint8_t scales[8], BlockIQ4_XS& b) {
    int high = 0;
    for (int j = 0; j < 8; ++j) high |= scales[j] >> 4 << 2 * j;
    b.scales_h = static_cast<uint16_t>(high);
    for (int i = 0; i < 4; ++i)
        b.scales_l[i] = static_cast<uint8_t>((scales[2 * i] & 15) | (scales[2 * i + 1] & 15) << 4);
}

static inline void unpack_scales(const BlockIQ4_NL& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}
static inline void unpack_scales(const BlockIQ4_XS& b, float* scales, float*) {
    const float d = f16_to_f32(b.d);
    for (int j = 0; j < 8; ++j) {
        const int low = b.scales_l[j / 2] >> 4 * (j % 2) & 15;
        const int high = b.scales_h >> 2 * j & 3;
        scales[j] = d * static_cast<float>((high << 4 | low) - 32);
    }
}

}  // namespace bq
