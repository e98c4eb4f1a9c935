// The K formats: super-blocks of 256 elements whose runs have quantized scales of their own.
#pragma once

#include <cstdint>

namespace bq {

inline constexpr int kSuperBlock = 256;

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

static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

}  // namespace bq
