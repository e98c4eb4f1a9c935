// The lanes of NEON for aarch64: four floats. What each operation does is written in lanes.hpp.
#pragma once

#include <arm_neon.h>

#include "formats/half.hpp"
#include "simd/lanes.hpp"

namespace bq {
namespace {

struct LanesNeon {
    static constexpr int kLanes = 4;
    static constexpr int kTile = 4;
    using Float = float32x4_t;
    using Int = int32x4_t;
    struct Mask {  // all bits of a lane or none
        uint32x4_t bits;
    };

    static BQ_INLINE Float load(const float* p) { return vld1q_f32(p); }
    static BQ_INLINE Int load_int(const int32_t* p) { return vld1q_s32(p); }
    static BQ_INLINE void store(float* p, Float a) { vst1q_f32(p, a); }
    static BQ_INLINE void store_int(int32_t* p, Int a) { vst1q_s32(p, a); }
    static BQ_INLINE void store_bytes(uint8_t* p, Int a) {
        const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
        const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
        const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
        memcpy(p, &four, 4);
    }
    static BQ_INLINE void store_bytes_of_16(uint8_t* p, const Int (&v)[4]) {
        const auto words = [&](int i) BQ_INLINE_LAMBDA {
            return vcombine_u16(vmovn_u32(vreinterpretq_u32_s32(v[i])),
                                vmovn_u32(vreinterpretq_u32_s32(v[i + 1])));
        };
        vst1q_u8(p, vcombine_u8(vmovn_u16(words(0)), vmovn_u16(words(2))));
    }
    static BQ_INLINE void store_words(void* p, Int a) {
        const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
        memcpy(p, &words, sizeof words);
    }
    static BQ_INLINE void store_halves(void* p, Float a) {
        const Int sign = bit_and(bits_of(a), splat_int(INT32_MIN));
        a = select(equal(a, a), a, from_bits(bit_or(sign, splat_int(0x7fc00000))));
        const float16x4_t halves = vcvt_f16_f32(a);
        memcpy(p, &halves, sizeof halves);
    }
    static BQ_INLINE uint16_t half_of(float value) { return f32_to_f16(value); }
    static BQ_INLINE Float splat(float value) { return vdupq_n_f32(value); }
    static BQ_INLINE Int splat_int(int32_t value) { return vdupq_n_s32(value); }

    static BQ_INLINE Float add(Float a, Float b) { return vaddq_f32(a, b); }
    static BQ_INLINE Float sub(Float a, Float b) { return vsubq_f32(a, b); }
    static BQ_INLINE Float mul(Float a, Float b) { return vmulq_f32(a, b); }
    static BQ_INLINE Float div(Float a, Float b) { return vdivq_f32(a, b); }
    static BQ_INLINE Float min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    static BQ_INLINE Float max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static BQ_INLINE Float sqrt(Float a) { return vsqrtq_f32(a); }
    static BQ_INLINE Float abs(Float a) { return vabsq_f32(a); }

    static BQ_INLINE Mask less(Float a, Float b) { return {vcltq_f32(a, b)}; }
    static BQ_INLINE Mask less_equal(Float a, Float b) { return {vcleq_f32(a, b)}; }
    static BQ_INLINE Mask equal(Float a, Float b) { return {vceqq_f32(a, b)}; }
    static BQ_INLINE Mask less(Int a, Int b) { return {vcltq_s32(a, b)}; }
    static BQ_INLINE Mask equal(Int a, Int b) { return {vceqq_s32(a, b)}; }
    static BQ_INLINE Mask both(Mask a, Mask b) { return {vandq_u32(a.bits, b.bits)}; }
    static BQ_INLINE Mask either(Mask a, Mask b) { return {vorrq_u32(a.bits, b.bits)}; }
    static BQ_INLINE Mask but_not(Mask a, Mask b) { return {vbicq_u32(a.bits, b.bits)}; }
    static BQ_INLINE Mask negate(Mask a) { return {vmvnq_u32(a.bits)}; }
    static BQ_INLINE bool any(Mask a) { return vmaxvq_u32(a.bits) != 0; }
    static BQ_INLINE Float select(Mask m, Float a, Float b) { return vbslq_f32(m.bits, a, b); }
    static BQ_INLINE Int select(Mask m, Int a, Int b) { return vbslq_s32(m.bits, a, b); }

