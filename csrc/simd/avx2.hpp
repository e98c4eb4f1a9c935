// The vocabulary in AVX2, FMA and F16C. What each operation does is written in scalar.hpp.
//   dot_unsigned  vpmaddubsw, vpmaddwd with ones: 63 * 127 * 2 and even 128 * 127 * 2 fit int16
//   dot_signed    the same with |w| and with a negated where w is negative
//   lookup        vpshufb
#pragma once

#include <immintrin.h>

#include "simd/common.hpp"

namespace bq {
namespace {

struct Avx2 {
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kWide = 8;
    using Wide = __m256;
    static constexpr bool kOneWeightRow = false;

    template <int kCount, class Body>
    static BQ_INLINE void repeat(Body&& body) {
        unroll<kCount>(body);
    }

    // ---- bytes
    static BQ_INLINE Bytes load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static BQ_INLINE Bytes splat(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
    static BQ_INLINE Bytes load_nibbles(const uint8_t* p) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_srli_epi16(low, 4), 1);
        return _mm256_and_si256(both, _mm256_set1_epi8(15));
    }
    static BQ_INLINE Bytes bits(uint32_t set, int value) {
        return _mm256_and_si256(bit_mask(set), splat(value));
    }
    // All ones in the bytes whose bit is set.
    static BQ_INLINE Bytes bit_mask(uint32_t bits) {
        const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2,
                                                2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), spread);
        return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    }
    static BQ_INLINE Bytes field(Bytes a, int from, int count, int to) {
        // Shifts of 16 bits: the mask keeps only bits that came from the same byte.
        if (from > to) a = _mm256_srli_epi16(a, from - to);
        if (from < to) a = _mm256_slli_epi16(a, to - from);
        return _mm256_and_si256(a, splat(((1 << count) - 1) << to));
    }
    static BQ_INLINE Bytes bit_or(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
    static BQ_INLINE Bytes sub(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
    static BQ_INLINE Bytes lookup(const int8_t table[16], Bytes i) {
        const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), i);
    }

    static BQ_INLINE Bytes load_nibbles_of_eights(const uint8_t* p) {
        return _mm256_permute4x64_epi64(load_nibbles(p), 0xd8);
    }
    static BQ_INLINE Bytes load_points(const int8_t (*table)[8], int a, int b, int c, int d) {
        return _mm256_set_epi64x(load_as<int64_t>(table[d]), load_as<int64_t>(table[c]),
                                 load_as<int64_t>(table[b]), load_as<int64_t>(table[a]));
    }
    static BQ_INLINE Bytes load_points(const int8_t (*table)[4], int a, int b, int c, int d, int e, int f,
                                       int g, int h) {
        return _mm256_setr_epi32(load_as<int32_t>(table[a]), load_as<int32_t>(table[b]),
                                 load_as<int32_t>(table[c]), load_as<int32_t>(table[d]),
                                 load_as<int32_t>(table[e]), load_as<int32_t>(table[f]),
                                 load_as<int32_t>(table[g]), load_as<int32_t>(table[h]));
    }
    static BQ_INLINE Bytes negate(Bytes a, Bytes mask) {
        return _mm256_sub_epi8(_mm256_xor_si256(a, mask), mask);
    }
    static BQ_INLINE Bytes load_pairs(const uint8_t* p) {
        const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5,
                                                5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
        __m256i a = _mm256_shuffle_epi8(_mm256_set1_epi64x(load_as<int64_t>(p)), spread);
        // Each pair to the low bits of its byte: by 4 in the odd words, then by 2 in the odd bytes.
        a = _mm256_blend_epi16(a, _mm256_srli_epi16(a, 4), 0xaa);
        a = _mm256_blendv_epi8(a, _mm256_srli_epi16(a, 2), _mm256_set1_epi16(static_cast<short>(0xff00)));
        return _mm256_and_si256(a, _mm256_set1_epi8(3));
    }
    static BQ_INLINE Bytes trits(Bytes a, Bytes power) {
        // Products of the even and of the odd bytes; of each its low byte.
        const __m256i low_byte = _mm256_set1_epi16(255);
        const __m256i even = _mm256_and_si256(_mm256_mullo_epi16(a, power), low_byte);
        const __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(power, 8));
        const __m256i rest = _mm256_or_si256(even, _mm256_slli_epi16(odd, 8));
        // The digit counts the thirds of 256 reached: 86 and 171.
        const __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(rest, splat(86)), rest);
        const __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(rest, splat(171)), rest);
        return _mm256_abs_epi8(_mm256_add_epi8(one, two));
    }

    // ---- dot products
    static BQ_INLINE Ints dot_unsigned(Bytes w, Bytes a) {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1));
    }
    static BQ_INLINE Ints dot_signed(Bytes w, Bytes a) {
        return dot_unsigned(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    }
    static BQ_INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }

    // ---- sixteen words
    using Words = __m256i;
    static BQ_INLINE Words words(uint64_t first, uint64_t last) {
        return _mm256_cvtepi8_epi16(
            _mm_set_epi64x(static_cast<long long>(last), static_cast<long long>(first)));
    }
    static BQ_INLINE Words words_twice(uint64_t eight) {
        const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(eight));
        return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes));
    }
    static BQ_INLINE Words splat_words(int value) { return _mm256_set1_epi16(static_cast<short>(value)); }
    // Words 8 * half to 8 * half + 7, each twice.
    static BQ_INLINE Words eight_words_twice(Words a, int half) {
        const __m256i each =
            _mm256_cvtepu16_epi32(half == 0 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1));
        return _mm256_or_si256(each, _mm256_slli_epi32(each, 16));
    }
    static BQ_INLINE Words sub_words(Words a, Words b) { return _mm256_sub_epi16(a, b); }
    static BQ_INLINE Ints dot_words(Words a, const int16_t* b) { return _mm256_madd_epi16(a, load(b)); }

    // ---- eight floats
    static BQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
    static BQ_INLINE Floats splat8(float value) { return _mm256_set1_ps(value); }
    static BQ_INLINE Floats load8(const float* p) { return _mm256_loadu_ps(p); }
    static BQ_INLINE void store8(float* p, Floats a) { _mm256_storeu_ps(p, a); }
    static BQ_INLINE Floats load_pair(const float* p) {
        return _mm256_blend_ps(_mm256_broadcast_ss(p), _mm256_broadcast_ss(p + 1), 0xf0);
    }
    static BQ_INLINE __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
    static BQ_INLINE __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
    static BQ_INLINE __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
    static BQ_INLINE __m256 mul_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
    static BQ_INLINE __m256 mul_sub_from(__m256 a, __m256 b, __m256 c) { return _mm256_fnmadd_ps(a, b, c); }
    static BQ_INLINE float sum(__m256 a) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static BQ_INLINE Floats double_low(Floats a) {
        return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    }
    static BQ_INLINE Floats double_high(Floats a) {
        return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
    }
    static BQ_INLINE Floats from_u8(uint64_t bytes) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
    }
    static BQ_INLINE Floats from_i8(uint64_t bytes) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
    }
    static BQ_INLINE Floats halves_of_e8m0(uint64_t bytes) {
        const __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
        const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
    }
    // By way of float16, whose conversion takes subnormal numbers in its stride.
    static BQ_INLINE Floats halves_of_ue4m3(uint64_t bytes) {
        const __m128i all = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
        const __m128i nan = _mm_cmpeq_epi16(all, _mm_set1_epi16(0x7f));
        const __m128i bits = _mm_slli_epi16(_mm_and_si128(all, _mm_set1_epi16(0x7f)), 7);
        return _mm256_mul_ps(_mm256_cvtph_ps(_mm_andnot_si128(nan, bits)), _mm256_set1_ps(128.0f));
    }
    static BQ_INLINE float f16(const uint8_t* p) {
        return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load_as<uint16_t>(p))));
    }
    template <int kCount>
    static BQ_INLINE Floats gather_f16(const uint8_t* p, int64_t stride) {
        __m128i h = _mm_cvtsi32_si128(load_as<uint16_t>(p));
        unroll<kCount - 1>([&](auto i) BQ_INLINE_LAMBDA {
            constexpr int k = decltype(i)::value + 1;
            h = _mm_insert_epi16(h, load_as<uint16_t>(p + k * stride), k);
        });
        return _mm256_cvtph_ps(h);
    }

    static BQ_INLINE Bytes as_bytes(Floats a) { return _mm256_castps_si256(a); }
    static BQ_INLINE void transpose(const Bytes (&columns)[8], uint8_t* out, int64_t stride, int count) {
        __m256i pairs[8], fours[8], lines[8];
        for (int i = 0; i < 4; ++i) {
            pairs[2 * i] = _mm256_unpacklo_epi32(columns[2 * i], columns[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(columns[2 * i], columns[2 * i + 1]);
        }
        for (int i = 0; i < 2; ++i)
            for (int j = 0; j < 2; ++j) {
                fours[4 * i + 2 * j] = _mm256_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
                fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
            }
        for (int i = 0; i < 4; ++i) {
            lines[i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x20);
            lines[4 + i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x31);
        }
        for (int i = 0; i < 8; ++i)
            if (i < count) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * stride), lines[i]);
    }

    // ---- decoded values
    static BQ_INLINE Wide wide_zero() { return zero(); }
    static BQ_INLINE Wide wide_splat(float value) { return splat8(value); }
    static BQ_INLINE Wide widen(Bytes a, int i) {
        __m128i half = i < 2 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1);
        if (i % 2 == 1) half = _mm_unpackhi_epi64(half, half);
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half));
    }
    static BQ_INLINE Wide load_f32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
    static BQ_INLINE Wide load_f16(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static BQ_INLINE Wide load_bf16(const uint8_t* p) {
        const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    static BQ_INLINE void store_f32(float* p, Wide a) { _mm256_storeu_ps(p, a); }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static BQ_INLINE void store_f16(uint16_t* p, Wide a, Wide b) {
        store_f16(p, a);
        store_f16(p + kWide, b);
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a) {
        const __m256i bits = _mm256_castps_si256(a);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256 is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
        const __m256i r =
            _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan)), 16);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
    }
    static BQ_INLINE void store_bf16(uint16_t* p, Wide a, Wide b) {
        const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(rounded_to_bf16(a), 16),
                                                   _mm256_srli_epi32(rounded_to_bf16(b), 16));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
    }
    static BQ_INLINE Floats plain_nans(Floats a) {
        return _mm256_blendv_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                                _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    }
    static BQ_INLINE __m256i table_bf16_plain_nans(Wide a, Wide b) {
        const auto rounded = [](__m256 v) BQ_INLINE_LAMBDA {
            const __m256i bits = _mm256_castps_si256(v);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            const __m256i up = _mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff));
            return _mm256_srli_epi32(_mm256_add_epi32(up, odd), 16);
        };
        const __m256i packed = _mm256_packus_epi32(rounded(a), rounded(b));
        return _mm256_permute4x64_epi64(packed, 0xd8);
    }
    static BQ_INLINE void store_bf16_plain_nans(uint16_t* p, Wide a, Wide b) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), table_bf16_plain_nans(a, b));
    }
    static constexpr int kStreams = 64;  // a cache line
    static BQ_INLINE void stream_f32(float* p, Wide a) { _mm256_stream_ps(p, a); }
    static BQ_INLINE void stream(uint8_t* to, const uint8_t* from) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to), load(from));
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 32), load(from + 32));
    }
    // Each of the floats p[0], p[1], ... kTimes times.
    template <int kTimes>
    static BQ_INLINE Wide repeat_each(const float* p) {
        if constexpr (kTimes == 4) return load_pair(p);
        return splat8(*p);
    }
    // Tables of 2 * kWide 16-bit floats, and entry kCount * part + i for each byte i of 32, which is below
    // kCount. Bytes are looked up, the low and the high ones.
    static constexpr int kLooksUp = 16;
    using Table = __m256i;
    using LevelIndex = Bytes;
    static BQ_INLINE LevelIndex level_index(Bytes i) { return i; }
    static BQ_INLINE Table table_f16(Wide a, Wide b) {
        const __m128i low = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
        const __m128i high = _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    template <int kCount>
    static BQ_INLINE void look_up(uint16_t* out, Table t, int part, LevelIndex i) {
        // The bytes of entries 0-7 and 8-15, each with the low ones first.
        const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4,
                                               6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        const __m256i bytes = _mm256_shuffle_epi8(t, order);
        __m256i low, high;
        if constexpr (kCount == 16) {
            low = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0x88), i);
            high = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0xdd), i);
        } else {
            const int first = kCount * part % 8;
            const __m256i entries = kCount * part < 8 ? _mm256_permute4x64_epi64(bytes, 0x44)
                                                      : _mm256_permute4x64_epi64(bytes, 0xee);
            low = _mm256_shuffle_epi8(entries, first == 0 ? i : _mm256_or_si256(i, splat(first)));
            high = _mm256_shuffle_epi8(entries, _mm256_or_si256(i, splat(8 + first)));
        }
        const __m256i outer = _mm256_unpacklo_epi8(low, high);  // elements 0-7 and 16-23
        const __m256i inner = _mm256_unpackhi_epi8(low, high);
        __m256i* to = reinterpret_cast<__m256i*>(out);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(outer, inner, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(outer, inner, 0x31));
    }
    static BQ_INLINE float wide_sum(Wide a) { return sum(a); }
    static BQ_INLINE void wide_sums(const Wide (&a)[4], float* out) {
        const __m256 ab =
            add(_mm256_permute2f128_ps(a[0], a[1], 0x20), _mm256_permute2f128_ps(a[0], a[1], 0x31));
        const __m256 cd =
            add(_mm256_permute2f128_ps(a[2], a[3], 0x20), _mm256_permute2f128_ps(a[2], a[3], 0x31));
        const __m256 pairs = add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
        const __m256 all = add(_mm256_shuffle_ps(pairs, pairs, 0x88), _mm256_shuffle_ps(pairs, pairs, 0xdd));
        _mm_storeu_ps(out, _mm_unpacklo_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }

    // ---- activations
    template <int kCount>
    static BQ_INLINE uint32_t max_magnitude_bits(const float* x) {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i m = _mm256_setzero_si256();
        for (int i = 0; i < kCount / 8; ++i)
            m = _mm256_max_epu32(m, _mm256_and_si256(load(x + 8 * i), magnitude));
        return largest(m);
    }
    static BQ_INLINE uint32_t largest(__m256i m) {
        __m128i h = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
        h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0x4e));
        h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0xb1));
        return static_cast<uint32_t>(_mm_cvtsi128_si32(h));
    }
    struct HalfSums {
        int32_t first, last;
    };
    static BQ_INLINE HalfSums round_to_bytes(const float* x, float factor, int8_t* q) {
        const __m256 f = _mm256_set1_ps(factor);
        __m256i v[4];
        for (int i = 0; i < 4; ++i) {
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), f);
            v[i] = _mm256_cvtps_epi32(_mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        }
        // The packs work within 128-bit halves; the permutation puts their groups of four in order.
        const __m256i words_low = _mm256_packs_epi32(v[0], v[1]), words_high = _mm256_packs_epi32(v[2], v[3]);
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words_low, words_high), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
        const __m256i ones = _mm256_set1_epi16(1);
        const __m256i sums =
            _mm256_hadd_epi32(_mm256_madd_epi16(words_low, ones), _mm256_madd_epi16(words_high, ones));
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        s = _mm_hadd_epi32(s, s);
        return {_mm_cvtsi128_si32(s), _mm_extract_epi32(s, 1)};
    }

  private:
    // The upper halves are the rounded bfloat16; quiet NaNs stay as they are.
    static BQ_INLINE __m256i rounded_to_bf16(__m256 a) {
        const __m256i bits = _mm256_castps_si256(a);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        const __m256i ordered = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_ORD_Q));
        return _mm256_add_epi32(bits, _mm256_and_si256(half, ordered));
    }
};

}  // namespace
}  // namespace bq
