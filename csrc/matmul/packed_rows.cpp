#include "matmul/packed_rows.hpp"

#include <algorithm>
#include <cstring>

#include "formats/half.hpp"

namespace bq {
namespace {

constexpr int64_t align64(int64_t n) {
    return (n + 63) / 64 * 64;
}

constexpr int64_t kPiece = 128;  // words of a row that are packed at a time

// Two bfloat16, the first in the lower half.
uint32_t pair_of_bf16(float first, float second) {
    return static_cast<uint32_t>(f32_to_bf16(second)) << 16 | f32_to_bf16(first);
}

// One tile of `count` rows from `first` on, of which `valid` exist.
void pack_tile(const Activations& x, int64_t first, int count, int valid, const PanelShape& shape,
               const PackedRows& out) {
    const int64_t k = x.k, runs = k / shape.run, scales = k / x.run;
    // out's pointers are const for the kernels that read; this is the one that fills them.
    int8_t* q = const_cast<int8_t*>(out.q) + first * k;
    int32_t* start = const_cast<int32_t*>(out.start) + first * runs;
    float* scale = const_cast<float*>(out.scales) + first * scales;
    // In pieces whose places in the tile stay in the level-1 cache.
    for (int64_t at = 0; at < k / 4; at += kPiece)
        for (int r = 0; r < count; ++r) {
            const int8_t* from = x.q + (first + r) * k + 4 * at;
            int8_t* to = q + 4 * (at * count + r);
            const int64_t words = std::min(kPiece, k / 4 - at);
            for (int64_t i = 0; i < words; ++i)
                if (r < valid)
                    std::memcpy(to + 4 * i * count, from + 4 * i, 4);
                else
                    std::memset(to + 4 * i * count, 0, 4);
        }
    const bool pairs = shape.minimum_run != 0;
    const int64_t minima = pairs ? k / shape.minimum_run : shape.has_minima ? runs : 0;
    const int sixteens_of_minimum = (pairs ? shape.minimum_run : shape.run) / 16;
    auto* sum_pairs = reinterpret_cast<int16_t*>(const_cast<float*>(out.sums)) + first * minima;
    float* sum = const_cast<float*>(out.sums) + first * minima;
    for (int r = 0; r < count; ++r) {
        const int64_t row = first + r;
        const int16_t* sixteen_sums = x.whole_sums + row * (k / 16);
        const auto total = [&](int64_t i, int sixteens) {
            int32_t all = 0;
            for (int j = 0; r < valid && j < sixteens; ++j) all += sixteen_sums[i * sixteens + j];
            return all;
        };
        for (int64_t i = 0; i < scales; ++i)
            scale[i * count + r] = r < valid ? x.scales[row * scales + i] : 0;
        for (int64_t i = 0; i < runs; ++i) start[i * count + r] = -shape.offset * total(i, shape.run / 16);
        for (int64_t i = 0; i < minima; ++i)
            if (pairs)
                sum_pairs[i / 2 * 2 * count + 2 * r + i % 2] =
                    static_cast<int16_t>(total(i, sixteens_of_minimum));
            else
                sum[i * count + r] = static_cast<float>(total(i, sixteens_of_minimum));
    }
}

// body(first, count, valid) for the tiles that start in begin <= first < end.
template <class Body>
void each_tile(int64_t begin, int64_t end, int64_t rows, int tile_rows, Body&& body) {
    for (int64_t first = 0; first < end;) {
        const int64_t left = rows - first;
        const int count = next_tile(left, tile_rows);
        if (first >= begin) body(first, count, static_cast<int>(left < count ? left : count));
        first += count;
    }
}

// Rows of all tiles.
int64_t padded(int64_t rows, int tile_rows) {
    int64_t all = 0;
    each_tile(0, rows, rows, tile_rows, [&](int64_t, int count, int) { all += count; });
    return all;
}

}  // namespace

PackedLayout PackedLayout::of(int64_t rows, int64_t k, const PanelShape& shape) {
    PackedLayout layout{};
    const int64_t all = padded(rows, shape.tile_rows), run_floats = all * (k / shape.run) * 4;
    layout.start_offset = align64(all * k);
    layout.scales_offset = layout.start_offset + align64(run_floats);
    layout.sums_offset = layout.scales_offset + align64(all * (k / kActivationRun) * 4);
    const int64_t pairs = shape.minimum_run != 0 ? all * (k / shape.minimum_run) / 2 * 4 : 0;
    layout.bytes = layout.sums_offset + (pairs != 0 ? pairs : shape.has_minima ? run_floats : 0);
    return layout;
}

PackedRows PackedLayout::view(const void* base, int64_t rows, int64_t k) const {
    const auto* bytes = static_cast<const uint8_t*>(base);
    return {reinterpret_cast<const int8_t*>(bytes),
            reinterpret_cast<const int32_t*>(bytes + start_offset),
            reinterpret_cast<const float*>(bytes + scales_offset),
            reinterpret_cast<const float*>(bytes + sums_offset),
            rows,
            k};
}

int64_t packed_float_bytes(int64_t rows, int64_t k, int tile_rows) {
    return padded(rows, tile_rows) * k * 4;
}

void pack_rows(const Activations& x, int64_t begin, int64_t end, const PanelShape& shape,
               const PackedRows& out) {
    each_tile(begin, end, x.rows, shape.tile_rows,
              [&](int64_t first, int count, int valid) { pack_tile(x, first, count, valid, shape, out); });
}

void pack_float_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out) {
    const int64_t k = out.k;
    each_tile(begin, end, out.rows, tile_rows, [&](int64_t first, int count, int valid) {
        float* to = const_cast<float*>(out.x) + first * k;
        for (int64_t at = 0; at < k; at += kPiece)
            for (int r = 0; r < count; ++r) {
                const float* from = x + (first + r) * k;
                const int64_t end_of_piece = std::min(k, at + kPiece);
                for (int64_t i = at; i < end_of_piece; ++i) to[i * count + r] = r < valid ? from[i] : 0.0f;
            }
    });
}

int64_t packed_bf16_bytes(int64_t rows, int64_t k, int tile_rows) {
    return padded(rows, tile_rows) * ((k + 1) / 2) * 4;
}

void pack_bf16_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out) {
    const int64_t k = out.k, words = (k + 1) / 2;
    each_tile(begin, end, out.rows, tile_rows, [&](int64_t first, int count, int valid) {
        auto* to = reinterpret_cast<uint32_t*>(const_cast<float*>(out.x)) + first * words;
        for (int64_t at = 0; at < words; at += kPiece) {
            const int64_t here = std::min(kPiece, words - at), pairs = std::min(here, k / 2 - at);
            for (int r = 0; r < count; ++r) {
                uint32_t piece[kPiece] = {};
                if (r < valid) {
                    const float* from = x + (first + r) * k + 2 * at;
                    for (int64_t i = 0; i < pairs; ++i) piece[i] = pair_of_bf16(from[2 * i], from[2 * i + 1]);
                    if (pairs < here) piece[pairs] = pair_of_bf16(from[2 * pairs], 0.0f);
                }
                for (int64_t i = 0; i < here; ++i) to[(at + i) * count + r] = piece[i];
            }
        }
    });
}

}  // namespace bq
