// The vectorised encoders for one lane vocabulary. Included once by each <isa>_encode.cpp. They replace the
// reference encoders, which are in the table before, and give the same bytes.
#pragma once

#include "encode/lanes_grid.hpp"
#include "encode/lanes_iq1.hpp"
#include "encode/lanes_iq4.hpp"
#include "encode/lanes_k_quants.hpp"
#include "encode/lanes_legacy.hpp"
#include "encode/lanes_low_bit.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

// An encoder that watches out for NaNs and infinities where there are none, and that takes no imatrix.
template <EncodeIfFinite encode>
void encode_finite(const float* x, uint8_t* out, int64_t k, const float*) {
    encode(x, out, k);
}

// V is the vocabulary of one register; E one of at most eight lanes, for the formats of a grid.
template <class V, class E = V>
void fill_encoders(KernelTable& table) {
    using enum FormatId;
    using S = Paired<V>;
    const auto set = [&](FormatId id, EncodeRow encode) {
        table.formats[static_cast<int>(id)].encode = encode;
    };
    const auto set_watchful = [&](FormatId id, EncodeRow encode, EncodeIfFinite encode_if_finite) {
        set(id, encode);
        table.formats[static_cast<int>(id)].encode_if_finite = encode_if_finite;
    };
    set(F16, encode_f16<V>);
    set(BF16, encode_bf16<V>);
    set_watchful(Q4_0, encode_symmetric<S, V, BlockQ4_0, 8>, encode_peaks<V, BlockQ4_0, 8>);
    set_watchful(Q4_1, encode_affine<S, V, BlockQ4_1, 15>, encode_ranges<V, BlockQ4_1, 15>);
    set_watchful(Q5_0, encode_symmetric<S, V, BlockQ5_0, 16>, encode_peaks<V, BlockQ5_0, 16>);
    set_watchful(Q5_1, encode_affine<S, V, BlockQ5_1, 31>, encode_ranges<V, BlockQ5_1, 31>);
    set_watchful(Q8_0, encode_finite<encode_q8_0<V>>, encode_q8_0<V>);
    set(Q2_K, encode_affine_k<S, V, BlockQ2_K>);
    set(Q3_K, encode_q3_k<S, V>);
    set(Q4_K, encode_affine_k<S, V, BlockQ4_K>);
    set(Q5_K, encode_affine_k<S, V, BlockQ5_K>);
    set(Q6_K, encode_q6_k<S, V>);
    set(IQ1_S, encode_ternary<encode::FormatIQ1_S, V, E>);
    set(IQ1_M, encode_ternary<encode::FormatIQ1_M, V, E>);
    set(IQ2_XXS, encode_grid<encode::FormatIQ2_XXS, E>);
    set(IQ2_XS, encode_grid<encode::FormatIQ2_XS, E>);
    set(IQ2_S, encode_grid<encode::FormatIQ2_S, E>);
    set(IQ3_XXS, encode_grid<encode::FormatIQ3_XXS, E>);
    set(IQ3_S, encode_grid<encode::FormatIQ3_S, E>);
    set(IQ4_NL, encode_iq4_nl<S, V>);
    set(IQ4_XS, encode_iq4_xs<S, V>);
    set_watchful(TQ1_0, encode_finite<encode_ternary_blocks<V, BlockTQ1_0>>,
                 encode_ternary_blocks<V, BlockTQ1_0>);
    set_watchful(TQ2_0, encode_finite<encode_ternary_blocks<V, BlockTQ2_0>>,
                 encode_ternary_blocks<V, BlockTQ2_0>);
    set_watchful(MXFP4, encode_finite<encode_mxfp4<V>>, encode_mxfp4<V>);
    set_watchful(NVFP4, encode_finite<encode_nvfp4<V>>, encode_nvfp4<V>);
    set_watchful(Q1_0, encode_finite<encode_q1_0<V>>, encode_q1_0<V>);
    set_watchful(Q2_0, encode_finite<encode_q2_0<V>>, encode_q2_0<V>);
}

}  // namespace
}  // namespace bq
