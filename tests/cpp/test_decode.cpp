// Every table's decode has the bits of the scalar reference, for any bytes.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "decode/decode_tensor.hpp"
#include "formats/microscaling.hpp"
#include "kernel_tables.hpp"
#include "runtime/float_modes.hpp"

using namespace bq;
using namespace bq::test;

namespace {

bool same_bits(float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

void check_row(const KernelTable& table, FormatId id, const uint8_t* row, int64_t k) {
    const FormatKernels& f = table[id];
    std::vector<float> expected(k), values(k + 1);
    std::vector<uint16_t> half(k + 1), brain(k + 1);
    reference_decode(id, row, expected.data(), k);
    values[k] = 1.5f;
    half[k] = brain[k] = 0x1234;
    f.decode_f32(row, values.data(), k);
    f.decode_f16(row, half.data(), k);
    f.decode_bf16(row, brain.data(), k);
    int64_t wrong = 0, first = -1;
    for (int64_t i = 0; i < k; ++i) {
        const bool nan = std::isnan(expected[i]);
        const bool ok = same_bits(values[i], expected[i]) &&
                        (nan ? std::isnan(f16_to_f32(half[i])) : half[i] == f32_to_f16(expected[i])) &&
                        (nan ? std::isnan(bf16_to_f32(brain[i])) : brain[i] == f32_to_bf16(expected[i]));
        if (!ok && wrong++ == 0) first = i;
    }
    INFO("first wrong element ", first);
    CHECK(wrong == 0);
    CHECK(values[k] == 1.5f);
    CHECK(half[k] == 0x1234);
    CHECK(brain[k] == 0x1234);
}

}  // namespace

TEST_CASE("decode has the bits of the scalar reference") {
    for (const KernelTable* table : runnable_kernels())
        for (FormatId id : implemented_formats()) {
            CAPTURE(std::string(table->isa));
            CAPTURE(std::string(format_info(id).name));
            Rng rng(static_cast<uint64_t>(id) + 1);
            const int64_t block = format_info(id).block_size;
            for (int64_t k : {block, 3 * block, 8 * block, 9 * block, 17 * block, 23 * block, 64 * block}) {
                const size_t bytes = static_cast<size_t>(format_info(id).row_bytes(k));
                check_row(*table, id, random_rows(id, 1, k, rng).data(), k);
                // Any bits at all, at an odd address, ending at the end of a page.
                const std::vector<uint8_t> random = random_bytes(bytes, rng);
                check_row(*table, id, GuardedBytes(random).data(), k);
                std::vector<uint8_t> odd(bytes + 1);
                std::memcpy(odd.data() + 1, random.data(), bytes);
                check_row(*table, id, odd.data() + 1, k);
            }
        }
}

TEST_CASE("threads that flush subnormal numbers have the scales of NVFP4 too") {
    std::vector<BlockNVFP4> blocks(64);
    for (int i = 0; i < 256; ++i) blocks[i / 4].scales[i % 4] = static_cast<uint8_t>(i);
    for (BlockNVFP4& block : blocks)
        for (int i = 0; i < 32; ++i) block.qs[i] = static_cast<uint8_t>(17 * i + 1);
    const auto* const row = reinterpret_cast<const uint8_t*>(blocks.data());
    const auto decoded = [&](auto decode) {
        std::vector<float> values(64 * blocks.size());
        decode(row, values.data(), static_cast<int64_t>(values.size()));
        return values;
    };
    const auto reference = [](auto... of) { reference_decode(FormatId::NVFP4, of...); };
    const std::vector<float> expected = decoded(reference);
    const FloatModes before = FloatModes::now();
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        before.flushing().set();
        const bool spec = decoded(reference) == expected;
        const bool kernel = decoded((*table)[FormatId::NVFP4].decode_f32) == expected;
        before.set();
        CHECK(spec);
        CHECK(kernel);
    }
}

TEST_CASE("every 16-bit float decodes and every scale of Q8_0 does") {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    std::vector<BlockQ8_0> blocks(65536);
    for (size_t i = 0; i < all.size(); ++i) {
        blocks[i].d = all[i];
        for (int j = 0; j < 32; ++j)
            blocks[i].qs[j] = static_cast<int8_t>(8 * j - 128 + static_cast<int>(i % 8));
    }
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        check_row(*table, FormatId::F16, reinterpret_cast<const uint8_t*>(all.data()), 65536);
        check_row(*table, FormatId::BF16, reinterpret_cast<const uint8_t*>(all.data()), 65536);
        check_row(*table, FormatId::Q8_0, reinterpret_cast<const uint8_t*>(blocks.data()), 32 * 65536);
    }
}

TEST_CASE("rounding to 16-bit floats is to nearest, ties to even, at every exponent") {
    std::vector<uint32_t> bits;
    for (uint32_t exponent = 0; exponent < 256; ++exponent)
        for (uint32_t low :
             {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0x17fffu, 0x18000u, 0x18001u, 0xfffu, 0x1000u, 0x1001u,
              0x2fffu, 0x3000u, 0x3001u, 0x7fffffu, 0x7fefffu, 0x7ff000u, 0x400000u})
            for (uint32_t sign : {0u, 1u}) bits.push_back(sign << 31 | exponent << 23 | low);
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        check_row(*table, FormatId::F32, reinterpret_cast<const uint8_t*>(bits.data()),
                  static_cast<int64_t>(bits.size()));
    }
}

