// AVX2: products of strips.
#include "simd/strip_avx2.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2_strips(StripKernels& kernels) {
    using enum FormatId;
    fill_plain_strips<StripAvx2>(kernels);
    fill_strips_of<StripAvx2, Q8_0>(kernels);
    fill_strip_panels<Avx2, TileAvx2, StripAvx2, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K,
                      IQ4_NL, IQ4_XS, TQ2_0, MXFP4, NVFP4>(kernels);
    pay_from<2, Q5_K>(kernels);
    pay_from<3, Q6_K>(kernels);
    kernels.prefers_whole_tiles = true;
    panels_from<5, NVFP4>(kernels);
    panels_from<8, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4>(kernels);
    panels_from<9, Q3_K, Q5_K, Q6_K>(kernels);
    panels_from<10, Q4_K>(kernels);
    panels_from<12, Q2_K, IQ4_NL, IQ4_XS, TQ2_0>(kernels);
    panels_from<16, Q1_0>(kernels);
    panels_from<20, Q8_0, Q2_0>(kernels);
}
