#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "encode/encode.hpp"
#include "kernel_tables.hpp"
#include "runtime/caches.hpp"
#include "runtime/cpu_features.hpp"

using namespace bq;

TEST_CASE("the baseline is always there, each table is complete, and the last one is in use") {
    const auto tables = available_kernels();
    REQUIRE(!tables.empty());
    CHECK(std::string(tables.front()->isa) == "baseline");
    for (const KernelTable* table : test::runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        CHECK((table->quantize_activations != nullptr));
        for (const FormatInfo& f : all_formats()) {
            CAPTURE(std::string(f.name));
            const FormatKernels& k = (*table)[f.id];
            CHECK((k.decode_f32 != nullptr) == f.implemented);
            CHECK((k.decode_f16 != nullptr) == f.implemented);
            CHECK((k.decode_bf16 != nullptr) == f.implemented);
            CHECK((k.matmul_f32 != nullptr) == f.implemented);
            CHECK((k.matmul_i8 != nullptr) == (f.implemented && !f.is_float()));
            CHECK((k.encode != nullptr) == f.implemented);
        }
    }
    for (const FormatInfo& f : all_formats())
        CHECK(((*tables.front())[f.id].encode == reference_encoder(f.id)));
}

TEST_CASE("a table can be chosen by name") {
    const std::string before = kernels().isa;
    for (const KernelTable* table : available_kernels()) {
        CHECK(set_kernels(table->isa));
        CHECK(&kernels() == table);
    }
    CHECK_FALSE(set_kernels("mmx"));
    CHECK_FALSE(set_kernels(""));
    CHECK(&kernels() == available_kernels().back());
    CHECK(set_kernels(before.c_str()));
}

TEST_CASE("tables follow the CPU's features") {
    const CpuFeatures& cpu = cpu_features();
    const auto has = [](const char* isa) {
        const auto tables = available_kernels();
        return std::any_of(tables.begin(), tables.end(),
                           [&](const KernelTable* t) { return std::string(t->isa) == isa; });
    };
    if (has("avx2")) CHECK((cpu.avx2 && cpu.fma && cpu.f16c));
    if (has("avx512")) CHECK((has("avx2") && cpu.avx512f && cpu.avx512vnni));
    if (has("avx512_bf16")) CHECK((has("avx512") && cpu.avx512bf16));
    if (has("neon_dotprod")) CHECK((has("neon") && cpu.dotprod));
#if defined(__aarch64__)
    CHECK(has("neon"));
#endif
    for (const char* name : cpu_feature_names()) CHECK(std::string(name) != "");
}

TEST_CASE("the largest cache has a size that caches have, or is not known") {
    const int64_t bytes = largest_cache();
    CAPTURE(bytes);
    if (bytes != 0) {
        CHECK(bytes >= 16 << 10);
        CHECK(bytes <= int64_t{4} << 30);
        CHECK(bytes % 1024 == 0);
    }
    CHECK(largest_cache() == bytes);
}
