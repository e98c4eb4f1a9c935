// AVX2 with AVX-VNNI: all but products with int8 activations is AVX2's.
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_avx_vnni(KernelTable& table) {
    table.isa = "avx_vnni";
}
