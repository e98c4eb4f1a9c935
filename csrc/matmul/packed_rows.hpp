// Activations laid out for the product of many rows. Rows go in tiles of T rows, the last ones in tiles of
// kSmallTile, padded with rows of zeros; within a tile four consecutive elements of each of its rows follow
// each other:
//
//   q       [k / 4][row of tile][4]         the integers; if PanelShape::raised, unsigned, 128 above them
//   start   [k / weight run][row of tile]   what the integer sum of a run starts from: -offset * sum of q
//   scales  [k / activation run][row]
//   sums    [k / weight run][row]           for weights with minima: the sum of q over the run; with integer
//                                           minima [k / (2 * minimum run)][row][2] as int16
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

inline constexpr int kSmallTile = 4;
// Rows of a tile where rows are the lanes of vectors (gemm_float_lanes.hpp), or 16; 8 if there are no more.
inline constexpr int kLaneTile = 24;

// Rows of the next tile when `left` rows are left: small ones where they need less padding.
static constexpr int next_tile(int64_t left, int tile_rows) {
    if (tile_rows == kLaneTile) return left > kLaneTile ? 16 : left > 16 ? 24 : left > 8 ? 16 : 8;
    const auto small = [](int64_t rows) { return (rows + kSmallTile - 1) / kSmallTile * kSmallTile; };
    if (left < tile_rows) return kSmallTile;
    return left < 2 * tile_rows && small(left) < tile_rows + small(left - tile_rows) ? kSmallTile : tile_rows;
}

// Byte sizes and offsets of one allocation that holds all arrays.
struct PackedLayout {
    int64_t start_offset, scales_offset, sums_offset, bytes;
    static PackedLayout of(int64_t rows, int64_t k, const PanelShape& shape);
    PackedRows view(const void* base, int64_t rows, int64_t k) const;
};

// Packs the tiles that start at the rows begin <= r < end.
void pack_rows(const Activations& x, int64_t begin, int64_t end, const PanelShape& shape,
               const PackedRows& out);

// Rows of all tiles.
int64_t padded_rows(int64_t rows, int tile_rows);

// The same for float activations x [rows, k].
int64_t packed_float_bytes(int64_t rows, int64_t k, int tile_rows);
void pack_float_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out);

// The same rounded to bfloat16, for matmul_bf16_panels: out.x points at words of two consecutive elements,
// [ceil(k / 2)][row of tile], the first in the lower half; behind an odd k comes a zero.
int64_t packed_bf16_bytes(int64_t rows, int64_t k, int tile_rows);
// `round` writes k floats as bfloat16.
void pack_bf16_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out,
                    void (*round)(const uint8_t* floats, uint16_t* to, int64_t k));

}  // namespace bq
