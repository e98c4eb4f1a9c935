// What the product of many rows needs of AVX-VNNI; each operation is described in tile_scalar.hpp.
//   dots  vpdpbusd: any unsigned weights of eight bits
#pragma once

#include "simd/tile_avx2.hpp"

namespace bq {
namespace {

struct TileAvxVnni : TileAvx2 {
    static constexpr int kLargestWeight = 255;
    static constexpr bool kIntegerScales = false;

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { sum[r] = splat_ints(start[r]); });
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const Ints u = load_bytes(w + 64 * i);
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const __m256i four = _mm256_set1_epi32(load_as<int32_t>(a + 4 * (kCount * i + r)));
                for (int h = 0; h < 2; ++h) sum[r].v[h] = _mm256_dpbusd_avx_epi32(sum[r].v[h], u.v[h], four);
            });
        });
    }
};

}  // namespace
}  // namespace bq
