// The codebooks (grids.hpp) as tables that are looked up in registers: a byte for each point. As data they
// hold no instructions, so one copy serves all instruction sets.
#pragma once

#include <cstdint>

namespace bq::codebooks {

template <int kCount>
struct BytePairs {
    alignas(64) uint8_t at[2][kCount];
};

// Points of eight elements: bit i of the two bytes of a point says whether element i has the second or third
// level, and whether it has the third.
namespace iq2_xxs {
extern const BytePairs<256> kPlanes;
}
namespace iq2_xs {
extern const BytePairs<512> kPlanes;
}
namespace iq2_s {
extern const BytePairs<1024> kPlanes;
}

// IQ1: a byte for four elements, bit i whether element i is 1, bit 4 + i whether it is -1. Elements 4 to 7
// change at most once in 16 consecutive points, since the points are in ascending order: from `first` to
// `last`, at point `change` of them.
namespace iq1_s {
struct UpperHalves {
    alignas(64) uint8_t first[128], last[128], change[128];
};
struct LowerHalves {
    alignas(64) uint8_t at[2048];
};
extern const LowerHalves kLowerHalves;
extern const UpperHalves kUpperHalves;
}  // namespace iq1_s

// Points of four elements: the three bits of elements 0 and 1, and of elements 2 and 3.
namespace iq3_xxs {
extern const BytePairs<256> kCodes;
}
namespace iq3_s {
extern const BytePairs<512> kCodes;
}

// The five trits of a byte of TQ1_0 (formats/ternary.hpp), two bits each: the first four, and the last.
extern const BytePairs<256> kTrits;

struct SignBytes {
    alignas(64) uint8_t at[128];
};
extern const SignBytes kEvenSigns;  // even_signs of the index

}  // namespace bq::codebooks
