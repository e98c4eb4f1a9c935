// AVX-512 VBMI: the products of few rows of the formats that gain from it, in the place of AVX-512's.
#include "matmul/dot_blocks.hpp"
#include "simd/block_vbmi.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

template <FormatId... ids>
void fill_few_rows(KernelTable& table) {
    ((table.formats[static_cast<int>(ids)].matmul_i8 = matmul_blocks<BlockVbmi, ids>), ...);
}

}  // namespace
}  // namespace bq

void bq::fill_vbmi_matmul(KernelTable& table) {
    using enum FormatId;
    fill_few_rows<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0>(table);
}
