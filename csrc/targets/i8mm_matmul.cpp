// aarch64 with i8mm: the products of many rows, in the place of those with the dot product instructions.
#include "matmul/gemm.hpp"
#include "simd/tile_i8mm.hpp"
#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

template <FormatId... ids>
void fill_many_rows(KernelTable& table) {
    ((table.formats[static_cast<int>(ids)].matmul_panels = matmul_panels<Neon, TileI8mm, ids>), ...);
}

}  // namespace
}  // namespace bq

void bq::fill_i8mm_matmul(KernelTable& table) {
    using enum FormatId;
    fill_many_rows<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K>(table);
    fill_many_rows<IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0>(table);
    fill_many_rows<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S>(table);
}
