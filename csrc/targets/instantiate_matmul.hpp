// The matrix products for one vocabulary. Included once by each <isa>_matmul.cpp.
#pragma once

#include "matmul/dot.hpp"
#include "matmul/dot_f32.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

template <class S, FormatId... ids>
void fill_block_matmuls(KernelTable& table) {
    ((table.formats[static_cast<int>(ids)].matmul_i8 = matmul_i8<S, ids>), ...);
    ((table.formats[static_cast<int>(ids)].matmul_f32 = matmul_f32<S, ids>), ...);
}

template <class S>
void fill_matmuls(KernelTable& table) {
    using enum FormatId;
    table.formats[static_cast<int>(F32)].matmul_f32 = matmul_f32<S, F32>;
    table.formats[static_cast<int>(F16)].matmul_f32 = matmul_f32<S, F16>;
    table.formats[static_cast<int>(BF16)].matmul_f32 = matmul_f32<S, BF16>;
    fill_block_matmuls<S, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K>(table);
    fill_block_matmuls<S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0>(table);
}

}  // namespace
}  // namespace bq
