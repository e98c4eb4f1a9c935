// What the products of many rows share: the loops over panels of weights and tiles of activation rows.
#pragma once

#include "matmul/packed_rows.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

// What a product of many rows computes: y[r * ldy + n] for begin <= n < end. Blocks of at most block_rows
// activation rows pass a panel before the next one is unpacked.
struct PanelRange {
    int64_t begin, end, rows, k, block_rows;
    float* y;
    int64_t ldy;
};

// The first row after the block of rows that starts at `begin`: blocks are about equal.
static inline int64_t block_end(int64_t begin, int64_t rows, int64_t block_rows, int tile_rows) {
    const int64_t most = block_rows < 1 ? 1 : block_rows < kMostBlockRows ? block_rows : kMostBlockRows;
    const int64_t blocks = (rows + most - 1) / most;
    const int64_t each = (rows + blocks - 1) / blocks;
    const int64_t end = begin + (each + tile_rows - 1) / tile_rows * tile_rows;
    return end < rows ? end : rows;
}

// For each panel of at most kDepth elements fill(n, at, depth), then for each tile of activation rows
// multiply(r, Index<rows>, at, depth, sums), which adds onto sums[rows][T::kLanes] or, with the first part of
// k, sets them. Meanwhile ask(n, at) asks for what the next panels take of row n.
template <class T, int kTileRows, int kDepth, class Ask, class Fill, class Multiply>
BQ_INLINE void multiply_panels(const PanelRange& p, Ask&& ask, Fill&& fill, Multiply&& multiply) {
    constexpr int kLanes = T::kLanes;
    // Kept side by side until the last part of k: the rows of y are far apart, often by a power of two, so
    // that they share few lines of the caches.
    alignas(64) float sums[kMostBlockRows + 2 * kTileRows][kLanes];
    for (int64_t block = 0, next; block < p.rows; block = next) {
        const int64_t to = block_end(block, p.rows, p.block_rows, kTileRows);
        const int ahead_at_once = static_cast<int>(kLanes * kTileRows / (to - block)) + 1;
        next = to;
        for (int64_t n = p.begin; n < p.end; n += kLanes) {
            const int lanes = static_cast<int>(p.end - n < kLanes ? p.end - n : kLanes);
            for (int64_t at = 0; at < p.k; at += kDepth) {
                const int depth = static_cast<int>(p.k - at < kDepth ? p.k - at : kDepth);
                const bool is_last = at + depth == p.k;
                fill(n, at, depth);
                int ahead = 0;
                const auto tile = [&](int64_t r, auto rows) BQ_INLINE_LAMBDA {
                    constexpr int kCount = decltype(rows)::value;
                    for (int i = 0; i < ahead_at_once && ahead < kLanes; ++i, ++ahead)
                        is_last ? ask(n + kLanes + ahead, int64_t{0}) : ask(n + ahead, at + depth);
                    for (int i = 0; is_last && i < kCount; ++i)
                        prefetch<4 * kLanes>(reinterpret_cast<const uint8_t*>(p.y + (r + i) * p.ldy + n));
                    float (*const kept)[kLanes] = sums + (r - block);
                    multiply(r, rows, at, depth, kept);
                    for (int i = 0; is_last && i < kCount && r + i < p.rows; ++i) {
                        float* const y = p.y + (r + i) * p.ldy + n;
                        if (lanes == kLanes)
                            T::store(y, T::load(kept[i]));
                        else
                            for (int lane = 0; lane < lanes; ++lane) y[lane] = kept[i][lane];
                    }
                };
                for (next = block; next < to;) {
                    const int count = next_tile(p.rows - next, kTileRows);
                    if (count == kTileRows)
                        tile(next, Index<kTileRows>{});
                    else
                        tile(next, Index<kSmallTile>{});
                    next += count;
                }
            }
        }
    }
}

}  // namespace
}  // namespace bq
