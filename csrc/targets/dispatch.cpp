// Which tables this CPU can run, and which one is in use.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "encode/encode.hpp"
#include "runtime/cpu_features.hpp"
#include "targets/kernels.hpp"
#include "targets/strip_kernels.hpp"
#include "targets/targets.hpp"

namespace bq {
namespace {

struct Tables {
    std::vector<KernelTable> tables;
    std::vector<StripKernels> strips;  // of the tables
    std::vector<const KernelTable*> available;

    Tables() {
        [[maybe_unused]] const CpuFeatures& cpu = cpu_features();
        add(true, {fill_baseline, fill_baseline_matmul});
#if defined(BQ_HAVE_AVX2)
        const bool avx2 = cpu.avx2 && cpu.fma && cpu.f16c;
        add(avx2, {fill_avx2, fill_avx2_matmul, fill_avx2_encode});
        if (avx2) fill_avx2_strips(strips.back());
#if defined(BQ_HAVE_AVX_VNNI)
        const bool avx_vnni = avx2 && cpu.avx_vnni;
        add(avx_vnni, {fill_avx2, fill_avx2_matmul, fill_avx2_encode, fill_avx_vnni, fill_avx_vnni_matmul});
        if (avx_vnni) fill_avx_vnni_strips(strips.back());
#endif
#endif
#if defined(BQ_HAVE_AVX512)
        const bool avx512 =
            avx2 && cpu.avx512f && cpu.avx512bw && cpu.avx512dq && cpu.avx512vl && cpu.avx512vnni;
        add(avx512, {fill_avx512, fill_avx512_matmul, fill_avx512_encode});
        if (avx512) add_strips(cpu.avx512vbmi);
#if defined(BQ_HAVE_AVX512_BF16)
        const bool bf16 = avx512 && cpu.avx512bf16;
        add(bf16,
            {fill_avx512, fill_avx512_matmul, fill_avx512_encode, fill_avx512_bf16, fill_avx512_bf16_matmul});
        if (bf16) add_strips(cpu.avx512vbmi);
#endif
#endif
#if defined(BQ_HAVE_NEON)
        add(cpu.neon, {fill_neon, fill_neon_matmul, fill_neon_encode});
        add(cpu.neon && cpu.dotprod,
            {fill_neon, fill_neon_matmul, fill_neon_encode, fill_neon_dotprod, fill_neon_dotprod_matmul});
#if defined(BQ_HAVE_I8MM)
        if (cpu.neon && cpu.dotprod && cpu.i8mm) fill_i8mm_matmul(tables.back());
#endif
#endif
        for (const KernelTable& table : tables) available.push_back(&table);
    }

    void add(bool runs_here, std::initializer_list<void (*)(KernelTable&)> fills) {
        if (!runs_here) return;
        KernelTable& table = tables.emplace_back();
        for (const FormatInfo& f : all_formats())
            table.formats[static_cast<int>(f.id)].encode = reference_encoder(f.id);
        for (const auto fill : fills) fill(table);
        strips.emplace_back();
    }

#if defined(BQ_HAVE_AVX512)
    void add_strips(bool vbmi) {
        fill_avx512_strips(strips.back());
        if (!vbmi) return;
        fill_vbmi_matmul(tables.back());
        fill_vbmi_strips(strips.back());
    }
#endif
};

const Tables& all_tables() {
    // Never destroyed: at the end of a process other threads may still be in a kernel.
    static const Tables& tables = *new Tables;
    return tables;
}

const KernelTable* find(const char* isa) {
    for (const KernelTable* table : all_tables().available)
        if (std::strcmp(table->isa, isa) == 0) return table;
    return nullptr;
}

struct Choice {
    std::atomic<const KernelTable*> table;
    std::atomic<bool> settled{false};  // by set_kernels: what the environment asks for no longer matters
    std::string error;

    Choice() : table(all_tables().available.back()) {
        const char* isa = std::getenv("BLOCKQUANT_ISA");
        if (isa == nullptr || *isa == '\0') return;
        if (const KernelTable* found = find(isa)) {
            table = found;
            return;
        }
        error =
            std::string("BLOCKQUANT_ISA is \"") + isa + "\", which this CPU or build lacks; expected one of";
        for (const KernelTable* t : all_tables().available) error += std::string(" ") + t->isa;
    }
};

Choice& choice() {
    static Choice& chosen = *new Choice;
    return chosen;
}

}  // namespace

std::span<const KernelTable* const> available_kernels() {
    return all_tables().available;
}

const KernelTable& kernels() {
    return *choice().table.load(std::memory_order_acquire);
}

const StripKernels& strip_kernels(const KernelTable& table) {
    return all_tables().strips[static_cast<size_t>(&table - all_tables().tables.data())];
}

bool set_kernels(const char* isa) {
    const KernelTable* found = find(isa);
    if (found == nullptr) return false;
    choice().table.store(found, std::memory_order_release);
    choice().settled = true;
    return true;
}

const char* isa_error() {
    const Choice& chosen = choice();
    return chosen.error.empty() || chosen.settled ? nullptr : chosen.error.c_str();
}

}  // namespace bq
