// aarch64: matrix products, compiled twice as neon.cpp is.
#include "simd/tile_neon.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

#if defined(BQ_NEON_DOTPROD)
void bq::fill_neon_dotprod_matmul(KernelTable& table) {
    fill_matmuls<Neon, TileNeon>(table);
}
#else
void bq::fill_neon_matmul(KernelTable& table) {
    fill_matmuls<Neon, TileNeon>(table);
}
#endif
