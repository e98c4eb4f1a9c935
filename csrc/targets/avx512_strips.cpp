// AVX-512: products of strips.
#include "simd/strip_avx512.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_strips(StripKernels& kernels) {
    fill_plain_strips<StripAvx512>(kernels);
    // Elsewhere rows are faster: their bytes need no unpacking.
    fill_strips_of<StripAvx512, FormatId::Q8_0>(kernels);
}
