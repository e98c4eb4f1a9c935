// The vocabulary in NEON for aarch64. What each operation does is written in scalar.hpp.
//   dot_*   sdot with BQ_NEON_DOTPROD (Armv8.2 and later), else smull, smlal: 2 * 128 * 127 fits int16
//   lookup  tbl
// Weights are signed here: no format's unsigned integers exceed 127.
#pragma once

#include <arm_neon.h>

#include "formats/microscaling.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

struct Neon {
    struct Bytes {
        uint8x16_t low, high;
    };
    struct Ints {
        int32x4_t low, high;
    };
    struct Floats {
        float32x4_t low, high;
    };
    static constexpr int kWide = 8;
    using Wide = Floats;
    static constexpr bool kOneWeightRow = false;

    template <int kCount, class Body>
    static BQ_INLINE void repeat(Body&& body) {
        unroll<kCount>(body);
    }

    // ---- bytes
    static BQ_INLINE Bytes load(const void* p) {
        const uint8_t* bytes = static_cast<const uint8_t*>(p);
        return {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
    }
    static BQ_INLINE Bytes splat(int value) {
        const uint8x16_t v = vdupq_n_u8(static_cast<uint8_t>(value));
        return {v, v};
    }
    static BQ_INLINE Bytes load_nibbles(const uint8_t* p) {
        const uint8x16_t v = vld1q_u8(p);
        return {vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4)};
    }
    static BQ_INLINE Bytes bits(uint32_t set, int value) {
        const Bytes mask = bit_mask(set);
        const uint8x16_t v = vdupq_n_u8(static_cast<uint8_t>(value));
        return {vandq_u8(mask.low, v), vandq_u8(mask.high, v)};
    }
    // All ones in the bytes whose bit is set.
    static BQ_INLINE Bytes bit_mask(uint32_t bits) {
        const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
        const auto byte = [bits](int i)
                              BQ_INLINE_LAMBDA { return vdup_n_u8(static_cast<uint8_t>(bits >> 8 * i)); };
        return {vtstq_u8(vcombine_u8(byte(0), byte(1)), bit), vtstq_u8(vcombine_u8(byte(2), byte(3)), bit)};
    }
    static BQ_INLINE Bytes field(Bytes a, int from, int count, int to) {
        a = {shift(a.low, from - to), shift(a.high, from - to)};
        if (from > to && to == 0 && from + count == 8) return a;  // nothing else is left
        const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>(((1 << count) - 1) << to));
        return {vandq_u8(a.low, mask), vandq_u8(a.high, mask)};
    }
    static BQ_INLINE Bytes bit_or(Bytes a, Bytes b) {
        return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)};
    }
    static BQ_INLINE Bytes sub(Bytes a, Bytes b) {
        return {vsubq_u8(a.low, b.low), vsubq_u8(a.high, b.high)};
    }
    static BQ_INLINE Bytes lookup(const int8_t table[16], Bytes i) {
        const uint8x16_t entries = vreinterpretq_u8_s8(vld1q_s8(table));
        return {vqtbl1q_u8(entries, i.low), vqtbl1q_u8(entries, i.high)};
    }

    static BQ_INLINE Bytes load_nibbles_of_eights(const uint8_t* p) {
        const Bytes nibbles = load_nibbles(p);
        const uint64x2_t low = vreinterpretq_u64_u8(nibbles.low), high = vreinterpretq_u64_u8(nibbles.high);
        return {vreinterpretq_u8_u64(vzip1q_u64(low, high)), vreinterpretq_u8_u64(vzip2q_u64(low, high))};
    }
    static BQ_INLINE Bytes load_points(const int8_t (*table)[8], int a, int b, int c, int d) {
        return {vcombine_u8(point(table[a]), point(table[b])), vcombine_u8(point(table[c]), point(table[d]))};
    }
    static BQ_INLINE Bytes load_points(const int8_t (*table)[4], int a, int b, int c, int d, int e, int f,
                                       int g, int h) {
        uint32x4_t low = vdupq_n_u32(load_as<uint32_t>(table[a])),
                   high = vdupq_n_u32(load_as<uint32_t>(table[e]));
        low = vsetq_lane_u32(load_as<uint32_t>(table[b]), low, 1);
        low = vsetq_lane_u32(load_as<uint32_t>(table[c]), low, 2);
        low = vsetq_lane_u32(load_as<uint32_t>(table[d]), low, 3);
        high = vsetq_lane_u32(load_as<uint32_t>(table[f]), high, 1);
        high = vsetq_lane_u32(load_as<uint32_t>(table[g]), high, 2);
        high = vsetq_lane_u32(load_as<uint32_t>(table[h]), high, 3);
        return {vreinterpretq_u8_u32(low), vreinterpretq_u8_u32(high)};
    }
    static BQ_INLINE Bytes negate(Bytes a, Bytes mask) {
        return {vsubq_u8(veorq_u8(a.low, mask.low), mask.low),
                vsubq_u8(veorq_u8(a.high, mask.high), mask.high)};
    }
    static BQ_INLINE Bytes load_pairs(const uint8_t* p) {
        const int8x16_t right = vreinterpretq_s8_u32(vdupq_n_u32(0xfafcfe00u));  // by 0, 2, 4, 6
        const uint8x8_t v = vld1_u8(p);
        const uint8x8_t twice_low = vzip1_u8(v, v), twice_high = vzip2_u8(v, v);
        const uint8x16_t low = vcombine_u8(vzip1_u8(twice_low, twice_low), vzip2_u8(twice_low, twice_low));
        const uint8x16_t high =
            vcombine_u8(vzip1_u8(twice_high, twice_high), vzip2_u8(twice_high, twice_high));
        const uint8x16_t mask = vdupq_n_u8(3);
        return {vandq_u8(vshlq_u8(low, right), mask), vandq_u8(vshlq_u8(high, right), mask)};
    }
    static BQ_INLINE Bytes trits(Bytes a, Bytes power) {
        return {trits_of(vmulq_u8(a.low, power.low)), trits_of(vmulq_u8(a.high, power.high))};
    }

    // ---- dot products
    static BQ_INLINE Ints dot_unsigned(Bytes w, Bytes a) { return dot_signed(w, a); }
    static BQ_INLINE Ints dot_signed(Bytes w, Bytes a) {
        return {dot_half(vreinterpretq_s8_u8(w.low), vreinterpretq_s8_u8(a.low)),
                dot_half(vreinterpretq_s8_u8(w.high), vreinterpretq_s8_u8(a.high))};
    }
    static BQ_INLINE Floats to_floats(Ints a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }

    // ---- eight floats
    static BQ_INLINE Floats zero() { return splat8(0.0f); }
    static BQ_INLINE Floats splat8(float value) {
        const float32x4_t v = vdupq_n_f32(value);
        return {v, v};
    }
    static BQ_INLINE Floats load8(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    static BQ_INLINE void store8(float* p, Floats a) {
        vst1q_f32(p, a.low);
        vst1q_f32(p + 4, a.high);
    }
    static BQ_INLINE Floats load_pair(const float* p) { return {vld1q_dup_f32(p), vld1q_dup_f32(p + 1)}; }
    static BQ_INLINE Floats mul(Floats a, Floats b) {
        return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
    }
    static BQ_INLINE Floats add(Floats a, Floats b) {
        return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
    }
    static BQ_INLINE Floats sub(Floats a, Floats b) {
        return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
    }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) {
        return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
    }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) {
        return {vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)};
    }
    static BQ_INLINE float sum(Floats a) { return vaddvq_f32(vaddq_f32(a.low, a.high)); }
    static BQ_INLINE Floats double_low(Floats a) {
        return {vzip1q_f32(a.low, a.low), vzip2q_f32(a.low, a.low)};
    }
    static BQ_INLINE Floats double_high(Floats a) {
        return {vzip1q_f32(a.high, a.high), vzip2q_f32(a.high, a.high)};
    }
    static BQ_INLINE Floats from_u8(uint64_t bytes) {
        const uint16x8_t words = vmovl_u8(vcreate_u8(bytes));
        return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))};
    }
    static BQ_INLINE Floats from_i8(uint64_t bytes) { return from_words(vmovl_s8(vcreate_s8(bytes))); }
    static BQ_INLINE Floats halves_of_e8m0(uint64_t bytes) {
        float r[8];
        for (int i = 0; i < 8; ++i) r[i] = fp4::half_of_e8m0(static_cast<uint8_t>(bytes >> 8 * i));
        return load8(r);
    }
    static BQ_INLINE Floats halves_of_ue4m3(uint64_t bytes) {
        float r[8];
        for (int i = 0; i < 8; ++i) r[i] = fp4::half_of_ue4m3(static_cast<uint8_t>(bytes >> 8 * i));
        return load8(r);
    }
    static BQ_INLINE float f16(const uint8_t* p) {
        return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load_as<uint16_t>(p)))), 0);
    }
    template <int kCount>
    static BQ_INLINE Floats gather_f16(const uint8_t* p, int64_t stride) {
        uint16x8_t h = vdupq_n_u16(0);
        unroll<kCount>([&](auto i) BQ_INLINE_LAMBDA {
            constexpr int k = decltype(i)::value;
            h = vsetq_lane_u16(load_as<uint16_t>(p + k * stride), h, k);
        });
        return from_halves(h);
    }

    static BQ_INLINE Bytes as_bytes(Floats a) {
        return {vreinterpretq_u8_f32(a.low), vreinterpretq_u8_f32(a.high)};
    }
    static BQ_INLINE void transpose(const Bytes (&columns)[8], uint8_t* out, int64_t stride, int count) {
        uint8_t bytes[8][32];
        for (int i = 0; i < 8; ++i) {
            vst1q_u8(bytes[i], columns[i].low);
            vst1q_u8(bytes[i] + 16, columns[i].high);
        }
        transpose_words(bytes, out, stride, count);
    }

    // ---- decoded values
    static BQ_INLINE Wide wide_zero() { return zero(); }
    static BQ_INLINE Wide wide_splat(float value) { return splat8(value); }
    static BQ_INLINE Wide widen(Bytes a, int i) {
        const int8x16_t half = vreinterpretq_s8_u8(i < 2 ? a.low : a.high);
        return from_words(i % 2 == 0 ? vmovl_s8(vget_low_s8(half)) : vmovl_high_s8(half));
    }
    static BQ_INLINE Wide load_f32(const void* p) {  // by bytes: any address
        const uint8_t* bytes = static_cast<const uint8_t*>(p);
        return {vreinterpretq_f32_u8(vld1q_u8(bytes)), vreinterpretq_f32_u8(vld1q_u8(bytes + 16))};
    }
    static BQ_INLINE Wide load_f16(const uint8_t* p) {
        return from_halves(vreinterpretq_u16_u8(vld1q_u8(p)));
    }
    static BQ_INLINE Wide load_bf16(const uint8_t* p) {
        const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
        return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
    }
    static BQ_INLINE void store_f32(float* p, Wide a) { store8(p, a); }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a) {
        vst1q_u16(p, vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(a.low), vcvt_f16_f32(a.high))));
    }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a, Wide b) {
        store_f16(p, a);
        store_f16(p + kWide, b);
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a) {
        vst1q_u16(p, vcombine_u16(to_bf16(a.low), to_bf16(a.high)));
    }
    static BQ_INLINE Floats plain_nans(Floats a) { return a; }
    static BQ_INLINE void store_bf16_plain_nans(uint16_t* p, Wide a, Wide b) { store_bf16(p, a, b); }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a, Wide b) {
        store_bf16(p, a);
        store_bf16(p + kWide, b);
    }
    static constexpr int kStreams = 0;
    static constexpr int kLooksUp = 0;
    static BQ_INLINE float wide_sum(Wide a) { return sum(a); }
    static BQ_INLINE void wide_sums(const Wide (&a)[4], float* out) {
        for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
    }

    // ---- activations
    template <int kCount>
    static BQ_INLINE uint32_t max_magnitude_bits(const float* x) {
        uint32x4_t m = vdupq_n_u32(0);
        for (int i = 0; i < kCount / 4; ++i)
            m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + 4 * i)), vdupq_n_u32(0x7fffffff)));
        return vmaxvq_u32(m);
    }
    struct HalfSums {
        int32_t first, last;
    };
    static BQ_INLINE HalfSums round_to_bytes(const float* x, float factor, int8_t* q) {
        int8x16_t half[2];
        for (int i = 0; i < 2; ++i) {
            int16x4_t words[4];
            for (int j = 0; j < 4; ++j)
                words[j] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * i + 4 * j), factor)));
            half[i] = vcombine_s8(vqmovn_s16(vcombine_s16(words[0], words[1])),
                                  vqmovn_s16(vcombine_s16(words[2], words[3])));
            vst1q_s8(q + 16 * i, half[i]);
        }
        return {vaddlvq_s8(half[0]), vaddlvq_s8(half[1])};
    }

  private:
    static BQ_INLINE uint8x8_t point(const int8_t* p) { return vreinterpret_u8_s8(vld1_s8(p)); }
    // Right for a positive count, left for a negative one, which are constants after inlining.
    static BQ_INLINE uint8x16_t shift(uint8x16_t a, int right) {
        switch (right) {
            case 0:
                return a;
            case 1:
                return vshrq_n_u8(a, 1);
            case 2:
                return vshrq_n_u8(a, 2);
            case 3:
                return vshrq_n_u8(a, 3);
            case 4:
                return vshrq_n_u8(a, 4);
            case 5:
                return vshrq_n_u8(a, 5);
            case 6:
                return vshrq_n_u8(a, 6);
            case 7:
                return vshrq_n_u8(a, 7);
            default:
                return vshlq_u8(a, vdupq_n_s8(static_cast<int8_t>(-right)));
        }
    }
    // How many thirds of 256 are reached: 86 and 171.
    static BQ_INLINE uint8x16_t trits_of(uint8x16_t rest) {
        const uint8x16_t one = vcgeq_u8(rest, vdupq_n_u8(86)), two = vcgeq_u8(rest, vdupq_n_u8(171));
        return vsubq_u8(vdupq_n_u8(0), vaddq_u8(one, two));
    }
    static BQ_INLINE int32x4_t dot_half(int8x16_t w, int8x16_t a) {
#if defined(BQ_NEON_DOTPROD)
        return vdotq_s32(vdupq_n_s32(0), w, a);
#else
        const int16x8_t products = vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(a)), w, a);
        return vpaddlq_s16(products);
#endif
    }
    static BQ_INLINE Floats from_words(int16x8_t words) {
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))};
    }
    static BQ_INLINE Floats from_halves(uint16x8_t h) {
        return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))),
                vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h)))};
    }
    static BQ_INLINE uint16x4_t to_bf16(float32x4_t a) {
        const uint32x4_t bits = vreinterpretq_u32_f32(a);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
        return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16);
    }
};

}  // namespace
}  // namespace bq
