// Decode, activations and the transformer for one vocabulary. Included once by each <isa>.cpp; the products
// and the encoders, which take the compiler longest, have files of their own.
#pragma once

#include "decode/decode.hpp"
#include "encode/finite.hpp"
#include "matmul/quantize_activations.hpp"
#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"
#include "targets/block_formats.hpp"
#include "targets/kernels.hpp"
#include "transformer/fill.hpp"

namespace bq {
namespace {

template <class S, FormatId id>
void fill_block_format(KernelTable& table) {
    FormatKernels& f = table.formats[static_cast<int>(id)];
    f.decode_f32 = decode_row_of<S, id, OutF32>;
    f.decode_f16 = decode_row_of<S, id, OutF16>;
    f.decode_bf16 = decode_row_of<S, id, OutBF16PlainNans>;
    if constexpr (S::kStreams != 0) f.decode_f32_past_caches = decode_row_of<S, id, OutF32PastCaches>;
    // What comes from tables waits for the values, not for the memory, and so do two others.
    constexpr bool kWaits = id == FormatId::IQ1_M || kDecodesByLevel<S, id, OutF16>;
    if constexpr (2 * S::kWide * 2 == S::kStreams && !kWaits) {
        if constexpr (id != FormatId::Q6_K) f.decode_f16_past_caches = decode_row_of<S, id, OutF16PastCaches>;
        f.decode_bf16_past_caches = decode_row_of<S, id, OutBF16PastCaches>;
    }
}

template <class S, FormatId... ids>
void fill_block_formats(KernelTable& table, Formats<ids...>) {
    (fill_block_format<S, ids>(table), ...);
}

template <class S>
void fill_float_formats(KernelTable& table) {
    using enum FormatId;
    FormatKernels& f32 = table.formats[static_cast<int>(F32)];
    f32.decode_f32 = copy_floats<4, float>;
    f32.decode_f16 = decode_floats<S, F32, OutF16>;
    f32.decode_bf16 = decode_floats<S, F32, OutBF16>;
    FormatKernels& f16 = table.formats[static_cast<int>(F16)];
    f16.decode_f32 = decode_floats<S, F16, OutF32>;
    f16.decode_f16 = copy_floats<2, uint16_t>;
    f16.decode_bf16 = decode_floats<S, F16, OutBF16>;
    FormatKernels& bf16 = table.formats[static_cast<int>(BF16)];
    bf16.decode_f32 = decode_floats<S, BF16, OutF32>;
    bf16.decode_f16 = decode_floats<S, BF16, OutF16>;
    bf16.decode_bf16 = copy_floats<2, uint16_t>;
}

template <class S>
void fill_table(KernelTable& table, const char* isa) {
    table.isa = isa;
    fill_float_formats<S>(table);
    fill_block_formats<S>(table, BlockFormats{});
    table.quantize_activations = quantize_activations<S>;
    table.first_nonfinite = first_nonfinite;
    if constexpr (S::kStreams != 0) table.stream_copy = stream_copy<S>;
    table.transformer = transformer_kernels<S>();
}

}  // namespace
}  // namespace bq
