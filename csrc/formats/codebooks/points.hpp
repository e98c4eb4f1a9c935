// The codebooks (grids.hpp) with a byte for each element, ready to load. As data they hold no instructions,
// so one copy serves all instruction sets.
#pragma once

#include <cstdint>

namespace bq::codebooks {

template <int kCount, int kElements>
struct Points {
    alignas(64) int8_t at[kCount][kElements];
};

namespace iq1_s {
extern const Points<2048, 8> kPoints;        // eight times the levels
extern const Points<2048, 8> kRaisedPoints;  // the same, 8 above
}  // namespace iq1_s
namespace iq2_xxs {
extern const Points<256, 8> kPoints;
}
namespace iq2_xs {
extern const Points<512, 8> kPoints;
}
namespace iq2_s {
extern const Points<1024, 8> kPoints;
}
namespace iq3_xxs {
extern const Points<256, 4> kPoints;
}
namespace iq3_s {
extern const Points<512, 4> kPoints;
}

// The signs of eight elements, of which seven bits are stored: bit i is set where element i is negative, and
// an even number of elements is.
static constexpr uint8_t even_signs(int stored) {
    int parity = stored ^ stored >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return static_cast<uint8_t>((stored & 127) | (parity & 1) << 7);
}

// The same as bytes: -1 where element i is negative, else 0.
extern const Points<128, 8> kEvenSignMasks;

}  // namespace bq::codebooks
