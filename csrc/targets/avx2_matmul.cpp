// AVX2, FMA and F16C: matrix products.
#include "simd/block_avx2.hpp"
#include "simd/tile_avx2.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_avx2_matmul(KernelTable& table) {
    fill_matmuls<Avx2, TileAvx2, BlockAvx2>(table);
}
