// The two halves of the points of IQ1 as tables (planes.hpp), for any code of four elements.
#pragma once

#include "formats/codebooks/grids.hpp"
#include "formats/codebooks/planes.hpp"

namespace bq::codebooks::iq1_s {

// code(levels): the byte for four elements of two bits each.
template <class Code>
constexpr LowerHalves lower_halves_of(Code code) {
    LowerHalves halves{};
    for (int p = 0; p < 2048; ++p) halves.at[p] = code(kGrid[p] & 255);
    return halves;
}

template <class Code>
constexpr UpperHalves upper_halves_of(Code code) {
    UpperHalves halves{};
    for (int part = 0; part < 128; ++part) {
        const uint16_t* points = kGrid + 16 * part;
        halves.first[part] = code(points[0] >> 8);
        halves.last[part] = code(points[15] >> 8);
        int change = 1;
        while (change < 16 && points[change] >> 8 == points[0] >> 8) ++change;
        halves.change[part] = static_cast<uint8_t>(change);
    }
    return halves;
}

}  // namespace bq::codebooks::iq1_s
