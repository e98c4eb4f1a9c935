// The vocabulary in plain C++, and the description of each operation.
//
//   Bytes   32 bytes, signed or not: one chunk of 32 consecutive elements, or of activations
//   Ints    8 int32 partial sums of a chunk: the first four belong to its elements 0-15, the others to 16-31
//   Floats  8 floats: partial sums like Ints, or the scales of eight runs
//   Wide    kWide floats: the natural vector for decoded values
#pragma once

#include "formats/half.hpp"
#include "formats/microscaling.hpp"
#include "simd/common.hpp"

namespace bq {
namespace {

struct Scalar {
    struct Bytes {
        uint8_t v[32];
    };
    struct Ints {
        int32_t v[8];
    };
    struct Floats {
        float v[8];
    };
    static constexpr int kWide = 8;
    using Wide = Floats;

    // body(i) for i from 0 to kCount - 1. Vocabularies of vectors unroll it, so that `i` is a constant.
    template <int kCount, class Body>
    static inline void repeat(Body&& body) {
        for (int i = 0; i < kCount; ++i) body(i);
    }

    // ---- bytes
    static inline Bytes load(const void* p) {
        Bytes r;
        memcpy(r.v, p, 32);
        return r;
    }
    static inline Bytes splat(int value) {
        Bytes r;
        for (uint8_t& b : r.v) b = static_cast<uint8_t>(value);
        return r;
    }
    // 16 bytes: their low nibbles, then their high nibbles.
    static inline Bytes load_nibbles(const uint8_t* p) {
        Bytes r;
        for (int i = 0; i < 16; ++i) r.v[i] = p[i] & 15;
        for (int i = 0; i < 16; ++i) r.v[i + 16] = p[i] >> 4;
        return r;
    }
    // The byte is `value` where the bit is set, else 0.
    static inline Bytes bits(uint32_t set, int value) {
        Bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = static_cast<uint8_t>((set >> i & 1) * value);
        return r;
    }
    // The bits from .. from + count - 1 of each byte, moved to bit `to`, all others 0.
    static inline Bytes field(Bytes a, int from, int count, int to) {
        for (uint8_t& b : a.v) b = static_cast<uint8_t>((b >> from & ((1 << count) - 1)) << to);
        return a;
    }
    static inline Bytes bit_or(Bytes a, Bytes b) {
        for (int i = 0; i < 32; ++i) a.v[i] |= b.v[i];
        return a;
    }
    static inline Bytes sub(Bytes a, Bytes b) {
        for (int i = 0; i < 32; ++i) a.v[i] = static_cast<uint8_t>(a.v[i] - b.v[i]);
        return a;
    }
    // table[i] for each byte i, which is below 16.
    static inline Bytes lookup(const int8_t table[16], Bytes i) {
        for (uint8_t& b : i.v) b = static_cast<uint8_t>(table[b]);
        return i;
    }

    // All ones in the bytes whose bit is set.
    static inline Bytes bit_mask(uint32_t set) { return bits(set, 255); }
    // 16 bytes: of each eight their low nibbles, then their high nibbles.
    static inline Bytes load_nibbles_of_eights(const uint8_t* p) {
        Bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = p[i / 16 * 8 + i % 8] >> (i & 8) / 2 & 15;
        return r;
    }
    // The four points of eight bytes, or eight points of four bytes, with these indices.
    template <int kElements, class... Indices>
    static inline Bytes load_points(const int8_t (*table)[kElements], Indices... index) {
        static_assert(kElements * sizeof...(index) == 32);
        const int at[] = {static_cast<int>(index)...};
        Bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = static_cast<uint8_t>(table[at[i / kElements]][i % kElements]);
        return r;
    }
    // 0 - a in the bytes whose mask is all ones, a where it is zero.
    static inline Bytes negate(Bytes a, Bytes mask) {
        for (int i = 0; i < 32; ++i) a.v[i] = static_cast<uint8_t>((a.v[i] ^ mask.v[i]) - mask.v[i]);
        return a;
    }
    // 8 bytes as 32 pairs of bits, the first in the low bits of p[0].
    static inline Bytes load_pairs(const uint8_t* p) {
        Bytes r;
        for (int i = 0; i < 32; ++i) r.v[i] = p[i / 4] >> 2 * (i % 4) & 3;
        return r;
    }
    // The first digit to base 3 of the fraction (a * power mod 256) / 256.
    static inline Bytes trits(Bytes a, Bytes power) {
        for (int i = 0; i < 32; ++i) a.v[i] = static_cast<uint8_t>((a.v[i] * power.v[i] & 255) * 3 >> 8);
        return a;
    }

