// AVX-512 VBMI: the products of the formats that gain from it, in the place of AVX-512's.
#include "matmul/dot_blocks.hpp"
#include "matmul/gemm.hpp"
#include "simd/block_vbmi.hpp"
#include "simd/tile_avx512.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

template <FormatId id>
struct Opener : VbmiDotOf<id> {
    static BQ_INLINE void store_chunk(uint8_t* to, __m512i chunk) { _mm512_storeu_si512(to, chunk); }
};

template <FormatId id>
void fill_matmul(KernelTable& table) {
    FormatKernels& f = table.formats[static_cast<int>(id)];
    f.matmul_i8 = matmul_blocks<BlockVbmi, id>;
    f.matmul_panels = matmul_panels<Avx512, TileAvx512, id, Opener<id>>;
    f.panel_shape = Panel<Avx512, TileAvx512, id, Opener<id>>::shape();
}

template <FormatId... ids>
void fill_matmuls(KernelTable& table) {
    (fill_matmul<ids>(table), ...);
}

}  // namespace
}  // namespace bq

void bq::fill_vbmi_matmul(KernelTable& table) {
    using enum FormatId;
    fill_matmuls<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0>(table);
}
