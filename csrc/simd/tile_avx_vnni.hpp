// What the product of many rows needs of AVX-VNNI; each operation is described in tile_scalar.hpp.
//   dots  vpdpbusd: any unsigned weights of eight bits
#pragma once

#include "simd/tile_avx2.hpp"

namespace bq {
namespace {

struct TileAvxVnni : TileAvx2 {
    static constexpr int kLargestWeight = 255;

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        for (int r = 0; r < kCount; ++r) sum[r] = _mm256_set1_epi32(start[r]);
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * i));
            for (int r = 0; r < kCount; ++r)
                sum[r] = _mm256_dpbusd_avx_epi32(
                    sum[r], u, _mm256_set1_epi32(load_as<int32_t>(a + 4 * (kCount * i + r))));
        });
    }
};

}  // namespace
}  // namespace bq
