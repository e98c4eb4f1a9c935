// The vectorised encoders for one lane vocabulary. Included once by each <isa>_encode.cpp. They replace the
// reference encoders, which are in the table before, and give the same bytes.
#pragma once

#include "encode/lanes_iq4.hpp"
#include "encode/lanes_k_quants.hpp"
#include "encode/lanes_legacy.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

// V is the vocabulary of one register.
template <class V>
void fill_encoders(KernelTable& table) {
    using enum FormatId;
    const auto set = [&](FormatId id, EncodeRow encode) {
        table.formats[static_cast<int>(id)].encode = encode;
    };
    set(Q2_K, encode_affine_k<V, V, BlockQ2_K>);
    set(Q4_K, encode_affine_k<V, V, BlockQ4_K>);
    set(Q5_K, encode_affine_k<V, V, BlockQ5_K>);
    set(Q3_K, encode_q3_k<V, V>);
    set(IQ4_NL, encode_iq4_nl<V, V>);
    set(IQ4_XS, encode_iq4_xs<V, V>);
    set(Q6_K, encode_q6_k<V, V>);
}

}  // namespace
}  // namespace bq
