// The codebooks (grids.hpp) as tables for the products of strips (matmul/strips.hpp). As data they hold no
// instructions, so one copy serves all instruction sets.
#pragma once

#include "formats/codebooks/planes.hpp"

namespace bq::codebooks {

// IQ2: two bits for each element of a point: elements 4, 5, 0 and 1, and elements 2, 6, 3 and 7.
namespace iq2_xxs {
extern const BytePairs<256> kStrip;
}
namespace iq2_xs {
extern const BytePairs<512> kStrip;
}
namespace iq2_s {
extern const BytePairs<1024> kStrip;
}

// IQ3: a nibble for each element of a point: elements 0 and 1 with their code in the upper three bits, and
// elements 2 and 3 with the lowest bit of their code below the second bit and the others above it.
namespace iq3_xxs {
extern const BytePairs<256> kStrip;
}
namespace iq3_s {
extern const BytePairs<512> kStrip;
}

// IQ1: two bits for each element of a point, 0 to 2: elements 0 to 3 of all, and elements 4 to 7 as in
// UpperHalves.
namespace iq1_s {
extern const LowerHalves kLowerCodes;
extern const UpperHalves kUpperCodes;
}  // namespace iq1_s

// Levels by code and sign, above the largest magnitude (or as said), from a few bits of the index; the others
// do not count.
struct StripLevels {
    alignas(16) int8_t at[16];
};
extern const StripLevels kIq3XxsLevels[2], kIq3SLevels[2];  // the nibbles of above; IQ3_S: 16 above
struct WideLevels {
    alignas(64) int8_t at[64];
};
extern const WideLevels kIq2Levels[6];   // code from bit 0, 2, 2, 4, 0, 4; sign in bit 4, 5, 0, 1, 2, 3
extern const WideLevels kIq1Levels[2];   // code from bit 0, 2; bit 4: moved down; in eighths, 9 above
extern const WideLevels kCodeFields[2];  // the two bits from bit 2, 4 themselves

// even_signs of the index: the even elements, then the odd ones.
extern const SignBytes kEvenSignsEvenFirst;

}  // namespace bq::codebooks
