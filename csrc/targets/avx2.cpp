// AVX2, FMA and F16C (Haswell, Zen and later).
#include "simd/avx2.hpp"
#include "targets/instantiate.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2(KernelTable& table) {
    fill_table<Avx2>(table, "avx2");
}
