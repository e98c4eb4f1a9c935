// aarch64: encoders, compiled twice as neon.cpp is.
#include "simd/lanes_neon.hpp"
#include "targets/instantiate_encode.hpp"
#include "targets/targets.hpp"

#if defined(BQ_NEON_DOTPROD)
void bq::fill_neon_dotprod_encode(KernelTable& table) {
    fill_encoders<LanesNeon>(table);
}
#else
void bq::fill_neon_encode(KernelTable& table) {
    fill_encoders<LanesNeon>(table);
}
#endif
