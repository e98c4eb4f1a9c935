// What the fused dot of super-blocks needs of AVX-VNNI: vpdpwssd adds the scaled pairs up, and where all
// scales are 1 vpdpbusd does all of it. What is not here is as in block_avx2.hpp.
#pragma once

#include "simd/block_avx2.hpp"

namespace bq {
namespace {

template <FormatId id, bool kUnitScale = SuperBlock<Avx2, id>::kUnitScale>
struct DotAvxVnni : DotAvx2<id> {
    template <class Chunk>
    static BQ_INLINE void add(__m256i& sum, bool first, const Chunk& c, const int8_t* a, __m256i factor) {
        sum = _mm256_dpwssd_avx_epi32(first ? _mm256_setzero_si256() : sum, DotAvx2<id>::pairs(c, a), factor);
    }
};

template <FormatId id>
struct DotAvxVnni<id, true> : DotAvx2<id> {
    static BQ_INLINE void add(__m256i& sum, bool first, __m256i c, const int8_t* a, __m256i) {
        sum = _mm256_dpbusd_avx_epi32(first ? _mm256_setzero_si256() : sum, c, Avx2::load(a));
    }
    template <class Opened>
    static BQ_INLINE __m256i finish(const Opened&, __m256i sum, const int16_t* sums) {
        return _mm256_sub_epi32(sum, _mm256_madd_epi16(Avx2::load(sums), _mm256_set1_epi16(1)));
    }
};

struct BlockAvxVnni : BlockAvx2 {
    template <FormatId id>
    using Dot = DotAvxVnni<id>;
};

}  // namespace
}  // namespace bq
