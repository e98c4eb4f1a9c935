// AVX-512: matrix products.
#include "simd/block_avx512.hpp"
#include "simd/tile_avx512.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_matmul(KernelTable& table) {
    fill_matmuls<Avx512, TileAvx512, BlockAvx512>(table);
}
