// AVX-512 BF16: products with bfloat16 weights.
#include "matmul/dot_bf16.hpp"
#include "matmul/gemm_bf16.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_bf16_matmul(KernelTable& table) {
    FormatKernels& bf16 = table.formats[static_cast<int>(FormatId::BF16)];
    bf16.matmul_bf16 = matmul_bf16;
    bf16.matmul_bf16_panels = matmul_bf16_panels;
    bf16.bf16_panels_from = 65;
}