template <class Element>
void check_past_caches(void (*plain)(const uint8_t*, Element*, int64_t),
                       void (*past_caches)(const uint8_t*, Element*, int64_t), FormatId id, Rng& rng) {
    if (past_caches == nullptr) return;
    for (int blocks : {1, 3, 8, 19}) {
        const int64_t k = blocks * format_info(id).block_size;
        const GuardedBytes w(random_bytes(static_cast<size_t>(format_info(id).row_bytes(k)), rng));
        std::vector<Element> expected(k), padded(k + 64, Element{7});
        plain(w.data(), expected.data(), k);
        Element* line = padded.data();
        while (reinterpret_cast<uintptr_t>(line) % 64 != 0) ++line;
        past_caches(w.data(), line, k);
        CHECK(std::memcmp(expected.data(), line, static_cast<size_t>(k) * sizeof(Element)) == 0);
        CHECK(line[k] == Element{7});
    }
}

TEST_CASE("decoding past the caches has the same bits") {
    Rng rng(6);
    for (const KernelTable* table : runnable_kernels())
        for (FormatId id : implemented_formats()) {
            const FormatKernels& kernel = (*table)[id];
            CAPTURE(std::string(table->isa));
            CAPTURE(std::string(format_info(id).name));
            check_past_caches(kernel.decode_f32, kernel.decode_f32_past_caches, id, rng);
            check_past_caches(kernel.decode_f16, kernel.decode_f16_past_caches, id, rng);
            check_past_caches(kernel.decode_bf16, kernel.decode_bf16_past_caches, id, rng);
        }
}

TEST_CASE("the first NaN or infinity is found wherever it is") {
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        for (int64_t n : {0, 1, 31, 255, 256, 257, 600}) {
            std::vector<float> x(n, -3.4e38f);
            CHECK(table->first_nonfinite(x.data(), n) == -1);
            int64_t wrong = 0;
            for (int64_t at = 0; at < n; ++at) {
                if (at + 5 < n) x[at + 5] = NAN;
                x[at] = at % 2 == 0 ? -INFINITY : NAN;
                wrong += table->first_nonfinite(x.data(), n) != at;
                x[at] = 1e-40f;
            }
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE("copies past the caches are copies, at every alignment and length") {
    Rng rng(5);
    const std::vector<uint8_t> source = random_bytes(700, rng);
    for (const KernelTable* table : runnable_kernels()) {
        if (table->stream_copy == nullptr) continue;
        CAPTURE(std::string(table->isa));
        int wrong = 0;
        for (size_t at = 0; at < 64; ++at)
            for (size_t bytes : {0, 1, 63, 64, 65, 127, 128, 512, 600}) {
                std::vector<uint8_t> out(800, 7), expected = out;
                std::memcpy(expected.data() + at, source.data() + at % 5, bytes);
                table->stream_copy(out.data() + at, source.data() + at % 5, static_cast<int64_t>(bytes));
                wrong += out != expected;
            }
        CHECK(wrong == 0);
    }
}

TEST_CASE("tensors decode as their rows do, on any number of threads, past the caches or not") {
    for (const KernelTable* table : runnable_kernels())
        for (FormatId id : {FormatId::Q4_K, FormatId::F32, FormatId::F16}) {
            CAPTURE(std::string(table->isa));
            CAPTURE(std::string(format_info(id).name));
            Rng rng(static_cast<uint64_t>(id));
            for (int64_t k : {int64_t{256}, int64_t{256 * 33}, int64_t{256 * 1024 * 50 + 256}}) {
                // A few blocks, over and over: only their number is large.
                std::vector<uint8_t> blocks = random_rows(id, 1, 1536, rng);
                const size_t period = blocks.size();
                blocks.resize(static_cast<size_t>(format_info(id).row_bytes(k)));
                for (size_t i = period; i < blocks.size(); ++i) blocks[i] = blocks[i - period];
                std::vector<float> expected(k), out(k + 1, 1.5f);
                std::vector<uint16_t> half(k), half_out(k + 1, 0x1234);
                (*table)[id].decode_f32(blocks.data(), expected.data(), k);
                (*table)[id].decode_f16(blocks.data(), half.data(), k);
                for (int threads : {1, 3}) {
                    decode_tensor(*table, format_info(id), blocks.data(), out.data(), DecodedType::f32, k,
                                  threads);
                    decode_tensor(*table, format_info(id), blocks.data(), half_out.data(), DecodedType::f16,
                                  k, threads);
                    CHECK(std::memcmp(out.data(), expected.data(), static_cast<size_t>(4 * k)) == 0);
                    CHECK(std::memcmp(half_out.data(), half.data(), static_cast<size_t>(2 * k)) == 0);
                    CHECK(out[k] == 1.5f);
                    CHECK(half_out[k] == 0x1234);
                }
            }
        }
}
