// What the product of many rows needs of NEON with i8mm; each operation is described in tile_scalar.hpp.
//   dots  smmla: two weight rows by two activation rows, eight products each
#pragma once

#include "simd/tile_neon.hpp"

namespace bq {
namespace {

struct TileI8mm : TileNeon {
    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        static_assert(kSteps % 2 == 0 && kCount % 2 == 0);
        // For two activation rows and two weight rows 2 i and 2 i + 1: both weight rows with the first, then
        // with the second.
        int32x4_t squares[kCount / 2][4];
        for (int r = 0; r < kCount / 2; ++r)
            for (int i = 0; i < 4; ++i) squares[r][i] = vdupq_n_s32(0);
        unroll<kSteps / 2>([&](auto step) BQ_INLINE_LAMBDA {
            // Eight elements of two weight rows, from two steps of four elements of eight rows.
            const uint8_t* from = w + 64 * step;
            int8x16_t pairs[4];
            for (int i = 0; i < 2; ++i) {
                const int32x4_t first = vreinterpretq_s32_u8(vld1q_u8(from + 16 * i));
                const int32x4_t last = vreinterpretq_s32_u8(vld1q_u8(from + 32 + 16 * i));
                pairs[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(first, last));
                pairs[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(first, last));
            }
            const int8_t* x = a + 8 * kCount * step;
            for (int r = 0; r < kCount / 2; ++r) {
                const int32x2_t first = vreinterpret_s32_s8(vld1_s8(x + 8 * r));
                const int32x2_t last = vreinterpret_s32_s8(vld1_s8(x + 4 * kCount + 8 * r));
                const int8x16_t two =
                    vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(first, last), vzip2_s32(first, last)));
                for (int i = 0; i < 4; ++i) squares[r][i] = vmmlaq_s32(squares[r][i], two, pairs[i]);
            }
        });
        for (int r = 0; r < kCount / 2; ++r) {
            const auto row = [&](bool second, int i) BQ_INLINE_LAMBDA {
                const int64x2_t low = vreinterpretq_s64_s32(squares[r][2 * i]);
                const int64x2_t high = vreinterpretq_s64_s32(squares[r][2 * i + 1]);
                const int32x4_t four =
                    vreinterpretq_s32_s64(second ? vzip2q_s64(low, high) : vzip1q_s64(low, high));
                return vaddq_s32(four, vdupq_n_s32(start[2 * r + (second ? 1 : 0)]));
            };
            sum[2 * r] = {row(false, 0), row(false, 1)};
            sum[2 * r + 1] = {row(true, 0), row(true, 1)};
        }
    }
};

}  // namespace
}  // namespace bq
