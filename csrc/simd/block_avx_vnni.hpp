// What the fused dot of super-blocks needs of AVX-VNNI: vpdpwssd adds the scaled pairs up, and where all
// scales are 1 vpdpbusd does all of it. What is not here is as in block_avx2.hpp.
#pragma once

#include "simd/block_avx2.hpp"

namespace bq {
namespace {

struct BlockAvxVnni : BlockAvx2 {
    template <FormatId id>
    struct Dot : BlockAvx2::Dot<id> {
        using F = Unpack<Avx2, id>;
        static BQ_INLINE void add(Ints& sum, bool first, __m256i c, const int8_t* a, __m256i factor) {
            __m256i x = Avx2::load(a);
            if constexpr (F::kSigned) {
                x = _mm256_sign_epi8(x, c);
                c = _mm256_abs_epi8(c);
            }
            const __m256i before = first ? _mm256_setzero_si256() : sum;
            sum = SuperBlock<Avx2, id>::kUnitScale
                      ? _mm256_dpbusd_avx_epi32(before, c, x)
                      : _mm256_dpwssd_avx_epi32(before, _mm256_maddubs_epi16(c, x), factor);
        }
    };
};

}  // namespace
}  // namespace bq
