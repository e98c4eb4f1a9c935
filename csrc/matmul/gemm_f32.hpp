// y = x * w^T for many rows with float activations: a panel of weights is decoded once to floats and
// multiplied with every tile of rows. The exact path, and the only one of float weights.
#pragma once

#include "decode/decode.hpp"
#include "matmul/packed_rows.hpp"
#include "matmul/tile.hpp"

namespace bq {
namespace {

inline constexpr int kFloatDepth = 256;  // elements of a panel of floats, at most

// A panel takes half of the level-1 cache, where the format's blocks allow.
template <class T, FormatId id>
constexpr int float_depth() {
    return registry::entry(id).block_size <= 128 && T::kLanes > 16 ? 128 : kFloatDepth;
}

// Elements at to at + depth - 1 of one row, decoded.
template <class S, FormatId id>
BQ_INLINE void decode_piece(const uint8_t* row, int64_t at, int depth, float* out) {
    constexpr int kElements = registry::entry(id).block_size, kBytes = registry::entry(id).type_size;
    const uint8_t* from = row + at / kElements * kBytes;
    if constexpr (id == FormatId::F32)
        copy_floats<4, float>(from, out, depth);
    else if constexpr (registry::entry(id).is_float())
        decode_floats<S, id, OutF32>(from, out, depth);
    else
        decode_row_of<S, id, OutF32>(from, out, depth);
}

// Weights [depth][lane] of the rows begin to begin + kLanes - 1; rows from `end` on repeat the last one.
template <class S, class T, FormatId id>
BQ_NOINLINE void fill_float_panel(const uint8_t* w, int64_t row_bytes, int64_t begin, int64_t end, int64_t at,
                                  int depth, float* panel) {
    alignas(64) float rows[8][kFloatDepth];
    for (int lane = 0; lane < T::kLanes; lane += 8) {
        for (int i = 0; i < 8; ++i) {
            const int64_t n = begin + lane + i < end ? begin + lane + i : end - 1;
            decode_piece<S, id>(w + n * row_bytes, at, depth, rows[i]);
        }
        for (int e = 0; e < depth; e += 8) {
            typename S::Bytes columns[8];
            for (int i = 0; i < 8; ++i) columns[i] = S::load(rows[i] + e);
            S::transpose(columns, reinterpret_cast<uint8_t*>(panel + e * T::kLanes + lane), 4 * T::kLanes,
                         depth - e < 8 ? depth - e : 8);
        }
    }
}

// One panel against the tile of kCount rows from `first` on. The sums of a panel start anew, which keeps
// rounding errors small.
template <class T, int kCount>
BQ_NOINLINE void multiply_float_tile(const float* panel, const PackedFloats& x, int64_t first, int64_t at,
                                     int depth, float (*sums)[T::kLanes]) {
    using Floats = typename T::Floats;
    const float* a = x.x + first * x.k + at * kCount;
    const float* next =
        a + kCount * x.k;  // the next tile: not beside this one, so the CPU would not foresee it
    Floats sum[kCount];
    unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::zero(); });
    for (int e = 0; e < depth; ++e) {
        prefetch<1>(reinterpret_cast<const uint8_t*>(next + e * kCount));
        const Floats w = T::load(panel + e * T::kLanes);
        unroll<kCount>([&](auto r)
                           BQ_INLINE_LAMBDA { sum[r] = T::mul_add(w, T::splat(a[e * kCount + r]), sum[r]); });
    }
    unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
        T::store(sums[r], at == 0 ? sum[r] : T::add(T::load(sums[r]), sum[r]));
    });
}

template <class S, class T, FormatId id>
void matmul_float_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                         const PackedFloats& x, float* y, int64_t ldy) {
    constexpr int kDepth = float_depth<T, id>();
    alignas(64) float panel[kDepth * T::kLanes];
    constexpr int kElements = registry::entry(id).block_size, kBytes = registry::entry(id).type_size;
    multiply_panels<T, T::kFloatRows, kDepth, kDepth / kElements * kBytes>(
        {begin, end, x.rows, x.k, y, ldy},
        [&](int64_t n, int64_t at) BQ_INLINE_LAMBDA { return w + n * w_row_bytes + at / kElements * kBytes; },
        [&](int64_t n, int64_t at, int depth)
            BQ_INLINE_LAMBDA { fill_float_panel<S, T, id>(w, w_row_bytes, n, end, at, depth, panel); },
        [&](int64_t r, auto rows, int64_t at, int depth, float (*sums)[T::kLanes]) BQ_INLINE_LAMBDA {
            multiply_float_tile<T, decltype(rows)::value>(panel, x, r, at, depth, sums);
        });
}

}  // namespace
}  // namespace bq
