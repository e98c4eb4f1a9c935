// Blocks from chosen integers and scales: the inverse of unpacking into the common form, for encoders that
// live elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "formats/format.hpp"

namespace bq {

// Why a block does not fit its format, and where: the first element or run, and how many.
enum class Misfit : int {
    none,
    value,    // an integer that is none of the format's levels
    group,    // neighbours that together are no point of the format's grid
    signs,    // an odd number of negative elements where only even ones can be stored
    scale,    // one run's, or those of all runs together
    minimum,  // as the scales
};
struct BlockFit {
    Misfit misfit = Misfit::none;
    int at = 0, count = 1;
};

enum class Rounding : int { exact, nearest };

// One block in the common form. minima is nullptr where the format has none.
struct BlockParts {
    const int8_t* q;
    const float* scales;
    const float* minima;
};

// Writes the block that unpacks into exactly these parts, or says why there is none. With Rounding::nearest
// scales and minima (finite) become the nearest that the format can hold, such that the values change least;
// the integers must fit in any case. Where several blocks unpack alike, `like` (nullptr: none) is one to take
// bits from: all of them if it unpacks into the same parts, those of its scales if it has the same scales;
// without it the result is what the encoders would write.
using AssembleBlockFn = BlockFit (*)(const BlockParts& parts, Rounding rounding, const uint8_t* like,
                                     uint8_t* out);
// nullptr for a format that is not implemented.
AssembleBlockFn block_assembler(FormatId id);

// k elements of a row into k integers and k / run scales (and minima, else nullptr).
using UnpackRowFn = void (*)(const uint8_t* row, int8_t* q, float* scales, float* minima, int64_t k);
UnpackRowFn row_unpacker(FormatId id);

// For people: which integers, scales and minima the format can hold.
struct AssemblyRules {
    std::string values, scales, minima;
};
AssemblyRules assembly_rules(FormatId id);

}  // namespace bq
