// Weights in strips: every byte comes back, and the products are those of the rows.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "matmul/strips.hpp"
#include "products.hpp"
#include "targets/strip_kernels.hpp"

using namespace bq;
using namespace bq::test;

namespace {

std::vector<uint8_t> strips_of(FormatId id, int lanes, int64_t strips, int64_t k,
                               const std::vector<uint8_t>& rows) {
    const FormatInfo& f = format_info(id);
    std::vector<uint8_t> laid_out(rows.size());
    const int64_t bytes = lanes * f.row_bytes(k);
    for (int64_t i = 0; i < strips; ++i)
        rows_to_strip(id, lanes, k / f.block_size, rows.data() + i * bytes, laid_out.data() + i * bytes);
    return laid_out;
}

template <class Body>
void for_each_strip_kernel(Body&& body) {
    int kernels = 0;
    for (const StripTable& t : strip_tables())
        for (FormatId id : implemented_formats()) {
            if (t.strips->lanes == 0 || (*t.strips)[id] == nullptr) continue;
            CAPTURE(std::string(t.table->isa));
            CAPTURE(std::string(format_info(id).name));
            body(*t.table, *t.strips, id);
            ++kernels;
        }
    MESSAGE("kernels of strips: " << kernels);
}

// The activations of a product in the order that the format wants them.
struct Ordered {
    std::vector<int8_t> transposed;
    Activations x;
    Ordered(const StripKernels& kernels, FormatId id, const Activations& natural)
        : transposed(static_cast<size_t>(natural.rows * natural.k)), x(natural) {
        if (!strip_layout(id).transposed) return;
        kernels.transpose(natural.q, transposed.data(), natural.rows * natural.k);
        x.q = transposed.data();
    }
};

// The products of some strips with activation rows: near float64's, and the same strip by strip and row by
// row.
void check_whole_and_pieces(const KernelTable& table, const StripKernels& kernels, FormatId id,
                            int64_t strips, int64_t k, int64_t rows, Rng& rng) {
    const int64_t n = strips * kernels.lanes, row_bytes = format_info(id).row_bytes(k);
    const Input x(table, id, rows, k, rng);
    const Ordered ordered(kernels, id, x.quantized);
    const std::vector<uint8_t> w = random_rows(id, n, k, rng);
    const GuardedBytes laid_out(strips_of(id, kernels.lanes, strips, k, w));
    std::vector<float> y(static_cast<size_t>(rows * n), NAN), pieces(y);
    kernels[id](laid_out.data(), row_bytes, 0, strips, ordered.x, y.data(), n);
    check_products(x, w, n, y);
    for (int64_t i = 0; i < strips; ++i)
        for (int64_t r = 0; r < rows; ++r)
            kernels[id](laid_out.data(), row_bytes, i, i + 1, ordered.x.part(r, 1), pieces.data() + r * n, n);
    CHECK(y == pieces);
}

}  // namespace

TEST_CASE("strips hold every bit of their rows") {
    Rng rng(31);
    for (FormatId id : implemented_formats()) {
        const FormatInfo& f = format_info(id);
        CAPTURE(std::string(f.name));
        if (f.is_float()) {
            CHECK(strip_layout(id).words == 0);
            continue;
        }
        for (int lanes : {8, 16})
            for (int64_t blocks : {1, 2, 5}) {
                const std::vector<uint8_t> rows =
                    random_bytes(static_cast<size_t>(lanes * blocks * f.type_size), rng);
                const GuardedBytes from(rows);
                std::vector<uint8_t> strip(rows.size() + 1, 0xee), back(rows.size() + 1, 0xee);
                rows_to_strip(id, lanes, blocks, from.data(), strip.data());
                strip_to_rows(id, lanes, blocks, GuardedBytes({strip.begin(), strip.end() - 1}).data(),
                              back.data());
                CHECK(strip.back() == 0xee);
                CHECK(back.back() == 0xee);
                CHECK(std::memcmp(back.data(), rows.data(), rows.size()) == 0);
                CHECK((blocks == 1 && lanes == 1) ==
                      (std::memcmp(strip.data(), rows.data(), rows.size()) == 0));
            }
    }
}

TEST_CASE("products of strips are the float64 products of the quantized values") {
    for_each_strip_kernel([](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        Rng rng(32);
        for (int64_t blocks : {1, 2, 3, 9})
            for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 11})
                check_whole_and_pieces(table, kernels, id, 3, blocks * format_info(id).block_size, rows, rng);
    });
}

TEST_CASE("strips of any length are multiplied side by side as one by one") {
    // The longer they are, the fewer are met side by side, and the less is asked for ahead.
    for_each_strip_kernel([](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        Rng rng(47);
        if (format_info(id).block_size == 256) return;  // the other formats are read side by side
        for (int64_t k : {2048, 4096, 12288})
            for (int64_t rows : {1, 2}) check_whole_and_pieces(table, kernels, id, 5, k, rows, rng);
    });
}

TEST_CASE("products of strips of equal bytes and the largest activations neither saturate nor overflow") {
    for_each_strip_kernel([](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        const FormatInfo& f = format_info(id);
        const int64_t k = (f.block_size == 256 ? 2 : 9) * f.block_size, n = kernels.lanes;
        Rng rng(42);
        for (int byte : {0x00, 0x0f, 0x7f, 0x80, 0xf0, 0xff})
            for (int64_t rows : {1, 4, 8}) {
                CAPTURE(byte);
                const std::vector<uint8_t> w = rows_of_byte(id, n, k, static_cast<uint8_t>(byte), rng);
                Input x(table, id, rows, k, rng);
                x.make_largest(table);
                const Ordered ordered(kernels, id, x.quantized);
                const std::vector<uint8_t> laid_out = strips_of(id, kernels.lanes, 1, k, w);
                std::vector<float> y(static_cast<size_t>(rows * n), NAN);
                kernels[id](laid_out.data(), f.row_bytes(k), 0, 1, ordered.x, y.data(), n);
                check_products(x, w, n, y);
            }
    });
}

