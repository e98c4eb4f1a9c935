// y = x * w^T for bfloat16 weights and many rows of activations that are rounded to bfloat16 too, with
// vdpbf16ps: panels as in gemm_f32.hpp, but two elements to a 32-bit word.
#pragma once

#include "matmul/packed_rows.hpp"
#include "matmul/tile.hpp"
#include "simd/avx512.hpp"
#include "simd/tile_avx512.hpp"

namespace bq {
namespace {

struct GemmBf16 {
    using T = TileAvx512;
    static constexpr int kLanes = T::kLanes, kRows = T::kFloatRows;
    static constexpr int kDepth = 256, kPairs = kDepth / 2;

    // Weights [element / 2][lane] of the rows n to n + kLanes - 1; rows from `end` on repeat the last one.
    static BQ_NOINLINE void fill(const uint8_t* w, int64_t row_bytes, int64_t n, int64_t end, int64_t at,
                                 int depth, uint32_t* panel) {
        for (int lane = 0; lane < kLanes; lane += 8) {
            const uint8_t* rows[8];
            for (int i = 0; i < 8; ++i)
                rows[i] = w + (n + lane + i < end ? n + lane + i : end - 1) * row_bytes + 2 * at;
            for (int e = 0; e < depth; e += 16) {
                __m256i columns[8];
                for (int i = 0; i < 8; ++i) {
                    const int left = depth - e;
                    if (left >= 16)
                        columns[i] = Avx2::load(rows[i] + 2 * e);
                    else
                        columns[i] = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1 << left) - 1),
                                                              rows[i] + 2 * e);
                }
                Avx2::transpose(columns, reinterpret_cast<uint8_t*>(panel + e / 2 * kLanes + lane),
                                4 * kLanes, 8);
            }
        }
    }

    // `next` is the next tile, which is asked for.
    template <int kCount>
    static BQ_NOINLINE void multiply(const uint32_t* panel, const uint32_t* x, const uint32_t* next,
                                     int pairs, bool is_first, float (*sums)[kLanes]) {
        T::Floats sum[kCount];
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::zero(); });
        for (int p = 0; p < pairs; ++p) {
            prefetch<1>(reinterpret_cast<const uint8_t*>(next + p * kCount));
            const __m512bh low = reinterpret(_mm512_load_si512(panel + p * kLanes));
            const __m512bh high = reinterpret(_mm512_load_si512(panel + p * kLanes + kLanes / 2));
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const __m512bh pair = reinterpret(_mm512_set1_epi32(load_as<int32_t>(x + p * kCount + r)));
                sum[r] = {_mm512_dpbf16_ps(sum[r].v[0], low, pair),
                          _mm512_dpbf16_ps(sum[r].v[1], high, pair)};
            });
        }
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
            T::store(sums[r], is_first ? sum[r] : T::add(T::load(sums[r]), sum[r]));
        });
    }

    static BQ_INLINE __m512bh reinterpret(__m512i a) { return load_as<__m512bh>(&a); }
};

static void matmul_bf16_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                               const PackedFloats& x, float* y, int64_t ldy) {
    using G = GemmBf16;
    using T = G::T;
    alignas(64) uint32_t panel[G::kPairs * G::kLanes];
    const auto* words = reinterpret_cast<const uint32_t*>(x.x);
    const int64_t words_of_row = (x.k + 1) / 2;
    multiply_panels<T, G::kRows, G::kDepth>(
        {begin, end, x.rows, x.k, x.block_rows, y, ldy},
        [&](int64_t n, int64_t at)
            BQ_INLINE_LAMBDA { prefetch<2 * G::kDepth>(w + n * w_row_bytes + 2 * at); },
        [&](int64_t n, int64_t at, int depth)
            BQ_INLINE_LAMBDA { G::fill(w, w_row_bytes, n, end, at, depth, panel); },
        [&](int64_t r, auto rows, int64_t at, int depth, float (*sums)[G::kLanes]) BQ_INLINE_LAMBDA {
            constexpr int kCount = decltype(rows)::value;
            const uint32_t* tile = words + r * words_of_row + at / 2 * kCount;
            G::multiply<kCount>(panel, tile, tile + kCount * words_of_row, (depth + 1) / 2, at == 0, sums);
        });
}

}  // namespace
}  // namespace bq
