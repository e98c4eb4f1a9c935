// y = x * w^T for bfloat16 weights and a few to a few dozen rows of activations that are rounded to bfloat16
// too, with vdpbf16ps: tiles as in dot_floats.hpp, two elements to a lane.
#pragma once

#include "matmul/dot_floats.hpp"
#include "simd/avx512.hpp"

namespace bq {
namespace {

struct Bf16Operands {
    using Input = uint16_t;
    using Values = __m512i;
    using Sum = __m512;
    static constexpr int kStep = 32, kBytes = 2;
    static constexpr bool kManyRegisters = true;
    static BQ_INLINE Values weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE Values inputs(const uint16_t* p) { return _mm512_loadu_si512(p); }
    static BQ_INLINE Sum zero() { return _mm512_setzero_ps(); }
    static BQ_INLINE Sum add(Sum a, Sum b) { return _mm512_add_ps(a, b); }
    static BQ_INLINE Sum mul_add(Values w, Values x, Sum sum) {
        return _mm512_dpbf16_ps(sum, load_as<__m512bh>(&w), load_as<__m512bh>(&x));
    }
    static BQ_INLINE float total(Sum sum) { return Avx512::wide_sum(sum); }
    static BQ_INLINE void totals(const Sum (&sums)[4], float* y) { Avx512::wide_sums(sums, y); }
};

static void matmul_bf16(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                        const FloatRows<uint16_t>& x, float* y, int64_t ldy) {
    multiply_floats<Bf16Operands>(w, w_row_bytes, begin, end, x, y, ldy);
}

}  // namespace
}  // namespace bq
