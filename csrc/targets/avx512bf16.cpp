// What AVX-512 with BF16 does otherwise than AVX-512: it decodes to bfloat16. The smallest float16 times the
// smallest factor of any format is far from subnormal; only MXFP4 has scales of its own that reach there, and
// F32 anything.
#include "decode/decode.hpp"
#include "simd/avx512_bf16.hpp"
#include "simd/grid_levels_avx512.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

template <FormatId id>
void fill_one(FormatKernels& f) {
    f.decode_bf16 = decode_row_of<Avx512Bf16, id, OutBF16PlainNans>;
    if constexpr (id != FormatId::IQ1_M && !kDecodesByLevel<Avx512Bf16, id, OutBF16PlainNans>)
        f.decode_bf16_past_caches = decode_row_of<Avx512Bf16, id, OutBF16PastCaches>;
}

template <FormatId... ids>
void fill_decode_bf16(KernelTable& table) {
    (fill_one<ids>(table.formats[static_cast<int>(ids)]), ...);
}

}  // namespace
}  // namespace bq

void bq::fill_avx512_bf16(KernelTable& table) {
    using enum FormatId;
    table.isa = "avx512_bf16";
    table.formats[static_cast<int>(F16)].decode_bf16 = decode_floats<Avx512Bf16, F16, OutBF16>;
    fill_decode_bf16<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0,
                     NVFP4, Q1_0, Q2_0, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S>(table);
}
