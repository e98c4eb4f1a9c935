// What the fused dot of super-blocks (csrc/matmul/dot_blocks.hpp) needs of AVX2:
//   kChunk         elements that are multiplied at once
//   kEightRows     whether a weight row may meet five to eight activation rows at a time too
//   spread, factor the integer scales, laid out so that factor(spread, j) has those of chunk j, one for each
//                  pair
//   Dot<id>        Opened, what is made of kTogether super-blocks at once; chunk(opened, which, b, j), the
//                  integers kOffset above the values; scales(opened, which, b);
//                  add(sum, first, chunk, a, factor)
// A Dot may have besides:
//   Opened::open(b)            instead of a constructor: a super-block is opened before the one ahead of it
//                              is multiplied
//   factor(opened, which, j)   instead of scales, spread and factor
//   finish(opened, sum, sums)  the integers of a super-block, given what was added up and the sums of the
//                              activations
#pragma once

#include "simd/block_dot_avx2.hpp"
#include "simd/block_grids_avx2.hpp"
#include "simd/block_ternary_avx2.hpp"

namespace bq {
namespace {

struct BlockAvx2 {
    using Base = Avx2;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kChunk = 32;
    static constexpr bool kEightRows = true;

    static BQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    static BQ_INLINE float total(Floats a) { return Avx2::sum(a); }

    static BQ_INLINE __m256i spread(__m256i scales) { return spread_scales(scales); }
    static BQ_INLINE __m256i factor(__m256i spread, int j) { return spread_factor(spread, j); }

    template <FormatId id>
    using Dot = DotAvx2<id>;
};

}  // namespace
}  // namespace bq
