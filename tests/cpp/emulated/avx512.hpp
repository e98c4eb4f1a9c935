// AVX-512 intrinsics on a CPU without them: SIMDe's, and those that SIMDe 0.7.4 lacks made of AVX2 halves.
// Included ahead of csrc/targets/avx512*.cpp and vbmi*.cpp in the tests alone.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstring>

template <class Half, class Whole>
static inline Half bq_emulated_upper(const Whole& a) {
    Half half;
    std::memcpy(&half, reinterpret_cast<const char*>(&a) + sizeof half, sizeof half);
    return half;
}
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(a, one) bq_emulated_upper<__m256>(a)

static inline __m512i bq_emulated_cvtepi8_epi32(__m128i a) {
    const __m256i low = _mm256_cvtepi8_epi32(a), high = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32(a) bq_emulated_cvtepi8_epi32(a)

static inline __m512i bq_emulated_cvtepu16_epi32(__m256i a) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(a) bq_emulated_cvtepu16_epi32(a)

static inline __m512 bq_emulated_cvtepi32_ps(__m512i a) {
    const __m256 low = _mm256_cvtepi32_ps(simde_mm512_castsi512_si256(a));
    const __m256 high = _mm256_cvtepi32_ps(bq_emulated_upper<__m256i>(a));
    return simde_mm512_insertf32x8(simde_mm512_castps256_ps512(low), high, 1);
}
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(a) bq_emulated_cvtepi32_ps(a)

static inline __m512 bq_emulated_cvtph_ps(__m256i a) {
    const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
    const __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
    return simde_mm512_insertf32x8(simde_mm512_castps256_ps512(low), high, 1);
}
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(a) bq_emulated_cvtph_ps(a)

template <int kRounding>
static inline __m256i bq_emulated_cvtps_ph(__m512 a) {
    const __m128i low = _mm256_cvtps_ph(simde_mm512_castps512_ps256(a), kRounding);
    const __m128i high = _mm256_cvtps_ph(bq_emulated_upper<__m256>(a), kRounding);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) bq_emulated_cvtps_ph<rounding>(a)

static inline __m256i bq_emulated_cvtepi32_epi16(__m512i a) {
    const __m256i mask = _mm256_set1_epi32(0xffff);
    const __m256i low = _mm256_and_si256(simde_mm512_castsi512_si256(a), mask);
    const __m256i high = _mm256_and_si256(bq_emulated_upper<__m256i>(a), mask);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(a) bq_emulated_cvtepi32_epi16(a)

static inline __m128i bq_emulated_cvtepi32_epi8(__m512i a) {
    const __m256i words = bq_emulated_cvtepi32_epi16(a), low = _mm256_set1_epi16(255);
    const __m256i bytes = _mm256_and_si256(words, low);
    return _mm_packus_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(a) bq_emulated_cvtepi32_epi8(a)

static inline __m512i bq_emulated_cvttps_epi32(__m512 a) {
    const __m256i low = _mm256_cvttps_epi32(simde_mm512_castps512_ps256(a));
    const __m256i high = _mm256_cvttps_epi32(bq_emulated_upper<__m256>(a));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32(a) bq_emulated_cvttps_epi32(a)

// To nearest even, the only rounding that is asked for.
static inline __m512i bq_emulated_cvt_roundps_epi32(__m512 a) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256i low = _mm256_cvtps_epi32(_mm256_round_ps(simde_mm512_castps512_ps256(a), kNearest));
    const __m256i high = _mm256_cvtps_epi32(_mm256_round_ps(bq_emulated_upper<__m256>(a), kNearest));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvt_roundps_epi32
#define _mm512_cvt_roundps_epi32(a, rounding) bq_emulated_cvt_roundps_epi32(a)

static inline void bq_emulated_stream_ps(float* p, __m512 a) {
    _mm256_stream_ps(p, simde_mm512_castps512_ps256(a));
    _mm256_stream_ps(p + 8, bq_emulated_upper<__m256>(a));
}
#undef _mm512_stream_ps
#define _mm512_stream_ps(p, a) bq_emulated_stream_ps(p, a)

static inline void bq_emulated_stream_si512(__m512i* p, __m512i a) {
    __m256i* const to = reinterpret_cast<__m256i*>(p);
    _mm256_stream_si256(to, simde_mm512_castsi512_si256(a));
    _mm256_stream_si256(to + 1, bq_emulated_upper<__m256i>(a));
}
#undef _mm512_stream_si512
#define _mm512_stream_si512(p, a) bq_emulated_stream_si512(p, a)

static inline __m512i bq_emulated_cvtepu8_epi16(__m256i a) {
    const __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(a));
    const __m256i high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(a, 1));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvtepu8_epi16
#define _mm512_cvtepu8_epi16(a) bq_emulated_cvtepu8_epi16(a)

static inline __m512i bq_emulated_srai_epi32(__m512i a, unsigned count) {
    const __m256i low = _mm256_srai_epi32(simde_mm512_castsi512_si256(a), static_cast<int>(count));
    const __m256i high = _mm256_srai_epi32(bq_emulated_upper<__m256i>(a), static_cast<int>(count));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(a, count) bq_emulated_srai_epi32(a, count)

static inline __m512 bq_emulated_permutevar_ps(__m512 a, __m512i i) {
    const __m256 low = _mm256_permutevar_ps(simde_mm512_castps512_ps256(a), simde_mm512_castsi512_si256(i));
    const __m256 high = _mm256_permutevar_ps(bq_emulated_upper<__m256>(a), bq_emulated_upper<__m256i>(i));
    return simde_mm512_insertf32x8(simde_mm512_castps256_ps512(low), high, 1);
}
#undef _mm512_permutevar_ps
#define _mm512_permutevar_ps(a, i) bq_emulated_permutevar_ps(a, i)

static inline __m512 bq_emulated_i32gather_ps(__m512i i, const float* base) {
    const __m256 low = _mm256_i32gather_ps(base, simde_mm512_castsi512_si256(i), 4);
    const __m256 high = _mm256_i32gather_ps(base, bq_emulated_upper<__m256i>(i), 4);
    return simde_mm512_insertf32x8(simde_mm512_castps256_ps512(low), high, 1);
}
#undef _mm512_i32gather_ps
#define _mm512_i32gather_ps(i, base, four) bq_emulated_i32gather_ps(i, base)

static inline __m512i bq_emulated_i32gather_epi32(__m512i i, const int* base) {
    const __m256i low = _mm256_i32gather_epi32(base, simde_mm512_castsi512_si256(i), 4);
    const __m256i high = _mm256_i32gather_epi32(base, bq_emulated_upper<__m256i>(i), 4);
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32(i, base, four) bq_emulated_i32gather_epi32(i, base)

// Rounding to bfloat16: subnormal numbers count as zero, NaNs become quiet.
static inline uint16_t bq_emulated_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) == 0) return static_cast<uint16_t>((bits & 0x80000000u) >> 16);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline __m256i bq_emulated_cvtneps_pbh(__m512 a) {
    float in[16];
    uint16_t out[16];
    simde_mm512_storeu_ps(in, a);
    for (int i = 0; i < 16; ++i) out[i] = bq_emulated_bf16(in[i]);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(out));
}
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh(a) bq_emulated_cvtneps_pbh(a)
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh(high, low)                                                 \
    simde_mm512_inserti32x8(simde_mm512_castsi256_si512(bq_emulated_cvtneps_pbh(low)), \
                            bq_emulated_cvtneps_pbh(high), 1)

// SIMDe 0.7.4 gives this name to the form with a mask.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

template <int kLanes, class Vector>
static inline Vector bq_emulated_shuffle_lanes(Vector a, Vector b) {
    char from[2][64], to[64];
    std::memcpy(from[0], &a, sizeof a);
    std::memcpy(from[1], &b, sizeof b);
    for (int lane = 0; lane < 4; ++lane)
        std::memcpy(to + 16 * lane, from[lane / 2] + 16 * (kLanes >> 2 * lane & 3), 16);
    std::memcpy(&a, to, sizeof a);
    return a;
}
#undef _mm512_shuffle_i64x2
#define _mm512_shuffle_i64x2(a, b, lanes) bq_emulated_shuffle_lanes<lanes>(a, b)
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, lanes) bq_emulated_shuffle_lanes<lanes>(a, b)

static inline __m512i bq_emulated_mulhi_epu16(__m512i a, __m512i b) {
    const __m256i low = _mm256_mulhi_epu16(simde_mm512_castsi512_si256(a), simde_mm512_castsi512_si256(b));
    const __m256i high = _mm256_mulhi_epu16(bq_emulated_upper<__m256i>(a), bq_emulated_upper<__m256i>(b));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_mulhi_epu16
#define _mm512_mulhi_epu16(a, b) bq_emulated_mulhi_epu16(a, b)

static inline __m512i bq_emulated_cvtepi16_epi32(__m256i a) {
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(a));
    const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(a, 1));
    return simde_mm512_inserti32x8(simde_mm512_castsi256_si512(low), high, 1);
}
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32(a) bq_emulated_cvtepi16_epi32(a)

// What the mask leaves out is not read.
template <class Vector, class Element>
static inline Vector bq_emulated_masked_load(uint64_t mask, const void* p) {
    Element elements[sizeof(Vector) / sizeof(Element)] = {};
    for (size_t i = 0; i < sizeof elements / sizeof *elements; ++i)
        if (mask >> i & 1) std::memcpy(elements + i, static_cast<const Element*>(p) + i, sizeof(Element));
    Vector loaded;
    std::memcpy(&loaded, elements, sizeof loaded);
    return loaded;
}
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8(mask, p) bq_emulated_masked_load<__m512i, uint8_t>(mask, p)
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16(mask, p) bq_emulated_masked_load<__m256i, uint16_t>(mask, p)