    // ---- dot products, exact in int32: neither overflows nor saturates
    // w in 0..127 with a in -127..127.
    static inline Ints dot_unsigned(Bytes w, Bytes a) { return dot_signed(w, a); }
    // w in -128..127 with a in -127..127.
    static inline Ints dot_signed(Bytes w, Bytes a) {
        Ints r;
        for (int i = 0; i < 8; ++i) {
            int sum = 0;
            for (int j = 0; j < 4; ++j)
                sum += static_cast<int8_t>(w.v[4 * i + j]) * static_cast<int8_t>(a.v[4 * i + j]);
            r.v[i] = sum;
        }
        return r;
    }
    static inline Floats to_floats(Ints a) {
        Floats r;
        for (int i = 0; i < 8; ++i) r.v[i] = static_cast<float>(a.v[i]);
        return r;
    }

    // ---- eight floats
    static inline Floats zero() { return Floats{}; }
    static inline Floats splat8(float value) {
        Floats r;
        for (float& f : r.v) f = value;
        return r;
    }
    static inline Floats load8(const float* p) {
        Floats r;
        memcpy(r.v, p, sizeof r.v);
        return r;
    }
    static inline void store8(float* p, Floats a) { memcpy(p, a.v, sizeof a.v); }
    // p[0] four times, then p[1] four times: the scales of the two halves of a chunk.
    static inline Floats load_pair(const float* p) {
        return {p[0], p[0], p[0], p[0], p[1], p[1], p[1], p[1]};
    }
    static inline Floats mul(Floats a, Floats b) {
        for (int i = 0; i < 8; ++i) a.v[i] *= b.v[i];
        return a;
    }
    static inline Floats add(Floats a, Floats b) {
        for (int i = 0; i < 8; ++i) a.v[i] += b.v[i];
        return a;
    }
    static inline Floats sub(Floats a, Floats b) {
        for (int i = 0; i < 8; ++i) a.v[i] -= b.v[i];
        return a;
    }
    // a * b + c and c - a * b, fused where the instruction set does.
    static inline Floats mul_add(Floats a, Floats b, Floats c) { return add(mul(a, b), c); }
    static inline Floats mul_sub_from(Floats a, Floats b, Floats c) { return sub(c, mul(a, b)); }
    static inline float sum(Floats a) {
        return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
    }
    // Each of the first (last) four floats twice.
    static inline Floats double_low(Floats a) {
        return {a.v[0], a.v[0], a.v[1], a.v[1], a.v[2], a.v[2], a.v[3], a.v[3]};
    }
    static inline Floats double_high(Floats a) {
        return {a.v[4], a.v[4], a.v[5], a.v[5], a.v[6], a.v[6], a.v[7], a.v[7]};
    }
    // Eight integers, the first in the low byte.
    static inline Floats from_u8(uint64_t bytes) {
        Floats r;
        for (int i = 0; i < 8; ++i) r.v[i] = static_cast<float>(bytes >> 8 * i & 255);
        return r;
    }
    static inline Floats from_i8(uint64_t bytes) {
        Floats r;
        for (int i = 0; i < 8; ++i) r.v[i] = static_cast<float>(static_cast<int8_t>(bytes >> 8 * i & 255));
        return r;
    }
    // Eight scales of the 4-bit floats, the first in the low byte (formats/microscaling.hpp).
    static inline Floats halves_of_e8m0(uint64_t bytes) {
        Floats r;
        for (int i = 0; i < 8; ++i) r.v[i] = fp4::half_of_e8m0(static_cast<uint8_t>(bytes >> 8 * i));
        return r;
    }
    static inline Floats halves_of_ue4m3(uint64_t bytes) {
        Floats r;
        for (int i = 0; i < 8; ++i) r.v[i] = fp4::half_of_ue4m3(static_cast<uint8_t>(bytes >> 8 * i));
        return r;
    }
    static inline float f16(const uint8_t* p) { return f16_to_f32(load_as<uint16_t>(p)); }
    // kCount float16 numbers, `stride` bytes apart, then zeros.
    template <int kCount>
    static inline Floats gather_f16(const uint8_t* p, int64_t stride) {
        Floats r{};
        for (int i = 0; i < kCount; ++i) r.v[i] = f16(p + i * stride);
        return r;
    }

