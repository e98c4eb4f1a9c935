// AVX2, FMA and F16C: encoders.
#include "simd/lanes_avx2.hpp"
#include "targets/instantiate_encode.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2_encode(KernelTable& table) {
    fill_encoders<LanesAvx2>(table);
}
