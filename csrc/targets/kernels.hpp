// The table of kernels that each instruction set fills, and how the running one is chosen.
// Every kernel is pure: pointers, sizes, a row range; no allocation, no threads, no exceptions.
#pragma once

#include <cstdint>
#include <span>

#include "formats/format.hpp"
#include "transformer/transformer_kernels.hpp"

namespace bq {

// Activation rows quantized to int8, with the sums that formats with minima or offsets need. One scale per
// run: x is about scale[i / run] * q[i]. Rows are contiguous; k is a multiple of run.
inline constexpr int kActivationRun = 32;
inline constexpr int kLongActivationRun =
    256;  // for weights in super-blocks of 256, whose integer sums it spares

constexpr int activation_run(const FormatInfo& format) {
    return format.block_size == kLongActivationRun ? kLongActivationRun : kActivationRun;
}

struct Activations {
    const int8_t* q;            // [rows, k], in -127..127
    const float* scales;        // [rows, k / run]
    const float* sums;          // [rows, k / 16]: scale * sum of the 16 integers
    const int16_t* whole_sums;  // [rows, k / 16]: sum of the 16 integers
    int64_t rows;
    int64_t k;
    int run;  // kActivationRun or kLongActivationRun

    // `count` rows from `first` on.
    Activations part(int64_t first, int64_t count) const {
        return {q + first * k,
                scales + first * (k / run),
                sums + first * (k / 16),
                whole_sums + first * (k / 16),
                count,
                k,
                run};
    }
};

// Bytes up to a multiple of a cache line.
constexpr int64_t whole_lines(int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// Byte sizes and offsets of one allocation that holds all arrays of `rows` rows.
struct ActivationLayout {
    int64_t scales_offset, sums_offset, whole_sums_offset, bytes;
    int run;
    static ActivationLayout of(int64_t rows, int64_t k, int run);
    Activations view(const void* base, int64_t rows, int64_t k) const;
};

// How the product of many rows wants its activations (csrc/matmul/packed_rows.hpp) and its ranges of weight
// rows.
struct PanelShape {
    int run;     // elements of a weight scale
    int offset;  // what the panel's integers have above the values
    bool has_minima;
    int activation_run;
    int tile_rows;  // activation rows of a tile
    int lanes;      // weight rows of a panel
    // Elements of a minimum where minima are integers: sums then go in pairs of int16. Otherwise 0.
    int minimum_run;
    bool raised;  // activations go as unsigned bytes, 128 above
};

// Activation rows that pass a panel of weights before the next one is unpacked: at most so many.
inline constexpr int64_t kMostBlockRows = 528;

struct PackedRows {
    const int8_t* q;
    const int32_t* start;
    const float* scales;
    const float* sums;
    int64_t rows;
    int64_t k;
    int64_t block_rows = kMostBlockRows;
};

// Float activations as they are, float32 or bfloat16, `stride` elements from row to row.
template <class T>
struct FloatRows {
    const T* x;
    int64_t stride;
    int64_t rows;
    int64_t k;
};

// Float activations in tiles as in PackedRows: [k][row of tile]; for matmul_bf16_panels words of two
// bfloat16, [ceil(k / 2)][row of tile].
struct PackedFloats {
    const float* x;
    int64_t rows;
    int64_t k;
    int64_t block_rows = kMostBlockRows;
};

// One row of blocks, k elements, to floats. `out` need not be aligned.
using DecodeF32 = void (*)(const uint8_t* blocks, float* out, int64_t k);
using DecodeU16 = void (*)(const uint8_t* blocks, uint16_t* out, int64_t k);  // f16 or bf16 bits

// y[r * ldy + n] = sum over k of x[r][k] * w[n][k], for the weight rows begin <= n < end.
// Results of a row do not depend on how many activation rows are given or on the weight row range.
using MatmulI8 = void (*)(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                          const Activations& x, float* y, int64_t ldy);
// The same for many rows, which it takes packed; begin is a multiple of the panel's lanes. Results differ
// from MatmulI8's in the order of float additions.
using MatmulPanels = void (*)(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                              const PackedRows& x, float* y, int64_t ldy);
// The same with float activations: the exact path, and the only one of float formats.
using MatmulF32 = void (*)(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                           const FloatRows<float>& x, float* y, int64_t ldy);
// The same with activations in bfloat16.
using MatmulBf16 = void (*)(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                            const FloatRows<uint16_t>& x, float* y, int64_t ldy);
// The same for many rows; begin is a multiple of the panel's lanes.
using MatmulFloatPanels = void (*)(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                                   const PackedFloats& x, float* y, int64_t ldy);

// One row of k floats to blocks. imatrix is nullptr or holds k weights. Bytes are ggml's.
using EncodeRow = void (*)(const float* x, uint8_t* out, int64_t k, const float* imatrix);

// The same without an imatrix, of floats that may not be finite: false if one perhaps is a NaN or an
// infinity. If they turn out to be finite, they have been encoded nevertheless.
using EncodeIfFinite = bool (*)(const float* x, uint8_t* out, int64_t k);

// The index of the first NaN or infinity, or -1.
using FirstNonfinite = int64_t (*)(const float* x, int64_t n);

struct FormatKernels {
    DecodeF32 decode_f32 = nullptr;
    // The same with stores that leave the caches alone, to an `out` on a cache line. nullptr where there are
    // none.
    DecodeF32 decode_f32_past_caches = nullptr;
    DecodeU16 decode_f16 = nullptr;
    DecodeU16 decode_bf16 = nullptr;
    // As decode_f32_past_caches.
    DecodeU16 decode_f16_past_caches = nullptr;
    DecodeU16 decode_bf16_past_caches = nullptr;
    MatmulI8 matmul_i8 = nullptr;  // nullptr for the float formats
    MatmulPanels matmul_panels = nullptr;
    PanelShape panel_shape{};  // of matmul_panels
    int panels_from = 5;       // activation rows from which on matmul_panels is faster than matmul_i8
    MatmulF32 matmul_f32 = nullptr;
    MatmulFloatPanels matmul_float_panels = nullptr;
    PanelShape float_panel_shape{};  // of matmul_float_panels and matmul_bf16_panels: tile_rows and lanes
    int float_panels_from = 5;       // activation rows
    int float_panels_fill = 0;       // percent of the rows of their tiles that there must be for them
    bool floats_in_parts = false;    // matmul_f32 takes k part by part, for weights of floats
    // Much faster, for activations that are rounded to bfloat16; nullptr where there are none.
    MatmulBf16 matmul_bf16 = nullptr;
    MatmulFloatPanels matmul_bf16_panels = nullptr;
    int bf16_panels_from = 5;
    EncodeRow encode = nullptr;
    // nullptr where looking for NaNs ahead costs little beside encoding.
    EncodeIfFinite encode_if_finite = nullptr;
};

// Quantizes rows begin <= r < end of x [rows, k] into the arrays that `out` points at (which the caller
// owns).
using QuantizeActivations = void (*)(const float* x, int64_t begin, int64_t end, const Activations& out);

// memcpy whose stores bypass the caches, but for a few at either end. A fence must follow before others may
// read.
using StreamCopy = void (*)(void* to, const void* from, int64_t bytes);

struct KernelTable {
    const char* isa = nullptr;  // as BLOCKQUANT_ISA names it: "baseline", "avx2", "neon", ...
    FormatKernels formats[kFormatIdLimit];
    QuantizeActivations quantize_activations = nullptr;
    FirstNonfinite first_nonfinite = nullptr;
    StreamCopy stream_copy = nullptr;  // nullptr where the instruction set has no such stores
    TransformerKernels transformer;

    const FormatKernels& operator[](FormatId id) const { return formats[static_cast<int>(id)]; }
};

// What this build and this CPU can run, best last.
std::span<const KernelTable* const> available_kernels();
// The table in use. Chosen once (BLOCKQUANT_ISA, else the best); cheap to call.
const KernelTable& kernels();
// False when the CPU or the build lacks it.
bool set_kernels(const char* isa);
// nullptr, or what is wrong with BLOCKQUANT_ISA (the best table is then in use, until set_kernels).
const char* isa_error();

}  // namespace bq
