// The vocabulary for any CPU, and the description of each operation.
//
//   Bytes   32 bytes, signed or not: one chunk of 32 consecutive elements, or of activations
//   Ints    8 int32 partial sums of a chunk: the first four belong to its elements 0-15, the others to 16-31
//   Floats  8 floats: partial sums like Ints, or the scales of eight runs
//   Wide    kWide floats: the natural vector for decoded values
#pragma once

#include "formats/half.hpp"
#include "formats/microscaling.hpp"
#include "simd/vector.hpp"

namespace bq {
namespace {

struct Scalar {
    using Bytes = Vector<uint8_t, 32>;
    using Ints = Vector<int32_t, 8>;
    using Floats = Vector<float, 8>;
    static constexpr int kWide = 8;
    using Wide = Floats;
    // Vectors within the operations.
    using Words = Vector<uint32_t, 8>;
    using Halves = Vector<uint16_t, 16>;
    using SignedHalves = Vector<int16_t, 16>;

    // Whether rows of blocks meet activations one at a time, and rows of floats without parts: the rest
    // brings something where loads or memory bind.
    static constexpr bool kOneWeightRow = true;

    // body(i) for i from 0 to kCount - 1. The other vocabularies unroll it, so that `i` is a constant.
    template <int kCount, class Body>
    static inline void repeat(Body&& body) {
        for (int i = 0; i < kCount; ++i) body(i);
    }

    // ---- bytes
    static inline Bytes load(const void* p) { return load_as<Bytes>(p); }
    static inline Bytes splat(int value) { return splat_vector<Bytes>(static_cast<uint8_t>(value)); }
    // 16 bytes: their low nibbles, then their high nibbles.
    static inline Bytes load_nibbles(const uint8_t* p) {
        uint8_t twice[32];
        for (int i = 0; i < 16; ++i) twice[i] = p[i] & 15;
        for (int i = 0; i < 16; ++i) twice[i + 16] = p[i] >> 4;
        return load(twice);
    }
    // The byte is `value` where the bit is set, else 0.
    static inline Bytes bits(uint32_t set, int value) { return bit_mask(set) & splat(value); }
    // The bits from .. from + count - 1 of each byte, moved to bit `to`, all others 0.
    static inline Bytes field(Bytes a, int from, int count, int to) {
        const uint32_t mask = (1u << count) - 1;
        const Words moved =
            (vector_as<Words>(a) >> from & splat_vector<Words>(mask * static_cast<uint32_t>(kOneInEachByte)))
            << to;
        return vector_as<Bytes>(moved);
    }
    static inline Bytes bit_or(Bytes a, Bytes b) { return a | b; }
    static inline Bytes sub(Bytes a, Bytes b) { return a - b; }
    // table[i] for each byte i, which is below 16.
    static inline Bytes lookup(const int8_t table[16], Bytes i) {
        uint8_t bytes[32];
        store_vector(bytes, i);
        for (uint8_t& b : bytes) b = static_cast<uint8_t>(table[b]);
        return load(bytes);
    }

    // All ones in the bytes whose bit is set.
    static inline Bytes bit_mask(uint32_t set) {
        // Each byte of `set` eight times, of which one bit stays; 127 more carry it to the highest.
        uint64_t masks[4];
        for (int i = 0; i < 4; ++i) {
            const uint64_t bits = (set >> 8 * i & 255) * kOneInEachByte & 0x8040201008040201ull;
            masks[i] = ((bits + 0x7f7f7f7f7f7f7f7full) >> 7 & kOneInEachByte) * 255;
        }
        return load(masks);
    }
    // 16 bytes: of each eight their low nibbles, then their high nibbles.
    static inline Bytes load_nibbles_of_eights(const uint8_t* p) {
        uint64_t eights[4];
        for (int i = 0; i < 4; ++i)
            eights[i] = load_as<uint64_t>(p + i / 2 * 8) >> 4 * (i % 2) & 0x0f0f0f0f0f0f0f0full;
        return load(eights);
    }
    // The four points of eight bytes, or eight points of four bytes, with these indices.
    template <int kElements, class... Indices>
    static inline Bytes load_points(const int8_t (*table)[kElements], Indices... index) {
        static_assert(kElements * sizeof...(index) == 32);
        const int at[] = {static_cast<int>(index)...};
        uint8_t bytes[32];
        for (size_t i = 0; i < sizeof...(index); ++i)
            memcpy(bytes + kElements * i, table[at[i]], static_cast<size_t>(kElements));
        return load(bytes);
    }
    // 0 - a in the bytes whose mask is all ones, a where it is zero.
    static inline Bytes negate(Bytes a, Bytes mask) { return (a ^ mask) - mask; }
    // 8 bytes as 32 pairs of bits, the first in the low bits of p[0].
    static inline Bytes load_pairs(const uint8_t* p) {
        uint32_t four[8];
        for (int i = 0; i < 8; ++i) {
            const uint32_t two = p[i] | uint32_t{p[i]} << 6;
            four[i] = (two | two << 12) & 0x03030303u;
        }
        return load(four);
    }
    // The first digit to base 3 of the fraction (a * power mod 256) / 256.
    static inline Bytes trits(Bytes a, Bytes power) {
        const Halves low = splat_vector<Halves>(uint16_t{255}), three = splat_vector<Halves>(uint16_t{3});
        const Halves x = vector_as<Halves>(a), y = vector_as<Halves>(power);
        const Halves even = ((x * y) & low) * three >> 8;
        const Halves odd = (((x >> 8) * (y >> 8)) & low) * three >> 8 << 8;
        return vector_as<Bytes>(even | odd);
    }

