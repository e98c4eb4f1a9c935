// What the product of many rows needs of AVX-512 VNNI; each operation is described in tile_scalar.hpp.
//   dots       vpdpbusd: unsigned weights in a register, four activations broadcast from memory
//   add_words  vpdpwssd
// Two vectors of weights side by side, so that a broadcast serves two dots.
#pragma once

#include "simd/avx512.hpp"

namespace bq {
namespace {

struct TileAvx512 {
    struct Ints {
        __m512i v[2];
    };
    struct Floats {
        __m512 v[2];
    };
    static constexpr int kLanes = 32;
    static constexpr int kRows = 6;
    static constexpr int kFloatRows = 7;
    static constexpr bool kRowsInLanes = false;
    static constexpr int kLargestWeight = 255;
    static constexpr bool kSignedWeights = false;
    static constexpr bool kIntegerBlocks = true, kIntegerScales = false;

    static BQ_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)}; }
    static BQ_INLINE void store(float* p, Floats a) {
        _mm512_storeu_ps(p, a.v[0]);
        _mm512_storeu_ps(p + 16, a.v[1]);
    }
    static BQ_INLINE Floats zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
    static BQ_INLINE Floats splat(float value) {
        const __m512 both = _mm512_set1_ps(value);
        return {both, both};
    }
    static BQ_INLINE Floats mul(Floats a, Floats b) {
        return {_mm512_mul_ps(a.v[0], b.v[0]), _mm512_mul_ps(a.v[1], b.v[1])};
    }
    static BQ_INLINE Floats add(Floats a, Floats b) {
        return {_mm512_add_ps(a.v[0], b.v[0]), _mm512_add_ps(a.v[1], b.v[1])};
    }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) {
        return {_mm512_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm512_fmadd_ps(a.v[1], b.v[1], c.v[1])};
    }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) {
        return {_mm512_fnmadd_ps(a.v[0], b.v[0], c.v[0]), _mm512_fnmadd_ps(a.v[1], b.v[1], c.v[1])};
    }
    static BQ_INLINE Floats to_floats(Ints a) {
        return {_mm512_cvtepi32_ps(a.v[0]), _mm512_cvtepi32_ps(a.v[1])};
    }

    static BQ_INLINE Ints splat_ints(int32_t value) {
        const __m512i both = _mm512_set1_epi32(value);
        return {both, both};
    }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = splat_ints(start[r]); });
        add_dots<kSteps>(w, a, sum);
    }

    template <int kSteps, int kCount>
    static BQ_INLINE void add_dots(const uint8_t* w, const int8_t* a, Ints (&sum)[kCount]) {
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const __m512i low = _mm512_loadu_si512(w + 128 * i), high = _mm512_loadu_si512(w + 128 * i + 64);
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const __m512i four = _mm512_set1_epi32(load_as<int32_t>(a + 4 * (kCount * i + r)));
                sum[r] = {_mm512_dpbusd_epi32(sum[r].v[0], low, four),
                          _mm512_dpbusd_epi32(sum[r].v[1], high, four)};
            });
        });
    }

    template <int kCount>
    static BQ_INLINE void add_words(const int16_t* w, const int16_t* a, Ints (&sum)[kCount]) {
        const __m512i low = _mm512_loadu_si512(w), high = _mm512_loadu_si512(w + kLanes);
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
            const __m512i two = _mm512_set1_epi32(load_as<int32_t>(a + 2 * r));
            sum[r] = {_mm512_dpwssd_epi32(sum[r].v[0], low, two),
                      _mm512_dpwssd_epi32(sum[r].v[1], high, two)};
        });
    }
};

}  // namespace
}  // namespace bq
