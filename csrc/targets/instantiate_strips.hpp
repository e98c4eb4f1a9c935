// The products of strips for one vocabulary. Included once by each <isa>_strips.cpp.
#pragma once

#include "matmul/dot_strips.hpp"
#include "matmul/strip_panels.hpp"
#include "targets/strip_kernels.hpp"

namespace bq {
namespace {

template <class V, FormatId... ids>
void fill_strips_of(StripKernels& kernels) {
    ((kernels.formats[static_cast<int>(ids)] = matmul_strips<V, ids>), ...);
}

// Panels filled from strips; V's activations must not be transposed.
template <class S, class T, class V, FormatId... ids>
void fill_strip_panels(StripKernels& kernels) {
    ((kernels.panels[static_cast<int>(ids)] = matmul_strip_panels<S, T, V, ids>), ...);
}

template <int kRows, FormatId... ids>
void pay_from(StripKernels& kernels) {
    ((kernels.pay_from[static_cast<int>(ids)] = kRows), ...);
}

template <int kRows, FormatId... ids>
void panels_from(StripKernels& kernels) {
    ((kernels.panels_from[static_cast<int>(ids)] = kRows), ...);
}

// Of the formats whose integers are fields of bits or entries of a table of sixteen.
template <class V>
void fill_plain_strips(StripKernels& kernels) {
    using enum FormatId;
    kernels.lanes = V::kLanes;
    kernels.transpose = transpose_activations<V>;
    fill_strips_of<V, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K>(kernels);
    fill_strips_of<V, IQ4_NL, IQ4_XS, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0>(kernels);
}

}  // namespace
}  // namespace bq
