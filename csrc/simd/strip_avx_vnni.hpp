// What the products of strips need of AVX-VNNI; each operation is described in strip_avx512.hpp.
#pragma once

#include "simd/strip_avx2.hpp"

namespace bq {
namespace {

struct StripAvxVnni : StripAvx2 {
    static constexpr bool kRaised = true, kLeavesPlaces = true;
    static constexpr bool kSumsWords = false;

    static BQ_INLINE Bytes raised(Bytes a) { return _mm256_xor_si256(a, splat(0x80)); }
    template <int kShift>
    static BQ_INLINE Ints down(Ints a) {
        return _mm256_srai_epi32(a, kShift);
    }
    static BQ_INLINE Ints dot_pair(Ints sum, Ints words, const int16_t* two) {
        return _mm256_dpwssd_avx_epi32(sum, words, _mm256_set1_epi32(load_as<int32_t>(two)));
    }
    template <int kTop, int kSteps>
    static BQ_INLINE Ints dots(const Bytes* u, const int8_t* x, Ints sum) {
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            sum = _mm256_dpbusd_avx_epi32(sum, u[i], _mm256_set1_epi32(load_as<int32_t>(x + 4 * i)));
        });
        return sum;
    }
};

}  // namespace
}  // namespace bq
