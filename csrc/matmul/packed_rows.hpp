// Activations laid out for the product of many rows. Rows go in tiles of T rows, the last ones in tiles of
// kSmallTile, padded with rows of zeros; within a tile four consecutive elements of each of its rows follow
// each other:
//
//   q       [k / 4][row of tile][4]         the integers
//   start   [k / weight run][row of tile]   what the integer sum of a run starts from: -offset * sum of q
//   scales  [k / activation run][row]
//   sums    [k / weight run][row]           for weights with minima: the sum of x over the run, without the
//   scale where
//                                           one activation scale covers 256 elements
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

inline constexpr int kSmallTile = 4;

// Byte sizes and offsets of one allocation that holds all arrays.
struct PackedLayout {
    int64_t start_offset, scales_offset, sums_offset, bytes;
    static PackedLayout of(int64_t rows, int64_t k, const PanelShape& shape);
    PackedRows view(const void* base, int64_t rows, int64_t k) const;
};

// Rows of the tiles that hold the rows begin <= r < end; begin and end are multiples of shape.tile_rows, or
// end is the number of rows.
void pack_rows(const Activations& x, int64_t begin, int64_t end, const PanelShape& shape,
               const PackedRows& out);

// The same for float activations x [rows, k].
int64_t packed_float_bytes(int64_t rows, int64_t k, int tile_rows);
void pack_float_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out);

}  // namespace bq
