// AVX-512: products of strips.
#include "simd/strip_avx512.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_strips(StripKernels& kernels) {
    using enum FormatId;
    fill_plain_strips<StripAvx512>(kernels);
    pay_from<2, Q8_0>(kernels);
    panels_from<33, Q2_K, Q6_K, NVFP4>(kernels);
    panels_from<49, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, IQ4_NL, IQ4_XS, MXFP4>(kernels);
    panels_from<97, Q5_0, Q5_1, Q2_0>(kernels);
    // Elsewhere rows are faster: their bytes need no unpacking.
    fill_strips_of<StripAvx512, Q8_0>(kernels);
}
