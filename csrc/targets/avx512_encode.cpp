// AVX-512: encoders.
#include "simd/lanes_avx512.hpp"
#include "targets/instantiate_encode.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_encode(KernelTable& table) {
    fill_encoders<LanesAvx512, LanesAvx2>(table);
}
