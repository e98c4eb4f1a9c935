// The formats of 4-bit floats (E2M1) with 8-bit scales, and how each unpacks into the common form
// (common_form.hpp). The integers are the E2M1 values doubled, so the scales are halved.
#pragma once

#include <cstdint>

#include "formats/half.hpp"
#include "formats/legacy.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockMXFP4 {  // 2^(e - 127) * E2M1
    uint8_t e;       // E8M0
    uint8_t qs[16];  // element i < 16: low nibble of byte i; element i + 16: its high nibble
};
struct BlockNVFP4 {     // scale * E2M1, runs of 16
    uint8_t scales[4];  // UE4M3
    uint8_t qs[32];     // run j in bytes 8 j to 8 j + 7: element i < 8 in a low nibble, i + 8 in the high one
};
#pragma pack(pop)

static_assert(sizeof(BlockMXFP4) == 17 && sizeof(BlockNVFP4) == 36);

namespace fp4 {

// The sixteen E2M1 values, doubled: sign, two bits of exponent, one of mantissa. Minus zero is zero.
static constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Half of the E8M0 number, 2^(e - 128); the two smallest are subnormal. 255 is not a NaN here, as in ggml.
static constexpr float half_of_e8m0(uint8_t e) {
    return bits_as<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// Half of the UE4M3 number: exponent bias 7, no infinity; 0x7f is a NaN and counts as zero (0xff is 480), and
// the sign bit is not looked at otherwise, as in ggml. No float on the way is subnormal: threads that flush
// those have these scales too.
static constexpr float half_of_ue4m3(uint8_t bits) {
    const uint32_t e = bits & 0x7f;  // exponent and mantissa, which stand in a float32 20 bits further up
    if (bits == 0x7f) return 0.0f;
    return e < 8 ? static_cast<float>(e) * 0x1p-10f : bits_as<float>((e << 20) + (119u << 23));
}

}  // namespace fp4

static inline void unpack_values(const BlockMXFP4& b, int8_t* q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = fp4::kDoubled[b.qs[i] & 15];
        q[i + 16] = fp4::kDoubled[b.qs[i] >> 4];
    }
}
static inline void unpack_values(const BlockNVFP4& b, int8_t* q) {
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 8; ++i) {
            q[16 * j + i] = fp4::kDoubled[b.qs[8 * j + i] & 15];
            q[16 * j + i + 8] = fp4::kDoubled[b.qs[8 * j + i] >> 4];
        }
}

// Levels are E2M1 codes.
static inline void store_levels(const uint8_t* levels, BlockMXFP4& b) {
    legacy::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockNVFP4& b) {
    for (int j = 0; j < 4; ++j, levels += 16)
        for (int i = 0; i < 8; ++i)
            b.qs[8 * j + i] = static_cast<uint8_t>((levels[i] & 15) | (levels[i + 8] & 15) << 4);
}

static inline void unpack_scales(const BlockMXFP4& b, float* scales, float*) {
    scales[0] = fp4::half_of_e8m0(b.e);
}
static inline void unpack_scales(const BlockNVFP4& b, float* scales, float*) {
    for (int j = 0; j < 4; ++j) scales[j] = fp4::half_of_ue4m3(b.scales[j]);
}

}  // namespace bq