    // ---- dot products, exact in int32: neither overflows nor saturates
    // w in 0..127 with a in -127..127.
    static inline Ints dot_unsigned(Bytes w, Bytes a) { return dot_signed(w, a); }
    // w in -128..127 with a in -127..127. Two products fit 16 bits.
    static inline Ints dot_signed(Bytes w, Bytes a) {
        const SignedHalves x = vector_as<SignedHalves>(w), y = vector_as<SignedHalves>(a);
        const SignedHalves even_x = vector_as<SignedHalves>(vector_as<Halves>(w) << 8) >> 8;
        const SignedHalves even_y = vector_as<SignedHalves>(vector_as<Halves>(a) << 8) >> 8;
        const SignedHalves pairs = even_x * even_y + (x >> 8) * (y >> 8);
        const Ints low = vector_as<Ints>(vector_as<Words>(pairs) << 16) >> 16;
        return low + (vector_as<Ints>(pairs) >> 16);
    }
    static inline Floats to_floats(Ints a) { return convert_each<float, 8>(a); }

    // ---- eight floats
    static inline Floats zero() { return splat8(0.0f); }
    static inline Floats splat8(float value) { return splat_vector<Floats>(value); }
    static inline Floats load8(const float* p) { return load_as<Floats>(p); }
    static inline void store8(float* p, Floats a) { store_vector(p, a); }
    // p[0] four times, then p[1] four times: the scales of the two halves of a chunk.
    static inline Floats load_pair(const float* p) {
        return Floats{p[0], p[0], p[0], p[0], p[1], p[1], p[1], p[1]};
    }
    static inline Floats mul(Floats a, Floats b) { return a * b; }
    static inline Floats add(Floats a, Floats b) { return a + b; }
    static inline Floats sub(Floats a, Floats b) { return a - b; }
    // a * b + c and c - a * b, fused where the instruction set does.
    static inline Floats mul_add(Floats a, Floats b, Floats c) { return a * b + c; }
    static inline Floats mul_sub_from(Floats a, Floats b, Floats c) { return c - a * b; }
    static inline float sum(Floats a) {
        return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
    }
    // Each of the first (last) four floats twice.
    static inline Floats double_low(Floats a) {
        return Floats{a[0], a[0], a[1], a[1], a[2], a[2], a[3], a[3]};
    }
    static inline Floats double_high(Floats a) {
        return Floats{a[4], a[4], a[5], a[5], a[6], a[6], a[7], a[7]};
    }
    // Eight integers, the first in the low byte.
    static inline Floats from_u8(uint64_t bytes) { return convert_each<float, 8>(ints_of<uint8_t>(bytes)); }
    static inline Floats from_i8(uint64_t bytes) { return convert_each<float, 8>(ints_of<int8_t>(bytes)); }
    // Eight scales of the 4-bit floats, the first in the low byte (formats/microscaling.hpp).
    static inline Floats halves_of_e8m0(uint64_t bytes) {
        const Words e = vector_as<Words>(ints_of<uint8_t>(bytes)), one = splat_vector<Words>(1u);
        return vector_as<Floats>(select(where_less(e, 2), (e + one) << 21, (e - one) << 23));
    }
    static inline Floats halves_of_ue4m3(uint64_t bytes) {
        const Words byte = vector_as<Words>(ints_of<uint8_t>(bytes)), nan = splat_vector<Words>(0x7fu);
        const Words e = byte & nan, normal = (e << 20) + splat_vector<Words>(119u << 23);
        const Floats small = from_i8(bytes & 0x7f7f7f7f7f7f7f7full) * splat8(0x1p-10f);
        return vector_as<Floats>(select(where_less(e, 8), vector_as<Words>(small), normal) &
                                 where_more(byte ^ nan, 0));
    }
    static inline float f16(const uint8_t* p) { return f16_to_f32(load_as<uint16_t>(p)); }
    // kCount float16 numbers, `stride` bytes apart, then zeros.
    template <int kCount>
    static inline Floats gather_f16(const uint8_t* p, int64_t stride) {
        uint16_t halves[8] = {};
        for (int i = 0; i < kCount; ++i) halves[i] = load_as<uint16_t>(p + i * stride);
        return f16_scales(halves);
    }

