// What this CPU and operating system can run, detected once.
#pragma once

#include <span>

namespace bq {

struct CpuFeatures {
    // x86-64. AVX and AVX-512 count only if the operating system saves their registers.
    bool avx2 = false, fma = false, f16c = false;
    bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false, avx512vnni = false;
    bool avx512vbmi = false, avx512bf16 = false, avx_vnni = false;
    // aarch64
    bool neon = false, dotprod = false, i8mm = false, fp16 = false, sve = false;
};

const CpuFeatures& cpu_features();
// The names of those that are true, for people to read.
std::span<const char* const> cpu_feature_names();

}  // namespace bq
