// aarch64 with the dot product instructions (BQ_NEON_DOTPROD): matrix products.
#include "simd/tile_neon.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_neon_dotprod_matmul(KernelTable& table) {
    fill_matmuls<Neon, TileNeon>(table);
}
