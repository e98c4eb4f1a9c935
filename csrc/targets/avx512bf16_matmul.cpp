// AVX-512 BF16: the product of many rows with bfloat16 weights.
#include "matmul/gemm_bf16.hpp"
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_avx512_bf16_matmul(KernelTable& table) {
    table.formats[static_cast<int>(FormatId::BF16)].matmul_bf16_panels = matmul_bf16_panels;
}
