// AVX-VNNI: products of strips.
#include "simd/strip_avx_vnni.hpp"
#include "targets/instantiate_strips.hpp"
#include "targets/targets.hpp"

void bq::fill_avx_vnni_strips(StripKernels& kernels) {
    using enum FormatId;
    fill_plain_strips<StripAvxVnni>(kernels);
    pay_from<2, Q4_K, Q5_K, Q6_K>(kernels);
}
