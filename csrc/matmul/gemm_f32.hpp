// y = x * w^T for many rows with float activations: a panel of weights is decoded once to floats and
// multiplied with every tile of rows. The exact path, and the only one of float weights.
#pragma once

#include "decode/decode.hpp"
#include "matmul/packed_rows.hpp"
#include "matmul/tile.hpp"

namespace bq {
namespace {

inline constexpr int kFloatDepth = 256;  // elements of a panel of floats, at most

// How rows of a format become floats: in pieces of whole blocks, of so many elements and bytes.
struct FloatSource {
    void (*decode)(const uint8_t* w, float* out, int64_t k);
    int64_t elements, bytes;

    BQ_INLINE int64_t bytes_of(int64_t k) const { return k / elements * bytes; }
};
template <class S, FormatId id>
constexpr FloatSource float_source() {
    constexpr auto entry = registry::entry(id);
    if constexpr (id == FormatId::F32)
        return {copy_floats<4, float>, entry.block_size, entry.type_size};
    else if constexpr (entry.is_float())
        return {decode_floats<S, id, OutF32>, entry.block_size, entry.type_size};
    else
        return {decode_row_of<S, id, OutF32>, entry.block_size, entry.type_size};
}

// Weights [depth][lane] of the rows begin to begin + kLanes - 1; rows from `end` on repeat the last one.
template <class S, class T>
BQ_NOINLINE void fill_float_panel(const FloatSource& source, const uint8_t* w, int64_t row_bytes,
                                  int64_t begin, int64_t end, int64_t at, int depth, float* panel) {
    alignas(64) float rows[8][kFloatDepth];
    for (int lane = 0; lane < T::kLanes; lane += 8) {
        for (int i = 0; i < 8; ++i) {
            const int64_t n = begin + lane + i < end ? begin + lane + i : end - 1;
            source.decode(w + n * row_bytes + source.bytes_of(at), rows[i], depth);
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

template <class S, class T, int kDepth>
BQ_NOINLINE void multiply_float_panels(const FloatSource& source, const uint8_t* w, int64_t w_row_bytes,
                                       const PanelRange& range, const PackedFloats& x) {
    alignas(64) float panel[kDepth * T::kLanes];
    const int64_t bytes = source.bytes_of(kDepth);
    multiply_panels<T, T::kFloatRows, kDepth>(
        range,
        [&](int64_t n, int64_t at) BQ_INLINE_LAMBDA {
            const uint8_t* const from = w + n * w_row_bytes + source.bytes_of(at);
            for (int64_t i = 0; i < bytes; i += 64) prefetch<1>(from + i);
        },
        [&](int64_t n, int64_t at, int depth) BQ_INLINE_LAMBDA {
            fill_float_panel<S, T>(source, w, w_row_bytes, n, range.end, at, depth, panel);
        },
        [&](int64_t r, auto rows, int64_t at, int depth, float (*sums)[T::kLanes]) BQ_INLINE_LAMBDA {
            multiply_float_tile<T, decltype(rows)::value>(panel, x, r, at, depth, sums);
        });
}

template <class S, class T, FormatId id>
void matmul_float_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                         const PackedFloats& x, float* y, int64_t ldy) {
    // A panel takes half of the level-1 cache, where the format's blocks allow.
    constexpr FloatSource source = float_source<S, id>();
    constexpr int kDepth = source.elements <= 128 && T::kLanes > 16 ? 128 : kFloatDepth;
    multiply_float_panels<S, T, kDepth>(source, w, w_row_bytes,
                                        {begin, end, x.rows, x.k, x.block_rows, y, ldy}, x);
}

}  // namespace
}  // namespace bq
