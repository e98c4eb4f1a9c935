// The formats of 32 elements with float16 scales, one struct each. Element i of the first half of a block is
// in the low nibble of qs[i], element i + 16 in the high nibble; a fifth bit of element i is bit i of qh.
#pragma once

#include <cstdint>

namespace bq {

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

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34);

}  // namespace bq
