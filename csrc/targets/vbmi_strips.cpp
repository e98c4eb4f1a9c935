// AVX-512 VBMI: products of strips of the formats that are looked up in tables, which others lack.
#include "simd/strip_vbmi.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_vbmi_strips(StripKernels& kernels) {
    using enum FormatId;
    fill_strips_of<StripVbmi, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0>(kernels);
    panels_from<33, IQ2_XXS, IQ2_XS>(kernels);
    panels_from<65, IQ3_XXS, IQ3_S>(kernels);
}