    static BQ_INLINE Int bits_of(Float a) { return vreinterpretq_s32_f32(a); }
    static BQ_INLINE Float from_bits(Int a) { return vreinterpretq_f32_s32(a); }
    static BQ_INLINE Float to_float(Int a) { return vcvtq_f32_s32(a); }
    static BQ_INLINE Int truncate_to_int(Float a) {
        const Mask fits = both(less_equal(splat(-0x1p31f), a), less(a, splat(0x1p31f)));
        return select(fits, vcvtq_s32_f32(a), splat_int(INT32_MIN));
    }
    static BQ_INLINE Int add(Int a, Int b) { return vaddq_s32(a, b); }
    static BQ_INLINE Int sub(Int a, Int b) { return vsubq_s32(a, b); }
    static BQ_INLINE Int mul(Int a, Int b) { return vmulq_s32(a, b); }
    static BQ_INLINE Int min(Int a, Int b) { return vminq_s32(a, b); }
    static BQ_INLINE Int max(Int a, Int b) { return vmaxq_s32(a, b); }
    static BQ_INLINE Int bit_and(Int a, Int b) { return vandq_s32(a, b); }
    static BQ_INLINE Int bit_or(Int a, Int b) { return vorrq_s32(a, b); }
    static BQ_INLINE Int bit_xor(Int a, Int b) { return veorq_s32(a, b); }
    template <int n>
    static BQ_INLINE Int shift_left(Int a) {
        return vshlq_s32(a, vdupq_n_s32(n));
    }
    template <int n>
    static BQ_INLINE Int shift_right(Int a) {
        return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
    }

