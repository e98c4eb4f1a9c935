// AVX2: products of strips.
#include "simd/strip_avx2.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2_strips(StripKernels& kernels) {
    using enum FormatId;
    fill_plain_strips<StripAvx2>(kernels);
    only_for_more_rows<Q4_K, Q5_K, Q6_K>(kernels);
    panels_from<25, Q4_1, Q2_K, Q4_K, Q5_K, MXFP4>(kernels);
    panels_from<33, Q2_0>(kernels);
    panels_from<65, Q5_0, Q5_1>(kernels);
}
