// AVX-VNNI: matrix products.
#include "simd/avx_vnni.hpp"
#include "simd/block_avx_vnni.hpp"
#include "simd/tile_avx_vnni.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_avx_vnni_matmul(KernelTable& table) {
    fill_matmuls<AvxVnni, TileAvxVnni, BlockAvxVnni>(table);
}
