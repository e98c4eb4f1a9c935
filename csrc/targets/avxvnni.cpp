// AVX2 with AVX-VNNI: decoding and encoding are AVX2's.
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_avx_vnni(KernelTable& table) {
    table.isa = "avx_vnni";
}
