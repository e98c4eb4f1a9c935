// The K formats: super-blocks of 256 elements whose runs have quantized scales of their own, one struct each,
// and how each unpacks into the common form (common_form.hpp).
#pragma once

#include <cstdint>

#include "formats/half.hpp"

namespace bq {

inline constexpr int kSuperBlock = 256;

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockQ2_K {       // d * (scales & 15) * q - dmin * (scales >> 4), runs of 16
    uint8_t scales[16];  // scale in the low nibble, minimum in the high one
    uint8_t qs[64];      // 2 bits: element i of 128 at byte i % 32, bits 2 * (i / 32)
    uint16_t d, dmin;    // f16
};
struct BlockQ3_K {       // d * (scale - 32) * (q - 4), runs of 16
    uint8_t hmask[32];   // third bit: element i at byte i % 32, bit i / 32
    uint8_t qs[64];      // low two bits, as in Q2_K
    uint8_t scales[12];  // sixteen 6-bit scales: low nibbles in bytes 0-7, high pairs in bytes 8-11
    uint16_t d;          // f16
};
struct BlockQ4_K {       // d * scale * q - dmin * min, runs of 32
    uint16_t d, dmin;    // f16
    uint8_t scales[12];  // eight 6-bit scales and eight 6-bit minima
    uint8_t qs[128];     // element i of 64: low nibble of byte i for i < 32, high nibble of byte i - 32 above
};
struct BlockQ5_K {       // d * scale * q - dmin * min, runs of 32
    uint16_t d, dmin;    // f16
    uint8_t scales[12];  // as Q4_K
    uint8_t qh[32];      // fifth bit: element i at byte i % 32, bit i / 32
    uint8_t qs[128];     // as Q4_K
};
struct BlockQ6_K {    // d * scale * (q - 32), runs of 16
    uint8_t ql[128];  // low nibbles: element i of 128 at byte i % 64, high nibble for i >= 64
    uint8_t qh[64];   // high pairs: element i of 128 at byte i % 32, bits 2 * (i / 32)
    int8_t scales[16];
    uint16_t d;  // f16
};
#pragma pack(pop)

static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

// The packed 6-bit scales of a Q3_K block, each in 0..63 (the format subtracts 32).
static inline void unpack_q3_scales(const uint8_t packed[12], uint8_t scales[16]) {
    for (int j = 0; j < 16; ++j) {
        const int low = packed[j % 8] >> 4 * (j / 8) & 15;
        const int high = packed[8 + j % 4] >> 2 * (j / 4) & 3;
        scales[j] = static_cast<uint8_t>(high << 4 | low);
    }
}

// The packed 6-bit scales and minima of a Q4_K or Q5_K block: those of the runs 0-3 are the low six bits of
// bytes 0-3 and 4-7; those of the runs 4-7 have their low nibbles in bytes 8-11 and their high pairs above
// the others.
static inline void unpack_q4_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t minima[8]) {
    for (int j = 0; j < 4; ++j) {
        scales[j] = packed[j] & 63;
        minima[j] = packed[j + 4] & 63;
        scales[j + 4] = static_cast<uint8_t>((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        minima[j + 4] = static_cast<uint8_t>(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

// The inverses. Scales that a search left above 63 (possible only when the data overflows) spill into the
// bits of others, as they do in ggml.
static inline void store_q3_scales(const uint8_t scales[16], uint8_t packed[12]) {
    for (int j = 0; j < 8; ++j) packed[j] = static_cast<uint8_t>((scales[j] & 15) | scales[j + 8] << 4);
    for (int j = 0; j < 4; ++j)
        packed[8 + j] = static_cast<uint8_t>(scales[j] >> 4 | scales[j + 4] >> 4 << 2 |
                                             scales[j + 8] >> 4 << 4 | scales[j + 12] >> 4 << 6);
}
static inline void store_q4_scales(const uint8_t scales[8], const uint8_t minima[8], uint8_t packed[12]) {
    for (int j = 0; j < 4; ++j) {
        packed[j] = static_cast<uint8_t>(scales[j] | scales[j + 4] >> 4 << 6);
        packed[j + 4] = static_cast<uint8_t>(minima[j] | minima[j + 4] >> 4 << 6);
        packed[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (minima[j + 4] & 15) << 4);
    }
}

static inline void unpack_values(const BlockQ2_K& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {  // 32 elements that share bytes and a shift
        const uint8_t* qs = b.qs + part / 4 * 32;
        for (int i = 0; i < 32; ++i) q[32 * part + i] = qs[i] >> 2 * (part % 4) & 3;
    }
}
static inline void unpack_values(const BlockQ3_K& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {
        const uint8_t* qs = b.qs + part / 4 * 32;
        for (int i = 0; i < 32; ++i) {
            const int high = b.hmask[i] >> part & 1;
            q[32 * part + i] = static_cast<int8_t>((high << 2 | (qs[i] >> 2 * (part % 4) & 3)) - 4);
        }
    }
}
static inline void unpack_values(const BlockQ4_K& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {
        const uint8_t* qs = b.qs + part / 2 * 32;
        for (int i = 0; i < 32; ++i) q[32 * part + i] = qs[i] >> 4 * (part % 2) & 15;
    }
}
static inline void unpack_values(const BlockQ5_K& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {
        const uint8_t* qs = b.qs + part / 2 * 32;
        for (int i = 0; i < 32; ++i) {
            const int high = b.qh[i] >> part & 1;
            q[32 * part + i] = static_cast<int8_t>(high << 4 | (qs[i] >> 4 * (part % 2) & 15));
        }
    }
}
static inline void unpack_values(const BlockQ6_K& b, int8_t* q) {
    for (int part = 0; part < 8; ++part) {
        const uint8_t* ql = b.ql + part / 4 * 64 + part % 2 * 32;
        const uint8_t* qh = b.qh + part / 4 * 32;
        for (int i = 0; i < 32; ++i) {
            const int low = ql[i] >> 4 * (part % 4 / 2) & 15;
            const int high = qh[i] >> 2 * (part % 4) & 3;
            q[32 * part + i] = static_cast<int8_t>((high << 4 | low) - 32);
        }
    }
}

namespace k_quants {

static inline void store_two_bits(const uint8_t* levels, uint8_t* qs) {
    for (int half = 0; half < 2; ++half, levels += 128, qs += 32)
        for (int i = 0; i < 32; ++i)
            qs[i] = static_cast<uint8_t>((levels[i] & 3) | (levels[i + 32] & 3) << 2 |
                                         (levels[i + 64] & 3) << 4 | (levels[i + 96] & 3) << 6);
}

// Bit `bit` of the eight elements i, i + 32, ... into byte i.
static inline void store_bit_plane(const uint8_t* levels, int bit, uint8_t* plane) {
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int part = 0; part < 8; ++part) bits |= (levels[32 * part + i] >> bit & 1) << part;
        plane[i] = static_cast<uint8_t>(bits);
    }
}

static inline void store_nibbles(const uint8_t* levels, uint8_t* qs) {
    for (int part = 0; part < 4; ++part, levels += 64, qs += 32)
        for (int i = 0; i < 32; ++i)
            qs[i] = static_cast<uint8_t>((levels[i] & 15) | (levels[i + 32] & 15) << 4);
}

}  // namespace k_quants

// Levels are the integers as stored, 0 and up.
static inline void store_levels(const uint8_t* levels, BlockQ2_K& b) {
    k_quants::store_two_bits(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ3_K& b) {
    k_quants::store_bit_plane(levels, 2, b.hmask);
    k_quants::store_two_bits(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ4_K& b) {
    k_quants::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ5_K& b) {
    k_quants::store_bit_plane(levels, 4, b.qh);
    k_quants::store_nibbles(levels, b.qs);
}
static inline void store_levels(const uint8_t* levels, BlockQ6_K& b) {
    for (int half = 0; half < 2; ++half, levels += 128) {
        for (int i = 0; i < 64; ++i)
            b.ql[64 * half + i] = static_cast<uint8_t>((levels[i] & 15) | (levels[i + 64] & 15) << 4);
        for (int i = 0; i < 32; ++i)
            b.qh[32 * half + i] = static_cast<uint8_t>(levels[i] >> 4 | levels[i + 32] >> 4 << 2 |
                                                       levels[i + 64] >> 4 << 4 | levels[i + 96] >> 4 << 6);
    }
}

static inline void unpack_scales(const BlockQ2_K& b, float* scales, float* minima) {
    const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
    for (int j = 0; j < 16; ++j) {
        scales[j] = d * static_cast<float>(b.scales[j] & 15);
        minima[j] = dmin * static_cast<float>(b.scales[j] >> 4);
    }
}
static inline void unpack_scales(const BlockQ3_K& b, float* scales, float*) {
    const float d = f16_to_f32(b.d);
    uint8_t integers[16];
    unpack_q3_scales(b.scales, integers);
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(integers[j] - 32);
}
static inline void unpack_scales(const BlockQ4_K& b, float* scales, float* minima) {
    const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
    uint8_t scale_integers[8], min_integers[8];
    unpack_q4_scales(b.scales, scale_integers, min_integers);
    for (int j = 0; j < 8; ++j) {
        scales[j] = d * static_cast<float>(scale_integers[j]);
        minima[j] = dmin * static_cast<float>(min_integers[j]);
    }
}
static inline void unpack_scales(const BlockQ5_K& b, float* scales, float* minima) {
    const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
    uint8_t scale_integers[8], min_integers[8];
    unpack_q4_scales(b.scales, scale_integers, min_integers);
    for (int j = 0; j < 8; ++j) {
        scales[j] = d * static_cast<float>(scale_integers[j]);
        minima[j] = dmin * static_cast<float>(min_integers[j]);
    }
}
static inline void unpack_scales(const BlockQ6_K& b, float* scales, float*) {
    const float d = f16_to_f32(b.d);
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(b.scales[j]);
}

}  // namespace bq
