// aarch64 with i8mm: the products of many rows, in the place of those with the dot product instructions.
#include "matmul/gemm.hpp"
#include "simd/tile_i8mm.hpp"
#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"
#include "targets/block_formats.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

template <FormatId... ids>
void fill_many_rows(KernelTable& table, Formats<ids...>) {
    ((table.formats[static_cast<int>(ids)].matmul_panels = matmul_panels<Neon, TileI8mm, ids>), ...);
}

}  // namespace
}  // namespace bq

void bq::fill_i8mm_matmul(KernelTable& table) {
    fill_many_rows(table, BlockFormats{});
}