    static BQ_INLINE Float lookup8(const float* table, Int i) {
        return from_bits(lookup8(reinterpret_cast<const int32_t*>(table), i));
    }
    static BQ_INLINE Int lookup8(const int32_t* table, Int i) {
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
        const uint8x16x2_t entries = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
        return vreinterpretq_s32_u8(vqtbl2q_u8(entries, bytes_of_entry(i)));
    }
    static BQ_INLINE Float lookup16(const float* table, Int i) {
        return from_bits(lookup16(reinterpret_cast<const int32_t*>(table), i));
    }
    static BQ_INLINE Int lookup16(const int32_t* table, Int i) {
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
        const uint8x16x4_t entries = {
            {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
        return vreinterpretq_s32_u8(vqtbl4q_u8(entries, bytes_of_entry(i)));
    }
    // The numbers of the four bytes of each entry.
    static BQ_INLINE uint8x16_t bytes_of_entry(Int i) {
        return vreinterpretq_u8_s32(vmlaq_s32(splat_int(0x03020100), i, splat_int(0x04040404)));
    }
    static BQ_INLINE Float lookup_low4(const float* table, Int i) {
        const uint8x16_t entries = vld1q_u8(reinterpret_cast<const uint8_t*>(table));
        const uint8x16_t bytes = bytes_of_entry(bit_and(i, splat_int(3)));
        return vreinterpretq_f32_u8(vqtbl1q_u8(entries, bytes));
    }
    static BQ_INLINE Float lookup_low8(const float* table, Int i) {
        return lookup8(table, bit_and(i, splat_int(7)));
    }
    static BQ_INLINE Float gather(const float* base, Int i) {
        const float values[4] = {base[vgetq_lane_s32(i, 0)], base[vgetq_lane_s32(i, 1)],
                                 base[vgetq_lane_s32(i, 2)], base[vgetq_lane_s32(i, 3)]};
        return load(values);
    }
    static BQ_INLINE Int gather(const int32_t* base, Int i) {
        const int32_t values[4] = {base[vgetq_lane_s32(i, 0)], base[vgetq_lane_s32(i, 1)],
                                   base[vgetq_lane_s32(i, 2)], base[vgetq_lane_s32(i, 3)]};
        return load_int(values);
    }

    static BQ_INLINE uint32_t mask_bits(Mask m) {
        const uint32x4_t places = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(m.bits, places));
    }
    static BQ_INLINE float min_across(Float a) { return vminvq_f32(a); }
    static BQ_INLINE float max_across(Float a) { return vmaxvq_f32(a); }
    template <int n>
    static BQ_INLINE void regroup(Float& a, Float& b) {
        const Float x = a, y = b;
        if constexpr (n == 2) {
            a = vzip1q_f32(x, y);
            b = vzip2q_f32(x, y);
        } else {
            const float64x2_t p = vreinterpretq_f64_f32(x), q = vreinterpretq_f64_f32(y);
            a = vreinterpretq_f32_f64(vzip1q_f64(p, q));
            b = vreinterpretq_f32_f64(vzip2q_f64(p, q));
        }
    }

    static BQ_INLINE int16x8_t words(Int a) { return vreinterpretq_s16_s32(a); }
    static BQ_INLINE uint16x8_t plain_words(Int a) { return vreinterpretq_u16_s32(a); }
    static BQ_INLINE Int splat_word(int16_t value) { return vreinterpretq_s32_s16(vdupq_n_s16(value)); }
    static BQ_INLINE Int max_word(Int a, Int b) {
        return vreinterpretq_s32_s16(vmaxq_s16(words(a), words(b)));
    }
    static BQ_INLINE Int min_word(Int a, Int b) {
        return vreinterpretq_s32_s16(vminq_s16(words(a), words(b)));
    }
    static BQ_INLINE Int add_word(Int a, Int b) {
        return vreinterpretq_s32_s16(vaddq_s16(words(a), words(b)));
    }
    static BQ_INLINE Int sub_word(Int a, Int b) {
        return vreinterpretq_s32_u16(vqsubq_u16(plain_words(a), plain_words(b)));
    }
    template <int n>
    static BQ_INLINE Int shift_right_word(Int a) {
        return vreinterpretq_s32_u16(vshrq_n_u16(plain_words(a), n));
    }
    template <int n>
    static BQ_INLINE Int shift_left_word(Int a) {
        return vreinterpretq_s32_u16(vshlq_n_u16(plain_words(a), n));
    }
    template <int n>
    static BQ_INLINE Int times_word(Int a) {
        const uint16x8_t w = plain_words(a);
        const uint16x8_t low = vreinterpretq_u16_u32(vmull_n_u16(vget_low_u16(w), n));
        const uint16x8_t high = vreinterpretq_u16_u32(vmull_n_u16(vget_high_u16(w), n));
        return vreinterpretq_s32_u16(vuzp2q_u16(low, high));
    }
    static BQ_INLINE Int dot_words(Int a, Int b) {
        const Int low = vmull_s16(vget_low_s16(words(a)), vget_low_s16(words(b)));
        return vpaddq_s32(low, vmull_high_s16(words(a), words(b)));
    }
    static BQ_INLINE Int narrow(Int a, Int b) {
        return vreinterpretq_s32_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)));
    }
    static BQ_INLINE void store_narrowed(uint8_t* p, Int a, Int b) {
        vst1q_u8(p, vcombine_u8(vmovn_u16(plain_words(a)), vmovn_u16(plain_words(b))));
    }
    static BQ_INLINE void store_quads(uint8_t* p, const Int (&v)[8]) {
        const auto quads = [&](int i) BQ_INLINE_LAMBDA {
            const Int fours = splat_int(0x00040001), sixteens = splat_int(0x00100001);
            const Int pairs = narrow(dot_words(v[i], fours), dot_words(v[i + 1], fours));
            return add(dot_words(pairs, sixteens), splat_int(0x55));
        };
        store_bytes_of_16(p, {quads(0), quads(2), quads(4), quads(6)});
    }
    static BQ_INLINE Int pair_upper(Int a, Int b) {
        return vreinterpretq_s32_s16(vtrn2q_s16(words(a), words(b)));
    }
    static BQ_INLINE Int signed_lookup(const Codes& table, Int i, Int sign) {
        const uint8x16x2_t entries = {{vld1q_u8(table.bytes), vld1q_u8(table.bytes + 16)}};
        // The upper bytes of the words look up entry 0.
        const uint16x8_t code = vreinterpretq_u16_u8(vqtbl2q_u8(entries, vreinterpretq_u8_s32(i)));
        const uint16x8_t bit = vandq_u16(vshrq_n_u16(plain_words(sign), 12), vdupq_n_u16(8));
        return vreinterpretq_s32_u16(vorrq_u16(code, vandq_u16(bit, vtstq_u16(code, code))));
    }

    template <int kStride = kLanes>
    static BQ_INLINE void transpose_tile(const float* const* runs, int64_t at, float* out) {
        const float32x4_t r0 = load(runs[0] + at), r1 = load(runs[1] + at);
        const float32x4_t r2 = load(runs[2] + at), r3 = load(runs[3] + at);
        const float64x2_t low01 = vreinterpretq_f64_f32(vzip1q_f32(r0, r1));
        const float64x2_t high01 = vreinterpretq_f64_f32(vzip2q_f32(r0, r1));
        const float64x2_t low23 = vreinterpretq_f64_f32(vzip1q_f32(r2, r3));
        const float64x2_t high23 = vreinterpretq_f64_f32(vzip2q_f32(r2, r3));
        store(out, vreinterpretq_f32_f64(vzip1q_f64(low01, low23)));
        store(out + kStride, vreinterpretq_f32_f64(vzip2q_f64(low01, low23)));
        store(out + 2 * kStride, vreinterpretq_f32_f64(vzip1q_f64(high01, high23)));
        store(out + 3 * kStride, vreinterpretq_f32_f64(vzip2q_f64(high01, high23)));
    }
};

}  // namespace
}  // namespace bq
