// AVX-VNNI: matrix products with int8 activations, in the place of those of AVX2.
#include "simd/avx_vnni.hpp"
#include "simd/block_avx_vnni.hpp"
#include "simd/tile_avx_vnni.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_avx_vnni_matmul(KernelTable& table) {
    fill_int8_matmuls<AvxVnni, TileAvxVnni, BlockAvxVnni>(table);
}
