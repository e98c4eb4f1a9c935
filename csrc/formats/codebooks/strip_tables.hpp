// The codebooks (grids.hpp) as tables for the products of strips (matmul/strips.hpp). As data they hold no
// instructions, so one copy serves all instruction sets.
#pragma once

#include "formats/codebooks/planes.hpp"

namespace bq::codebooks {

// IQ2: two bits for each element of a point: elements 0, 1, 4 and 5, and elements 2, 3, 6 and 7.
namespace iq2_xxs {
extern const BytePairs<256> kStrip;
}
namespace iq2_xs {
extern const BytePairs<512> kStrip;
}
namespace iq2_s {
extern const BytePairs<1024> kStrip;
}

// IQ3: a nibble for each element of a point, of which the lower three bits are its code: elements 0 and 1,
// and elements 2 and 3.
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

// Levels by code and sign, above the largest magnitude (or as said).
struct StripLevels {
    alignas(16) int8_t at[16];
};
extern const StripLevels kIq2Levels;     // two bits of code, bit 2: negative; bit 3 does not count
extern const StripLevels kIq3XxsLevels;  // three bits of code, bit 3: negative
extern const StripLevels kIq3SLevels;    // the same, 16 above
extern const StripLevels kIq1Levels;     // two bits of code, bit 2: moved down; in eighths, 9 above

// even_signs of the index: the even elements, then the odd ones.
extern const SignBytes kEvenSignsEvenFirst;

}  // namespace bq::codebooks
