#include "runtime/cpu_features.hpp"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define BQ_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define BQ_ARM 1
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

namespace bq {
namespace {

#if defined(BQ_X86)
struct Registers {
    uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r{};
#if defined(_MSC_VER)
    int out[4];
    __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
    r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
         static_cast<uint32_t>(out[3])};
#else
    __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
#endif
    return r;
}

// The register states that the operating system saves (XCR0).
uint64_t saved_states() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
#endif
}

CpuFeatures detect() {
    CpuFeatures f;
    const auto bit = [](uint32_t word, int i) { return (word >> i & 1) != 0; };
    if (cpuid(0, 0).a < 7) return f;
    const Registers one = cpuid(1, 0);
    const bool osxsave = bit(one.c, 27), avx = bit(one.c, 28);
    if (!osxsave || !avx) return f;
    const uint64_t saved = saved_states();
    if ((saved & 0x6) != 0x6) return f;  // xmm and ymm
    const Registers seven = cpuid(7, 0), more = seven.a >= 1 ? cpuid(7, 1) : Registers{};
    f.fma = bit(one.c, 12);
    f.f16c = bit(one.c, 29);
    f.avx2 = bit(seven.b, 5);
    f.avx_vnni = bit(more.a, 4);
    if ((saved & 0xe6) != 0xe6) return f;  // the mask registers and all of zmm
    f.avx512f = bit(seven.b, 16);
    f.avx512dq = bit(seven.b, 17);
    f.avx512bw = bit(seven.b, 30);
    f.avx512vl = bit(seven.b, 31);
    f.avx512vbmi = bit(seven.c, 1);
    f.avx512vnni = bit(seven.c, 11);
    f.avx512bf16 = bit(more.a, 5);
    return f;
}
#elif defined(BQ_ARM)
#if defined(__APPLE__)
bool sysctl_flag(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

CpuFeatures detect() {
    CpuFeatures f;
    f.neon = true;  // part of aarch64
#if defined(__linux__)
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    f.fp16 = first >> 10 & 1;     // HWCAP_ASIMDHP
    f.dotprod = first >> 20 & 1;  // HWCAP_ASIMDDP
    f.sve = first >> 22 & 1;      // HWCAP_SVE
    f.i8mm = second >> 13 & 1;    // HWCAP2_I8MM
#elif defined(__APPLE__)
    f.fp16 = sysctl_flag("hw.optional.arm.FEAT_FP16");
    f.dotprod = sysctl_flag("hw.optional.arm.FEAT_DotProd");
    f.i8mm = sysctl_flag("hw.optional.arm.FEAT_I8MM");
#elif defined(_WIN32)
    f.dotprod = IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#endif
    return f;
}
#else
CpuFeatures detect() {
    return {};
}
#endif

struct Names {
    const char* list[16];
    size_t count = 0;
    explicit Names(const CpuFeatures& f) {
        const auto add = [this](bool has, const char* name) {
            if (has) list[count++] = name;
        };
        add(f.avx2, "avx2");
        add(f.fma, "fma");
        add(f.f16c, "f16c");
        add(f.avx_vnni, "avx_vnni");
        add(f.avx512f, "avx512f");
        add(f.avx512bw, "avx512bw");
        add(f.avx512dq, "avx512dq");
        add(f.avx512vl, "avx512vl");
        add(f.avx512vnni, "avx512vnni");
        add(f.avx512vbmi, "avx512vbmi");
        add(f.avx512bf16, "avx512bf16");
        add(f.neon, "neon");
        add(f.dotprod, "dotprod");
        add(f.i8mm, "i8mm");
        add(f.fp16, "fp16");
        add(f.sve, "sve");
    }
};

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

std::span<const char* const> cpu_feature_names() {
    static const Names names(cpu_features());
    return {names.list, names.count};
}

}  // namespace bq
