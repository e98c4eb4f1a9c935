// The matrix products for one vocabulary. Included once by each <isa>_matmul.cpp.
#pragma once

#include "matmul/dot.hpp"
#include "matmul/dot_blocks.hpp"
#include "matmul/dot_f32.hpp"
#include "matmul/dot_floats.hpp"
#include "matmul/gemm.hpp"
#include "matmul/gemm_f32.hpp"
#include "matmul/gemm_float_lanes.hpp"
#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"
#include "targets/block_formats.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

template <class S, class B, FormatId id>
constexpr MatmulI8 few_rows() {
    if constexpr (!IsSame<B, void>::value) {
        if constexpr (SuperBlock<S, id>::kKnown) return matmul_blocks<B, id>;
    }
    return matmul_i8<S, id>;
}

constexpr PanelShape float_shape(int tile_rows, int lanes) {
    return {0, 0, false, 0, tile_rows, lanes, 0, false};
}

template <class S, class T, class B, FormatId id>
void fill_block_matmul(KernelTable& table) {
    FormatKernels& f = table.formats[static_cast<int>(id)];
    f.matmul_i8 = few_rows<S, B, id>();
    f.matmul_panels = matmul_panels<S, T, id>;
    f.panels_from = 5;
    if constexpr (!IsSame<B, void>::value)
        if (takes_eight_rows<B, id>()) f.panels_from = 9;
    f.panel_shape = ChosenPanel<S, T, id>::shape();
}

// The exact products of blocks.
template <class S, class T, FormatId id>
void fill_exact_matmul(KernelTable& table) {
    FormatKernels& f = table.formats[static_cast<int>(id)];
    f.matmul_f32 = matmul_f32<S, id>;
    f.matmul_float_panels = matmul_float_panels<S, T, id>;
    f.float_panel_shape = float_shape(T::kFloatRows, T::kLanes);
}

template <class S, class T, FormatId id>
void fill_float_matmul(KernelTable& table) {
    FormatKernels& f = table.formats[static_cast<int>(id)];
    f.matmul_f32 = matmul_floats<S, id>;
    f.floats_in_parts = FloatOperands<S, id>::kInParts;
    // The numbers of rows are measured: with room for fewer sums, or larger weights, loads bind the tiles of
    // few rows sooner.
    if constexpr (T::kRowsInLanes) {
        f.matmul_float_panels = matmul_float_lanes<S, id>;
        f.float_panel_shape = float_shape(kLaneTile, kLanesGroup);
        f.float_panels_from = id == FormatId::BF16 ? 14 : 15;
        f.float_panels_fill = id == FormatId::F16 ? 82 : 0;
    } else {
        f.matmul_float_panels = matmul_float_panels<S, T, id>;
        f.float_panel_shape = float_shape(T::kFloatRows, T::kLanes);
        constexpr bool converts = S::kOneWeightRow && id == FormatId::F16;  // at the cost of many products
        f.float_panels_from = converts              ? 8
                              : f.floats_in_parts   ? (id == FormatId::F32 ? 33 : 49)
                              : id == FormatId::F32 ? 129
                                                    : 257;
    }
}

template <class S, class T, class B, FormatId... ids>
void fill_block_matmuls(KernelTable& table, Formats<ids...>) {
    (fill_block_matmul<S, T, B, ids>(table), ...);
}
template <class S, class T, FormatId... ids>
void fill_exact_matmuls(KernelTable& table, Formats<ids...>) {
    (fill_exact_matmul<S, T, ids>(table), ...);
}

// S: the vocabulary; T: what it needs for many rows; B: for super-blocks in integers, or void.
// Products with int8 activations.
template <class S, class T, class B = void>
void fill_int8_matmuls(KernelTable& table) {
    fill_block_matmuls<S, T, B>(table, BlockFormats{});
}
// Products with float activations.
template <class S, class T>
void fill_float_matmuls(KernelTable& table) {
    fill_float_matmul<S, T, FormatId::F32>(table);
    fill_float_matmul<S, T, FormatId::F16>(table);
    fill_float_matmul<S, T, FormatId::BF16>(table);
    fill_exact_matmuls<S, T>(table, BlockFormats{});
}
template <class S, class T, class B = void>
void fill_matmuls(KernelTable& table) {
    fill_int8_matmuls<S, T, B>(table);
    fill_float_matmuls<S, T>(table);
}

}  // namespace
}  // namespace bq
