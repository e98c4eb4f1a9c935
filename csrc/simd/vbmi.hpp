// Tables of bytes looked up in registers with AVX-512 VBMI.
#pragma once

#include "formats/codebooks/planes.hpp"
#include "simd/avx512.hpp"

namespace bq {
namespace {

// table[index] for kCount times 64 indices of log2(128 * kTables) bits, of which `low` holds the low seven
// (and anything in its top bits) and `bits` the others, from bit 7 on, as masks. Several at a time share the
// loads of the table, which take as long as the lookups.
template <int kTables, int kCount>
BQ_INLINE void look_up_all(const uint8_t* table, const __m512i (&low)[kCount],
                           const __mmask64* const (&bits)[kCount], __m512i (&found)[kCount]) {
    if constexpr (kTables == 1) {
        const __m512i first = _mm512_loadu_si512(table), last = _mm512_loadu_si512(table + 64);
        for (int i = 0; i < kCount; ++i) found[i] = _mm512_permutex2var_epi8(first, low[i], last);
    } else {
        constexpr int kHalf = kTables / 2, kBit = kTables == 2 ? 0 : kTables == 4 ? 1 : kTables == 8 ? 2 : 3;
        __m512i above[kCount];
        look_up_all<kHalf>(table, low, bits, found);
        look_up_all<kHalf>(table + 128 * kHalf, low, bits, above);
        for (int i = 0; i < kCount; ++i) found[i] = _mm512_mask_blend_epi8(bits[i][kBit], found[i], above[i]);
    }
}
// The same for 64 indices.
template <int kTables>
BQ_INLINE __m512i look_up(const uint8_t* table, __m512i low, const __mmask64* bits) {
    __m512i found[1];
    look_up_all<kTables, 1>(table, {low}, {bits}, found);
    return found[0];
}

// What a table says of elements 4 to 7 of 64 points of IQ1, of whose indices `low` has eight bits and `high`
// three (and anything above them): the upper seven bits of an index say nearly all.
BQ_INLINE __m512i look_up_upper_half(const codebooks::iq1_s::UpperHalves& halves, __m512i low, __m512i high) {
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i part =
        _mm512_ternarylogic_epi32(nibble, _mm512_srli_epi16(low, 4), _mm512_slli_epi16(high, 4), 0xca);
    const __mmask64 changed =
        _mm512_cmpge_epu8_mask(_mm512_and_si512(low, nibble), look_up<1>(halves.change, part, nullptr));
    return _mm512_mask_blend_epi8(changed, look_up<1>(halves.first, part, nullptr),
                                  look_up<1>(halves.last, part, nullptr));
}

}  // namespace
}  // namespace bq
