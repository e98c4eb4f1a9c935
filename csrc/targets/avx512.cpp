// AVX-512 with VNNI (Ice Lake, Zen 4 and later).
#include "simd/grid_levels_avx512.hpp"
#include "targets/instantiate.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512(KernelTable& table) {
    fill_table<Avx512>(table, "avx512");
}
