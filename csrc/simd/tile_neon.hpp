// What the product of many rows needs of NEON; each operation is described in tile_scalar.hpp.
//   dot  sdot with BQ_NEON_DOTPROD; else smull, smull2 and pairwise sums
#pragma once

#include "simd/neon.hpp"

namespace bq {
namespace {

struct TileNeon {
    using Ints = Neon::Ints;
    using Floats = Neon::Floats;
    static constexpr int kLanes = 8;
    static constexpr int kRows = 6;
    static constexpr int kFloatRows = 8;
    static constexpr bool kRowsInLanes = false;
    static constexpr int kLargestWeight = 127;
    static constexpr bool kSignedWeights = true;
    static constexpr bool kIntegerBlocks = false, kIntegerScales = false;

    static BQ_INLINE Floats load(const float* p) { return Neon::load8(p); }
    static BQ_INLINE void store(float* p, Floats a) { Neon::store8(p, a); }
    static BQ_INLINE Floats zero() { return Neon::zero(); }
    static BQ_INLINE Floats splat(float value) { return Neon::splat8(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return Neon::mul(a, b); }
    static BQ_INLINE Floats add(Floats a, Floats b) { return Neon::add(a, b); }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return Neon::mul_add(a, b, c); }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return Neon::mul_sub_from(a, b, c); }
    static BQ_INLINE Floats to_floats(Ints a) { return Neon::to_floats(a); }

    // Four products added to each of four lanes.
    static BQ_INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t a) {
#if defined(BQ_NEON_DOTPROD)
        return vdotq_s32(sum, w, a);
#else
        const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
        const int16x8_t high = vmull_high_s8(w, a);
        return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
    }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        for (int r = 0; r < kCount; ++r) sum[r] = {vdupq_n_s32(start[r]), vdupq_n_s32(start[r])};
        unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA {
            const int8x16_t low = vreinterpretq_s8_u8(vld1q_u8(w + 32 * i));
            const int8x16_t high = vreinterpretq_s8_u8(vld1q_u8(w + 32 * i + 16));
            for (int r = 0; r < kCount; ++r) {
                const int8x16_t x =
                    vreinterpretq_s8_s32(vdupq_n_s32(load_as<int32_t>(a + 4 * (kCount * i + r))));
                sum[r] = {dot(sum[r].low, low, x), dot(sum[r].high, high, x)};
            }
        });
    }
};

}  // namespace
}  // namespace bq
