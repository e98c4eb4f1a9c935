// aarch64: encoders.
#include "simd/lanes_neon.hpp"
#include "targets/instantiate_encode.hpp"
#include "targets/targets.hpp"

void bq::fill_neon_encode(KernelTable& table) {
    fill_encoders<LanesNeon>(table);
}