TEST_CASE("panels filled from strips are those of the rows") {
    int compared = 0;
    for_each_strip_kernel([&](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        const MatmulStripPanels panels = kernels.panels[static_cast<int>(id)];
        if (panels == nullptr) return;
        CHECK_FALSE(strip_layout(id).transposed);  // activations are packed in their order
        Rng rng(34);
        const FormatInfo& f = format_info(id);
        for (int64_t blocks : {int64_t{1}, int64_t{3}, int64_t{1280} / f.block_size})
            for (int64_t rows : {1, 5, 9}) {
                const int64_t k = blocks * f.block_size, strips = 5, n = strips * kernels.lanes;
                const Input x(table, id, rows, k, rng);
                const std::vector<uint8_t> w = random_rows(id, n, k, rng);
                const GuardedBytes laid_out(strips_of(id, kernels.lanes, strips, k, w));
                std::vector<float> y(static_cast<size_t>(rows * n), NAN), pieces(y), expected(y);
                table[id].matmul_panels(w.data(), f.row_bytes(k), 0, n, x.packed, expected.data(), n);
                panels(laid_out.data(), f.row_bytes(k), 0, strips, x.packed, y.data(), n);
                CHECK(y == expected);
                for (int64_t i = 0; i < strips; i += 2)
                    panels(laid_out.data(), f.row_bytes(k), i, std::min(i + 2, strips), x.packed,
                           pieces.data(), n);
                CHECK(pieces == expected);
                ++compared;
            }
    });
    MESSAGE("products of panels filled from strips: " << compared);
}

TEST_CASE("strips and results may lie as far apart as 64 bits tell") {
    const int64_t rows = 9, first = int64_t{1} << 31;
    const FarRows far(rows);
    for_each_strip_kernel([&](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        Rng rng(38);
        const FormatInfo& f = format_info(id);
        const int64_t k = f.block_size, n = 2 * kernels.lanes, bytes = kernels.lanes * f.row_bytes(k);
        const Input x(table, id, rows, k, rng);
        const Ordered ordered(kernels, id, x.quantized);
        const std::vector<uint8_t> strips = strips_of(id, kernels.lanes, 2, k, random_rows(id, n, k, rng));
        const auto compare = [&](auto* kernel, const auto& activations) {
            if (kernel == nullptr) return;
            std::vector<float> near(static_cast<size_t>(rows * n), NAN);
            kernel(strips.data(), f.row_bytes(k), 0, 2, activations, near.data(), n);
            for (int64_t r = 0; r < rows; ++r) std::fill_n(far.row(r), n, NAN);
            kernel(start_before(strips.data(), first * bytes), f.row_bytes(k), first, first + 2, activations,
                   start_before(far.row(0), first * kernels.lanes), far.stride);
            int64_t differ = 0;
            for (int64_t r = 0; r < rows; ++r)
                differ += !std::equal(far.row(r), far.row(r) + n, near.data() + r * n);
            CHECK(differ == 0);
        };
        compare(kernels[id], ordered.x);
        compare(kernels.panels[static_cast<int>(id)], x.packed);
    });
}

TEST_CASE("strips of NVFP4 have the scales of its rows, whatever the byte") {
    for_each_strip_kernel([](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        if (id != FormatId::NVFP4) return;
        Rng rng(34);
        const int64_t k = 64, n = kernels.lanes, row_bytes = format_info(id).row_bytes(k);
        const Input x(table, id, 1, k, rng);
        for (int byte = 0; byte < 256; ++byte) {
            CAPTURE(byte);
            std::vector<uint8_t> w = random_bytes(static_cast<size_t>(n * row_bytes), rng);
            for (int64_t r = 0; r < n; ++r)
                std::fill_n(w.begin() + r * row_bytes, 4, static_cast<uint8_t>(byte));
            std::vector<float> y(static_cast<size_t>(n), NAN);
            const Ordered ordered(kernels, id, x.quantized);
            kernels[id](strips_of(id, kernels.lanes, 1, k, w).data(), row_bytes, 0, 1, ordered.x, y.data(),
                        n);
            check_products(x, w, n, y);
        }
    });
}

TEST_CASE("products of strips take any bits") {
    for_each_strip_kernel([](const KernelTable& table, const StripKernels& kernels, FormatId id) {
        Rng rng(33);
        const FormatInfo& f = format_info(id);
        const int64_t k = 2 * f.block_size, n = kernels.lanes;
        const Input x(table, id, 1, k, rng);
        const Ordered ordered(kernels, id, x.quantized);
        const std::vector<uint8_t> w = random_bytes(static_cast<size_t>(n * f.row_bytes(k)), rng);
        const GuardedBytes laid_out(strips_of(id, kernels.lanes, 1, k, w));
        std::vector<float> y(static_cast<size_t>(n)), expected(y);
        kernels[id](laid_out.data(), f.row_bytes(k), 0, 1, ordered.x, y.data(), n);
        table[id].matmul_i8(w.data(), f.row_bytes(k), 0, n, x.quantized, expected.data(), n);
        for (int64_t i = 0; i < n; ++i) CHECK(std::isfinite(y[i]) == std::isfinite(expected[i]));
    });
}