    static inline Bytes as_bytes(Floats a) { return vector_as<Bytes>(a); }
    // The lines of an 8 x 8 matrix of 32-bit words, given its columns: line i at out + i * stride, the first
    // `count`.
    static inline void transpose(const Bytes (&columns)[8], uint8_t* out, int64_t stride, int count) {
        uint8_t bytes[8][32];
        memcpy(bytes, columns, sizeof bytes);
        transpose_words(bytes, out, stride, count);
    }

    // ---- decoded values
    static inline Wide wide_zero() { return zero(); }
    static inline Wide wide_splat(float value) { return splat8(value); }
    // The signed bytes i * kWide and following as floats.
    static inline Wide widen(Bytes a, int i) { return from_i8(vector_as<Vector<uint64_t, 4>>(a)[i]); }
    static inline Wide load_f32(const void* p) { return load_as<Wide>(p); }
    // As f16_to_f32.
    static BQ_INLINE Wide load_f16(const uint8_t* p) {
        const Words bits = words_of_halves(p), magnitude = bits & splat_vector<Words>(0x7fffu);
        const Words normal = ((magnitude << 13) + splat_vector<Words>(112u << 23)) |
                             (where_more(magnitude, 0x7bff) & splat_vector<Words>(0x7f800000u));
        const Words subnormal =
            vector_as<Words>(convert_each<float, 8>(vector_as<Ints>(magnitude)) * splat8(0x1p-24f));
        return vector_as<Wide>(select(where_less(magnitude, 0x400), subnormal, normal) |
                               (bits & splat_vector<Words>(0x8000u)) << 16);
    }
    static inline Wide load_bf16(const uint8_t* p) { return vector_as<Wide>(words_of_halves(p) << 16); }
    static inline void store_f32(float* p, Wide a) { store_vector(p, a); }
    // Both round to nearest, ties to even.
    static BQ_INLINE void store_f16(uint16_t* p, Wide a) {  // as f32_to_f16
        const Words bits = vector_as<Words>(a), magnitude = bits & splat_vector<Words>(0x7fffffffu);
        const Words odd = magnitude >> 13 & splat_vector<Words>(1u);
        const Words normal = (magnitude + odd + splat_vector<Words>(0xfffu - 0x38000000u)) >> 13;
        const Words subnormal =
            vector_as<Words>(vector_as<Wide>(magnitude) + splat8(0.5f)) - splat_vector<Words>(0x3f000000u);
        Words half = select(where_less(magnitude, 0x38800000u), subnormal, normal);
        half = select(where_more(magnitude, 0x477fefffu), splat_vector<Words>(0x7c00u), half);
        half = select(where_more(magnitude, 0x7f800000u), splat_vector<Words>(0x7e00u), half);
        store_halves(p, half | (bits >> 16 & splat_vector<Words>(0x8000u)));
    }
    static inline void store_f16(uint16_t* p, Wide a, Wide b) {
        store_f16(p, a);
        store_f16(p + kWide, b);
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a) {  // as f32_to_bf16
        const Words bits = vector_as<Words>(a), odd = bits >> 16 & splat_vector<Words>(1u);
        const Words number = (bits + odd + splat_vector<Words>(0x7fffu)) >> 16;
        const Words quiet = bits >> 16 | splat_vector<Words>(64u);
        const Words is_nan = where_more(bits & splat_vector<Words>(0x7fffffffu), 0x7f800000u);
        store_halves(p, select(is_nan, quiet, number));
    }
    // Two vectors whose NaNs are those that plain_nans leaves or the processor makes: no rounding turns them
    // into numbers.
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

  private:
    // Scales are few: no copy of the code for each of them.
    static BQ_NOINLINE Floats f16_scales(const uint16_t (&halves)[8]) {
        return load_f16(reinterpret_cast<const uint8_t*>(halves));
    }
    // Eight integers of type T, the first in the low byte.
    template <class T>
    static inline Ints ints_of(uint64_t bytes) {
        return convert_each<int32_t, 8>(load_as<Vector<T, 8>>(&bytes));
    }
    static inline Words words_of_halves(const uint8_t* p) {
        return convert_each<uint32_t, 8>(load_as<Vector<uint16_t, 8>>(p));
    }
    static inline void store_halves(uint16_t* p, Words a) { store_vector(p, convert_each<uint16_t, 8>(a)); }
    // All ones where the word, below 2^31, is less, or more, than the limit.
    static inline Words where_less(Words a, uint32_t limit) { return signs(a - splat_vector<Words>(limit)); }
    static inline Words where_more(Words a, uint32_t limit) { return signs(splat_vector<Words>(limit) - a); }
    static inline Words signs(Words a) { return vector_as<Words>(vector_as<Ints>(a) >> 31); }
    static inline Words select(Words mask, Words a, Words b) { return b ^ ((a ^ b) & mask); }
};

}  // namespace
}  // namespace bq
