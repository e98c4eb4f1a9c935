// The first bad element is the one that the scalar reference decodes to no finite number, on any number of
// threads.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "decode/check_tensor.hpp"
#include "kernel_tables.hpp"

using namespace bq;
using namespace bq::test;

TEST_CASE("bad elements are found where the reference has them") {
    for (const KernelTable* table : runnable_kernels())
        for (FormatId id : implemented_formats()) {
            if (id == FormatId::MXFP4 || id == FormatId::NVFP4) continue;
            const FormatInfo& format = format_info(id);
            CAPTURE(std::string(table->isa));
            CAPTURE(std::string(format.name));
            Rng rng(static_cast<uint64_t>(id) + 7);
            const int64_t k = 40 * 2048 + format.block_size;
            std::vector<uint8_t> bytes = random_rows(id, 1, k, rng);
            CHECK(find_bad_element(*table, format, bytes.data(), k, 2).index == -1);
            // Ever earlier blocks of random bits, until one is bad.
            std::vector<float> expected(k);
            for (const int64_t block : {k / format.block_size - 1, int64_t{600} * 256 / format.block_size / 2,
                                        int64_t{3} * 256 / format.block_size, int64_t{0}}) {
                const auto junk = random_bytes(format.type_size, rng);
                std::copy(junk.begin(), junk.end(), bytes.begin() + block * format.type_size);
                reference_decode(id, bytes.data(), expected.data(), k);
                int64_t first = 0;
                while (first < k && std::isfinite(expected[first])) ++first;
                const GuardedBytes guarded(bytes);
                for (const int threads : {1, 3}) {
                    const BadElement bad = find_bad_element(*table, format, guarded.data(), k, threads);
                    CHECK(bad.index == (first == k ? -1 : first));
                    CHECK(!bad.is_nan_scale);
                }
            }
        }
}

TEST_CASE("NaNs of E8M0 and E4M3 scales are found though they decode to numbers") {
    const KernelTable& table = *runnable_kernels().front();
    for (FormatId id : {FormatId::MXFP4, FormatId::NVFP4}) {
        const FormatInfo& format = format_info(id);
        const int64_t k = 64 * 1024;
        std::vector<uint8_t> bytes(format.row_bytes(k), 0);
        CHECK(find_bad_element(table, format, bytes.data(), k, 2).index == -1);
        const int64_t block = k / format.block_size - 3;
        bytes[block * format.type_size] = 0xff;
        const BadElement bad = find_bad_element(table, format, bytes.data(), k, 2);
        CHECK(bad.index == block * format.block_size);
        CHECK(bad.is_nan_scale);
    }
}

TEST_CASE("every scale of MXFP4 and NVFP4 is told from the infinite ones") {
    const KernelTable& table = *runnable_kernels().front();
    for (FormatId id : {FormatId::MXFP4, FormatId::NVFP4}) {
        const FormatInfo& format = format_info(id);
        CAPTURE(std::string(format.name));
        std::vector<uint8_t> bytes(3 * format.type_size, 0x77);  // the largest number everywhere
        std::vector<float> expected(3 * format.block_size);
        for (int scale = 0; scale < 256; ++scale) {
            for (int i = 0; i < (id == FormatId::MXFP4 ? 1 : 4); ++i)
                for (int block = 0; block < 3; ++block)
                    bytes[block * format.type_size + i] = static_cast<uint8_t>(block == 1 ? scale : 1);
            reference_decode(id, bytes.data(), expected.data(), static_cast<int64_t>(expected.size()));
            const bool is_nan = id == FormatId::MXFP4 ? scale == 0xff : (scale & 0x7f) == 0x7f;
            const bool is_good = std::isfinite(expected[format.block_size]) && !is_nan;
            CAPTURE(scale);
            CHECK(find_bad_element(table, format, bytes.data(), 3 * format.block_size, 1).index ==
                  (is_good ? -1 : format.block_size));
        }
    }
}

TEST_CASE("infinite and NaN halves are found wherever a block has its scales and minima") {
    const KernelTable& table = *runnable_kernels().front();
    for (FormatId id : implemented_formats()) {
        if (id == FormatId::MXFP4 || id == FormatId::NVFP4) continue;
        const FormatInfo& format = format_info(id);
        CAPTURE(std::string(format.name));
        const int64_t k = 3 * format.block_size;
        Rng rng(static_cast<uint64_t>(id) + 9);
        const std::vector<uint8_t> good = random_rows(id, 1, k, rng);
        std::vector<float> expected(k);
        for (const uint16_t half : {0x7c00, 0xfc00, 0x7e01})
            for (int64_t at = format.type_size; at + 2 <= 2 * format.type_size; ++at) {
                std::vector<uint8_t> bytes = good;
                bytes[at] = static_cast<uint8_t>(half);
                bytes[at + 1] = static_cast<uint8_t>(half >> 8);
                reference_decode(id, bytes.data(), expected.data(), k);
                int64_t first = 0;
                while (first < k && std::isfinite(expected[first])) ++first;
                CAPTURE(at);
                CHECK(find_bad_element(table, format, bytes.data(), k, 1).index == (first == k ? -1 : first));
            }
    }
}
