// y = x * w^T for bfloat16 weights and many rows of activations that are bfloat16 values too (kept as
// floats), with vdpbf16ps: panels as in gemm_f32.hpp, but two elements to a 32-bit word.
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
    static constexpr int kTiles = 8;  // of activations that are converted at a time: within the level-2 cache

    // The upper halves of floats that are bfloat16 values, for elements 2 i and 2 i + 1 of a row in a word.
    static BQ_INLINE __m512i pairs(__m512 even, __m512 odd) {
        return _mm512_or_si512(
            _mm512_srli_epi32(_mm512_castps_si512(even), 16),
            _mm512_and_si512(_mm512_castps_si512(odd), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }

    // A tile of kCount rows, [element][row], to pairs [element / 2][row].
    template <int kCount>
    static BQ_INLINE void pack(const float* x, int depth, uint32_t* out) {
        constexpr __mmask16 rows = (1 << kCount) - 1;
        for (int e = 0; e < depth; e += 2) {
            const __m512 even = _mm512_maskz_loadu_ps(rows, x + e * kCount);
            const __m512 odd =
                e + 1 < depth ? _mm512_maskz_loadu_ps(rows, x + (e + 1) * kCount) : _mm512_setzero_ps();
            _mm512_mask_storeu_epi32(out + e / 2 * kCount, rows, pairs(even, odd));
        }
    }

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

    template <int kCount>
    static BQ_NOINLINE void multiply(const uint32_t* panel, const uint32_t* a, int depth, bool is_first,
                                     int64_t rows, int lanes, float* y, int64_t ldy) {
        __m512 sum[kCount];
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::zero(); });
        for (int p = 0; p < (depth + 1) / 2; ++p) {
            const __m512bh w = reinterpret(_mm512_load_si512(panel + p * kLanes));
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const __m512i x = _mm512_set1_epi32(load_as<int32_t>(a + p * kCount + r));
                sum[r] = _mm512_dpbf16_ps(sum[r], w, reinterpret(x));
            });
        }
        alignas(64) float out[kCount][kLanes];
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { T::store(out[r], sum[r]); });
        add_tile<T, kCount>(out, rows, is_first, lanes, y, ldy);
    }

    static BQ_INLINE __m512bh reinterpret(__m512i a) { return load_as<__m512bh>(&a); }

    // body(first, count, index) for tiles from row `from` on, at most kTiles; returns the row after them.
    template <class Body>
    static BQ_INLINE int64_t each_tile(int64_t from, int64_t rows, Body&& body) {
        int64_t r = from;
        for (int i = 0; i < kTiles && r < rows; ++i) {
            const int count = next_tile(rows - r, kRows);
            if (count == kRows)
                body(r, Index<kRows>{}, i);
            else
                body(r, Index<kSmallTile>{}, i);
            r += count;
        }
        return r;
    }
};

static void matmul_bf16_panels(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                               const PackedFloats& x, float* y, int64_t ldy) {
    using G = GemmBf16;
    alignas(64) uint32_t panel[G::kPairs * G::kLanes];
    alignas(64) uint32_t tiles[G::kTiles][G::kPairs * G::kRows];
    for (int64_t from = 0, next; from < x.rows; from = next) {
        next = from;
        for (int64_t at = 0; at < x.k; at += G::kDepth) {
            const int depth = static_cast<int>(x.k - at < G::kDepth ? x.k - at : G::kDepth);
            next = G::each_tile(from, x.rows, [&](int64_t r, auto count, int i) BQ_INLINE_LAMBDA {
                constexpr int kCount = decltype(count)::value;
                G::pack<kCount>(x.x + r * x.k + at * kCount, depth, tiles[i]);
            });
            for (int64_t n = begin; n < end; n += G::kLanes) {
                const int lanes = static_cast<int>(end - n < G::kLanes ? end - n : G::kLanes);
                G::fill(w, w_row_bytes, n, end, at, depth, panel);
                G::each_tile(from, x.rows, [&](int64_t r, auto count, int i) BQ_INLINE_LAMBDA {
                    G::multiply<decltype(count)::value>(panel, tiles[i], depth, at == 0, x.rows - r, lanes,
                                                        y + r * ldy + n, ldy);
                });
            }
        }
    }
}

}  // namespace
}  // namespace bq
