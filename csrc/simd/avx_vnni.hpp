// The vocabulary where the CPU has AVX-VNNI but not AVX-512 (Alder Lake and later): vpdpbusd
// and vpdpwssd on AVX2's registers. What is not here is as in AVX2.
#pragma once

#include "simd/avx2.hpp"

namespace bq {
namespace {

struct AvxVnni : Avx2 {
    static BQ_INLINE Ints dot_unsigned(Bytes w, Bytes a) {
        return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w, a);
    }
    static BQ_INLINE Ints dot_signed(Bytes w, Bytes a) {
        return dot_unsigned(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    }
};

}  // namespace
}  // namespace bq
