// AVX2: products of strips.
#include "simd/strip_avx2.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2_strips(StripKernels& kernels) {
    fill_plain_strips<StripAvx2>(kernels);
}
