// Included ahead of the AVX-VNNI kernels: its two instructions in AVX2, so that their logic is tested on any
// CPU.
#pragma once

#include <immintrin.h>

namespace emulated {

// Four products of unsigned and signed bytes to each lane.
static inline __m256i dpbusd(__m256i sum, __m256i u, __m256i s) {
    const __m256i even_u = _mm256_and_si256(u, _mm256_set1_epi16(255)), odd_u = _mm256_srli_epi16(u, 8);
    const __m256i even_s = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), odd_s = _mm256_srai_epi16(s, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_u, even_s));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd_u, odd_s));
}
// Two products of signed words.
static inline __m256i dpwssd(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

}  // namespace emulated

#define _mm256_dpbusd_avx_epi32 emulated::dpbusd
#define _mm256_dpwssd_avx_epi32 emulated::dpwssd
