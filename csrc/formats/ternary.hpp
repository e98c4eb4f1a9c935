// The ternary formats: 256 elements -1, 0 or 1 (stored as 0, 1, 2) and one scale, and how each unpacks into
// the common form (common_form.hpp). A block is one run.
#pragma once

#include <cstdint>

#include "formats/half.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockTQ1_0 {  // d * (trit - 1)
    // Five trits to a byte, the first in the most significant place: element i < 160 is trit i / 32 of byte
    // i % 32, element i of the next 80 is trit i / 16 of byte 32 + i % 16.
    uint8_t qs[48];
    uint8_t qh[4];  // four trits to a byte: element i of the last 16 is trit i / 4 of byte i % 4
    uint16_t d;     // f16
};
struct BlockTQ2_0 {  // d * (q - 1)
    uint8_t qs[64];  // 2 bits: element i of 128 at byte i % 32, bits 2 * (i / 32)
    uint16_t d;      // f16
};
#pragma pack(pop)

static_assert(sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);

namespace ternary {

// A byte b stands for the fraction b / 256 whose digits to base 3 are its trits: multiplied by 3^n, what is
// left below 1 starts with trit n.
static constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};

static inline int trit(uint8_t byte, int n) {
    const int rest = byte * kPowers[n] & 255;
    return rest * 3 >> 8;
}

// Where element i of a TQ1_0 block is.
struct Place {
    int byte, trit;  // byte counts through qs and qh
};
static constexpr Place place(int i) {
    if (i < 160) return {i % 32, i / 32};
    if (i < 240) return {32 + i % 16, (i - 160) / 16};
    return {48 + i % 4, (i - 240) / 4};
}

}  // namespace ternary

static inline void unpack_values(const BlockTQ1_0& b, int8_t* q) {
    for (int i = 0; i < 256; ++i) {
        const ternary::Place p = ternary::place(i);
        const uint8_t byte = p.byte < 48 ? b.qs[p.byte] : b.qh[p.byte - 48];
        q[i] = static_cast<int8_t>(ternary::trit(byte, p.trit) - 1);
    }
}
static inline void unpack_values(const BlockTQ2_0& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {  // 32 elements that share bytes and a shift
        const uint8_t* qs = b.qs + part / 4 * 32;
        for (int i = 0; i < 32; ++i)
            q[32 * part + i] = static_cast<int8_t>((qs[i] >> 2 * (part % 4) & 3) - 1);
    }
}

// Levels are the integers as stored: 0, 1, 2 (and 3 in TQ2_0, which no encoder uses).
static inline void store_levels(const uint8_t* levels, BlockTQ1_0& b) {
    // The number whose base-3 digits the trits are, a missing fifth one being 0.
    int number[52] = {};
    for (int i = 0; i < 256; ++i) {
        constexpr int kWeights[5] = {81, 27, 9, 3, 1};
        const ternary::Place p = ternary::place(i);
        number[p.byte] += levels[i] * kWeights[p.trit];
    }
    // As fractions of 3^5, in 256ths, rounded up so that no digit is lost.
    for (int i = 0; i < 48; ++i) b.qs[i] = static_cast<uint8_t>((number[i] * 256 + 242) / 243);
    for (int i = 0; i < 4; ++i) b.qh[i] = static_cast<uint8_t>((number[48 + i] * 256 + 242) / 243);
}
static inline void store_levels(const uint8_t* levels, BlockTQ2_0& b) {
    for (int i = 0; i < 64; ++i) {
        const uint8_t* part = levels + i / 32 * 128 + i % 32;
        b.qs[i] = static_cast<uint8_t>(part[0] | part[32] << 2 | part[64] << 4 | part[96] << 6);
    }
}

static inline void unpack_scales(const BlockTQ1_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}
static inline void unpack_scales(const BlockTQ2_0& b, float* scales, float*) {
    scales[0] = f16_to_f32(b.d);
}

}  // namespace bq
