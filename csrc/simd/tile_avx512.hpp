// What the product of many rows needs of AVX-512 VNNI; each operation is described in tile_scalar.hpp.
//   dot  vpdpbusd: unsigned weights in a register, four activations broadcast from memory
#pragma once

#include "simd/avx512.hpp"

namespace bq {
namespace {

struct TileAvx512 {
    using Weights = __m512i;
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr int kLanes = 16;
    static constexpr int kRows = 12;
    static constexpr int kFloatRows = 14;
    static constexpr int kLargestWeight = 255;
    static constexpr bool kSignedWeights = false;

    static BQ_INLINE Weights load_weights(const void* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static BQ_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
    static BQ_INLINE Floats zero() { return _mm512_setzero_ps(); }
    static BQ_INLINE Floats splat(float value) { return _mm512_set1_ps(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static BQ_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        for (int r = 0; r < kCount; ++r) sum[r] = _mm512_set1_epi32(start[r]);
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const Weights u = load_weights(w + 64 * i);
            for (int r = 0; r < kCount; ++r)
                sum[r] = _mm512_dpbusd_epi32(sum[r], u,
                                             _mm512_set1_epi32(load_as<int32_t>(a + 4 * (kCount * i + r))));
        });
    }
};

}  // namespace
}  // namespace bq
