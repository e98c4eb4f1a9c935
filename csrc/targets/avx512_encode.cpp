// AVX-512: encoders.
#include "simd/avx512.hpp"
#include "targets/instantiate_encode.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_encode(KernelTable& table) {
    fill_encoders<Avx512>(table);
}
