// Tables of bytes looked up in registers with AVX-512 VBMI.
#pragma once

#include "simd/avx512.hpp"

namespace bq {
namespace {

// table[index] for 64 indices of log2(128 * kTables) bits, of which `low` holds the low seven (and anything
// in its top bits) and `bits` the others, from bit 7 on, as masks.
template <int kTables>
BQ_INLINE __m512i look_up(const uint8_t* table, __m512i low, const __mmask64* bits) {
    if constexpr (kTables == 1) {
        return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), low, _mm512_loadu_si512(table + 64));
    } else {
        constexpr int kHalf = kTables / 2, kBit = kTables == 2 ? 0 : kTables == 4 ? 1 : kTables == 8 ? 2 : 3;
        const __m512i first = look_up<kHalf>(table, low, bits);
        const __m512i last = look_up<kHalf>(table + 128 * kHalf, low, bits);
        return _mm512_mask_blend_epi8(bits[kBit], first, last);
    }
}

}  // namespace
}  // namespace bq
