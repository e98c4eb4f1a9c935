// The one symbol of each per-instruction-set object: it fills its part of a table. Call it only on a CPU that
// can run it. Baseline has no encoders of its own: it runs the reference's.
#pragma once

namespace bq {

struct KernelTable;
struct StripKernels;

void fill_baseline(KernelTable& table);
void fill_baseline_matmul(KernelTable& table);
void fill_avx2(KernelTable& table);
void fill_avx2_matmul(KernelTable& table);
void fill_avx2_encode(KernelTable& table);
void fill_avx2_strips(StripKernels& kernels);
// After those of avx2, but for the strips.
void fill_avx_vnni(KernelTable& table);
void fill_avx_vnni_matmul(KernelTable& table);
void fill_avx_vnni_strips(StripKernels& kernels);
void fill_avx512(KernelTable& table);
void fill_avx512_matmul(KernelTable& table);
void fill_avx512_encode(KernelTable& table);
void fill_avx512_strips(StripKernels& kernels);
// After those of avx512.
void fill_vbmi_matmul(KernelTable& table);
void fill_vbmi_strips(StripKernels& kernels);
void fill_avx512_bf16(KernelTable& table);
void fill_avx512_bf16_matmul(KernelTable& table);
void fill_neon(KernelTable& table);
void fill_neon_matmul(KernelTable& table);
void fill_neon_encode(KernelTable& table);
// After those of neon.
void fill_neon_dotprod(KernelTable& table);
void fill_neon_dotprod_matmul(KernelTable& table);
// After those of neon_dotprod.
void fill_i8mm_matmul(KernelTable& table);

}  // namespace bq
