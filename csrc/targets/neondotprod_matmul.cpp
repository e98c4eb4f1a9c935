// aarch64 with the dot product instructions (BQ_NEON_DOTPROD): matrix products with int8 activations, in the
// place of those without.
#include "simd/tile_neon.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_neon_dotprod_matmul(KernelTable& table) {
    fill_int8_matmuls<Neon, TileNeon>(table);
}
