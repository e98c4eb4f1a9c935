// For every combination of levels the point of a codebook that it is, or the points near it, from which the
// encoders choose.
#pragma once

#include <cstdint>

namespace bq::encode {

enum class Grid { kIQ1S, kIQ2XXS, kIQ2XS, kIQ2S, kIQ3XXS, kIQ3S };

// A point of the codebook: its index, and the packed levels of its elements below (as in
// codebooks/grids.hpp).
using GridEntry = uint32_t;
static constexpr int entry_index(GridEntry entry) {
    return static_cast<int>(entry >> 16);
}

struct alignas(32) GridChunk {
    GridEntry entries[8];
};

struct GridNeighbours {
    // By key, which is the number whose digits to base 3 (four and eight levels: to base 8) are the levels,
    // element 0 the lowest: the entry of the point, or less than zero where the codebook has no such point.
    const int32_t* at;
    const GridChunk* chunks;

    // Where at[key] < 0: the points at the smallest distances, nearest first and equally near in the order of
    // the codebook. The last chunk is filled up with copies of the first point, which can never win against
    // it.
    struct List {
        const GridChunk* chunks;
        int count;    // of chunks
        int padding;  // copies in the last one
    };
    static constexpr int kCountBits = 6, kPaddingBits = 3;
};

static inline GridNeighbours::List candidates(const GridNeighbours& grid, int32_t code) {
    constexpr int kCountBits = GridNeighbours::kCountBits, kPaddingBits = GridNeighbours::kPaddingBits;
    const uint32_t list = ~static_cast<uint32_t>(code);
    return {grid.chunks + (list >> (kCountBits + kPaddingBits)),
            static_cast<int>(list >> kPaddingBits & ((1u << kCountBits) - 1)),
            static_cast<int>(list & ((1u << kPaddingBits) - 1))};
}

// Built when first asked for, in a few milliseconds; safe to call from any thread.
const GridNeighbours& grid_neighbours(Grid grid);

}  // namespace bq::encode