    static inline Bytes as_bytes(Floats a) {
        Bytes r;
        memcpy(r.v, a.v, sizeof r.v);
        return r;
    }
    // The lines of an 8 x 8 matrix of 32-bit words, given its columns: line i at out + i * stride, the first
    // `count`.
    static inline void transpose(const Bytes (&columns)[8], uint8_t* out, int64_t stride, int count) {
        uint8_t bytes[8][32];
        memcpy(bytes, columns, sizeof bytes);
        transpose_words(bytes, out, stride, count);
    }

    // ---- decoded values
    static inline Wide wide_zero() { return Floats{}; }
    static inline Wide wide_splat(float value) { return splat8(value); }
    // The signed bytes i * kWide and following as floats.
    static inline Wide widen(Bytes a, int i) {
        Wide r;
        for (int j = 0; j < 8; ++j) r.v[j] = static_cast<float>(static_cast<int8_t>(a.v[8 * i + j]));
        return r;
    }
    static inline Wide load_f32(const void* p) {
        Wide r;
        memcpy(r.v, p, sizeof r.v);
        return r;
    }
    static inline Wide load_f16(const uint8_t* p) { return gather_f16<8>(p, 2); }
    static inline Wide load_bf16(const uint8_t* p) {
        Wide r;
        for (int i = 0; i < 8; ++i) r.v[i] = bf16_to_f32(load_as<uint16_t>(p + 2 * i));
        return r;
    }
    static inline void store_f32(float* p, Wide a) { memcpy(p, a.v, sizeof a.v); }
    // Both round to nearest, ties to even.
    static inline void store_f16(uint16_t* p, Wide a) {
        for (int i = 0; i < 8; ++i) p[i] = f32_to_f16(a.v[i]);
    }
    static inline void store_f16(uint16_t* p, Wide a, Wide b) {
        store_f16(p, a);
        store_f16(p + kWide, b);
    }
    static inline void store_bf16(uint16_t* p, Wide a) {
        for (int i = 0; i < 8; ++i) p[i] = f32_to_bf16(a.v[i]);
    }
    // Two vectors without signalling NaNs.
    // Where the NaNs are those that plain_nans leaves or the processor makes, no rounding turns them into
    // numbers.
    static inline Floats plain_nans(Floats a) { return a; }
    static inline void store_bf16_plain_nans(uint16_t* p, Wide a, Wide b) { store_bf16(p, a, b); }
    static inline void store_bf16(uint16_t* p, Wide a, Wide b) {
        store_bf16(p, a);
        store_bf16(p + kWide, b);
    }
    // How many bytes `stream` stores past the caches, to a multiple of their number; 0: there is no `stream`.
    static constexpr int kStreams = 0;
    // Whether the vocabulary has look_up and repeat_each, below.
    static constexpr int kLooksUp = 0;
    static inline float wide_sum(Wide a) { return sum(a); }
    // Those of four, as wide_sum has them.
    static inline void wide_sums(const Wide (&a)[4], float* out) {
        for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
    }

    // ---- activations
    // The largest |x| of kCount floats: as bits, so that a NaN counts as larger than infinity.
    template <int kCount>
    static inline uint32_t max_magnitude_bits(const float* x) {
        uint32_t m = 0;
        for (int i = 0; i < kCount; ++i) {
            const uint32_t bits = bits_as<uint32_t>(x[i]) & 0x7fffffffu;
            m = bits > m ? bits : m;
        }
        return m;
    }
    // q[i] = x[i] * factor to the nearest integer, ties to even; the products are within -127..127.
    // Returns the sums of the first and of the last 16 integers.
    struct HalfSums {
        int32_t first, last;
    };
    static inline HalfSums round_to_bytes(const float* x, float factor, int8_t* q) {
        HalfSums sums{0, 0};
        for (int i = 0; i < 32; ++i) {
            // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
            const uint32_t bits = bits_as<uint32_t>(x[i] * factor + 0x1.8p23f);
            q[i] = static_cast<int8_t>(bits & 255);
            (i < 16 ? sums.first : sums.last) += q[i];
        }
        return sums;
    }
};

}  // namespace
}  // namespace bq
