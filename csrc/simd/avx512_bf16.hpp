// AVX-512 with BF16 (Zen 4, Cooper Lake, Sapphire Rapids and later): rounding to bfloat16 is one instruction.
// It takes subnormal numbers for zero, so it is for values that have none.
#pragma once

#include "simd/avx512.hpp"

namespace bq {
namespace {

struct Avx512Bf16 : Avx512 {
    static BQ_INLINE __m512i table_bf16_plain_nans(Wide a, Wide b) {
        return (__m512i)_mm512_cvtne2ps_pbh(b, a);
    }
    static BQ_INLINE void store_bf16_plain_nans(uint16_t* p, Wide a, Wide b) {
        _mm512_storeu_si512(p, table_bf16_plain_nans(a, b));
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
    }
};

}  // namespace
}  // namespace bq
