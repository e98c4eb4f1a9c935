// Every table's products against float64, and what must not change them.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernel_tables.hpp"
#include "matmul/packed_rows.hpp"
#include "products.hpp"

using namespace bq;
using namespace bq::test;

namespace {

// How many of the products of many rows with float activations are not near the float64 products.
int64_t wrong_products(const std::vector<float>& x, const std::vector<float>& values, int64_t rows, int64_t n,
                       int64_t k, const std::vector<float>& y) {
    int64_t wrong = 0;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < n; ++i) {
            double exact = 0, magnitude = 0;
            for (int64_t j = 0; j < k; ++j) {
                const double product = static_cast<double>(x[r * k + j]) * values[i * k + j];
                exact += product;
                magnitude += std::abs(product);
            }
            // Up to 256 products are added in a row.
            wrong += !(std::abs(y[r * n + i] - exact) <= 300 * 0x1p-24 * magnitude);
        }
    return wrong;
}

template <class Body>
void for_each_kernel(const std::vector<FormatId>& formats, Body&& body) {
    for (FormatId id : formats)
        for (const KernelTable* table : product_kernels(id)) {
            CAPTURE(std::string(table->isa));
            CAPTURE(std::string(format_info(id).name));
            body(*table, id);
        }
}
template <class Body>
void for_each_kernel(Body&& body) {
    for_each_kernel(implemented_formats(), body);
}

const std::vector<FormatId> kFloatFormats = {FormatId::F32, FormatId::F16, FormatId::BF16};

int64_t some_width(FormatId id, int blocks) {
    const int64_t block = format_info(id).block_size;
    return block == 1 ? 37 * blocks : block * blocks;
}

}  // namespace

TEST_CASE("products with int8 activations are the float64 products of the quantized values") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        if (format_info(id).is_float()) {
            CHECK((table[id].matmul_i8 == nullptr));
            return;
        }
        Rng rng(7);
        for (int blocks : {1, 2, 7, 8, 9, 19}) {
            const int64_t k = some_width(id, blocks), n = 5, rows = 7;
            const Input x(table, id, rows, k, rng);
            const std::vector<uint8_t> w = random_rows(id, n, k, rng);
            std::vector<float> y(rows * n, NAN);
            table[id].matmul_i8(w.data(), format_info(id).row_bytes(k), 0, n, x.quantized, y.data(), n);
            check_products(x, w, n, y);
        }
    });
}

TEST_CASE("products of many rows are the float64 products of the quantized values, for every shape") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        if (format_info(id).is_float()) {
            CHECK((table[id].matmul_panels == nullptr));
            return;
        }
        Rng rng(17);
        const int64_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64};
        const int64_t weight_counts[] = {1, 3, 17, 31, 33, 100};
        for (int64_t rows : row_counts)
            for (int64_t n : weight_counts) {
                const bool deep = rows == 17 && n == 33;  // past one panel's depth
                const int64_t k = some_width(id, deep ? (format_info(id).block_size == 256 ? 5 : 43) : 1);
                const Input x(table, id, rows, k, rng);
                const std::vector<uint8_t> w = random_rows(id, n, k, rng);
                const int64_t lanes = table[id].panel_shape.lanes, row_bytes = format_info(id).row_bytes(k);
                std::vector<float> y(rows * n, NAN), pieces(rows * n, NAN);
                table[id].matmul_panels(w.data(), row_bytes, 0, n, x.packed, y.data(), n);
                check_products(x, w, n, y);
                for (int64_t begin = 0; begin < n; begin += lanes)
                    table[id].matmul_panels(w.data(), row_bytes, begin, std::min(n, begin + lanes), x.packed,
                                            pieces.data(), n);
                CHECK(y == pieces);
            }
    });
}

TEST_CASE("products of more rows than a block do not depend on where blocks end") {
    for_each_kernel({FormatId::Q4_1, FormatId::Q6_K}, [](const KernelTable& table, FormatId id) {
        Rng rng(23);
        const int64_t k = 768, n = 3, row_bytes = format_info(id).row_bytes(k);
        const std::vector<uint8_t> w = random_rows(id, n, k, rng);
        for (int64_t rows : {527, 529, 1111}) {
            const Input x(table, id, rows, k, rng);
            std::vector<float> y(rows * n, NAN);
            table[id].matmul_panels(w.data(), row_bytes, 0, n, x.packed, y.data(), n);
            CAPTURE(rows);
            check_products(x, w, n, y);
            for (int64_t block : {-1, 1, 5, 132, 200, 9999}) {
                CAPTURE(block);
                PackedRows packed = x.packed;
                packed.block_rows = block;
                std::vector<float> same(rows * n, NAN);
                table[id].matmul_panels(w.data(), row_bytes, 0, n, packed, same.data(), n);
                CHECK(same == y);
            }
        }
    });
}

TEST_CASE("products with float activations are the float64 products") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        Rng rng(8);
        for (int blocks : {1, 2, 7, 8, 9, 19}) {
            const int64_t k = some_width(id, blocks), n = 5, rows = 7, stride = k + 3;
            std::vector<float> x(rows * stride, NAN);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t j = 0; j < k; ++j) x[r * stride + j] = rng.uniform();
            const std::vector<uint8_t> w = random_rows(id, n, k, rng);
            const std::vector<float> values = decoded(id, w, n, k);
            std::vector<float> y(rows * n, NAN);
            table[id].matmul_f32(w.data(), format_info(id).row_bytes(k), 0, n, {x.data(), stride, rows, k},
                                 y.data(), n);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t i = 0; i < n; ++i) {
                    double exact = 0, magnitude = 0;
                    for (int64_t j = 0; j < k; ++j) {
                        const double product = static_cast<double>(x[r * stride + j]) * values[i * k + j];
                        exact += product;
                        magnitude += std::abs(product);
                    }
                    // Each of the at least 8 lanes adds k / 8 products and the lanes are added.
                    CHECK(std::abs(y[r * n + i] - exact) <= (k / 8.0 + 8) * 0x1p-24 * magnitude);
                }
        }
    });
}

static void check_float_panels(const KernelTable& table, FormatId id, int64_t rows, int64_t n, int64_t k,
                               Rng& rng) {
    std::vector<float> x(rows * k);
    for (float& v : x) v = rng.uniform();
    const PanelShape& shape = table[id].float_panel_shape;
    std::vector<uint8_t> storage(static_cast<size_t>(packed_float_bytes(rows, k, shape.tile_rows)));
    const PackedFloats packed{reinterpret_cast<const float*>(storage.data()), rows, k};
    pack_float_rows(x.data(), 0, rows, shape.tile_rows, packed);
    const std::vector<uint8_t> w = random_rows(id, n, k, rng);
    const GuardedBytes guarded(w);
    const std::vector<float> values = decoded(id, w, n, k);
    std::vector<float> y(rows * n, NAN);
    const int64_t row_bytes = format_info(id).row_bytes(k);
    table[id].matmul_float_panels(guarded.data(), row_bytes, 0, std::min<int64_t>(n, shape.lanes), packed,
                                  y.data(), n);
    if (n > shape.lanes)
        table[id].matmul_float_panels(guarded.data(), row_bytes, shape.lanes, n, packed, y.data(), n);
    CAPTURE(rows);
    CAPTURE(n);
    CAPTURE(k);
    CHECK(wrong_products(x, values, rows, n, k, y) == 0);
}

TEST_CASE("products of many rows with float activations are the float64 products") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        Rng rng(18);
        const int64_t row_counts[] = {1, 4, 5, 12, 17, 33}, weight_counts[] = {1, 17, 31, 33};
        for (int64_t rows : row_counts)
            for (int64_t n : weight_counts) {
                const bool deep = rows == 17 && n == 33;  // past one panel's depth
                const int64_t block = format_info(id).block_size;
                check_float_panels(table, id, rows, n,
                                   block * (deep ? (block == 256 ? 3 : 520 / block + 1) : 1), rng);
            }
    });
}

TEST_CASE("products of many rows with float weights are the float64 products") {
    for_each_kernel(kFloatFormats, [](const KernelTable& table, FormatId id) {
        Rng rng(23);
        for (int64_t rows : {1, 8, 25, 41})  // tiles of all sizes
            for (int64_t n : {1, 24, 49})
                for (int64_t k : {1, 7, 9}) check_float_panels(table, id, rows, n, k, rng);
        const int64_t deep[][3] = {{9, 49, 530}, {24, 23, 263}, {16, 25, 513}, {40, 48, 520}};
        for (const auto& [rows, n, k] : deep) check_float_panels(table, id, rows, n, k, rng);
        for (int64_t rows : {145, 301, 1000, 1100})  // several blocks of rows
            check_float_panels(table, id, rows, 25, 17, rng);
    });
}

TEST_CASE("products of few rows with float weights are the float64 products, however many rows meet") {
    for_each_kernel(kFloatFormats, [](const KernelTable& table, FormatId id) {
        for (int64_t k : {5, 1030, 2060}) {  // rows shorter and longer than 4 KiB, which go other ways
            Rng rng(29);
            const int64_t n = 15, row_bytes = format_info(id).row_bytes(k);
            const std::vector<uint8_t> w = random_rows(id, n, k, rng);
            const GuardedBytes guarded(w);
            const std::vector<float> values = decoded(id, w, n, k);
            std::vector<float> x(9 * k), single(9 * n, NAN);
            for (float& v : x) v = rng.uniform();
            const auto multiply = table[id].matmul_f32;
            for (int64_t r = 0; r < 9; ++r)
                multiply(guarded.data(), row_bytes, 0, n, {x.data() + r * k, k, 1, k}, single.data() + r * n,
                         n);
            CHECK(wrong_products(x, values, 9, n, k, single) == 0);
            for (int64_t rows : {2, 3, 4, 5, 9}) {
                CAPTURE(rows);
                CAPTURE(k);
                std::vector<float> y(rows * n, NAN);
                for (const auto& [begin, end] : {std::pair{0, 6}, std::pair{6, 15}})
                    multiply(guarded.data(), row_bytes, begin, end, {x.data(), k, rows, k}, y.data(), n);
                CHECK(std::equal(y.begin(), y.end(), single.begin()));
            }
        }
    });
}

TEST_CASE(
    "products of few float rows that are long, and meet weights piece by piece, are those of single rows") {
    for_each_kernel(kFloatFormats, [](const KernelTable& table, FormatId id) {
        Rng rng(31);
        // More rows than meet a piece together; the last ones fewer than a group.
        const int64_t n = 103, k = 12318, rows = 8, row_bytes = format_info(id).row_bytes(k);
        const std::vector<uint8_t> w = random_rows(id, n, k, rng);
        const GuardedBytes guarded(w);
        const std::vector<float> values = decoded(id, w, n, k);
        std::vector<float> x(rows * k), single(rows * n, NAN), y(rows * n, NAN);
        for (float& v : x) v = rng.uniform();
        const auto multiply = table[id].matmul_f32;
        for (int64_t r = 0; r < rows; ++r)
            multiply(guarded.data(), row_bytes, 0, n, {x.data() + r * k, k, 1, k}, single.data() + r * n, n);
        multiply(guarded.data(), row_bytes, 0, n, {x.data(), k, rows, k}, y.data(), n);
        CHECK(wrong_products(x, values, rows, n, k, y) == 0);
        CHECK(std::equal(y.begin(), y.end(), single.begin()));
    });
}

static void round_floats(const uint8_t* floats, uint16_t* to, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
        float x;
        memcpy(&x, floats + 4 * i, 4);
        to[i] = f32_to_bf16(x);
    }
}

TEST_CASE("products of bfloat16 weights and activations are the float64 products") {
    for_each_kernel({FormatId::BF16}, [](const KernelTable& table, FormatId id) {
        const FormatKernels& kernels = table[id];
        if (kernels.matmul_bf16_panels == nullptr) return;
        Rng rng(19);
        const PanelShape& shape = kernels.float_panel_shape;
        for (int64_t rows : {1, 4, 5, 13, 14, 33, 130, 600})
            for (int64_t n : {1, 17, 31, 33, 65})
                for (int64_t k : {1, 2, 31, 256, 257, 530}) {
                    std::vector<float> x(rows * k);
                    for (float& v : x) v = rng.uniform();
                    std::vector<uint8_t> storage(
                        static_cast<size_t>(packed_bf16_bytes(rows, k, shape.tile_rows)));
                    const PackedFloats packed{reinterpret_cast<const float*>(storage.data()), rows, k};
                    pack_bf16_rows(x.data(), 0, rows, shape.tile_rows, packed, round_floats);
                    std::vector<uint16_t> rounded(x.size());
                    for (size_t i = 0; i < x.size(); ++i) {
                        rounded[i] = f32_to_bf16(x[i]);
                        x[i] = bf16_to_f32(rounded[i]);
                    }
                    const std::vector<uint8_t> w = random_rows(FormatId::BF16, n, k, rng);
                    const GuardedBytes guarded(w);
                    std::vector<float> y(rows * n, NAN);
                    kernels.matmul_bf16_panels(guarded.data(), 2 * k, 0, std::min<int64_t>(n, shape.lanes),
                                               packed, y.data(), n);
                    if (n > shape.lanes)
                        kernels.matmul_bf16_panels(guarded.data(), 2 * k, shape.lanes, n, packed, y.data(),
                                                   n);
                    CAPTURE(rows);
                    CAPTURE(n);
                    CAPTURE(k);
                    const std::vector<float> values = decoded(FormatId::BF16, w, n, k);
                    CHECK(wrong_products(x, values, rows, n, k, y) == 0);
                    // Straight from the rows, in two parts, and by a row of activations at a time.
                    std::vector<float> few(rows * n, NAN), single(rows * n, NAN);
                    for (const auto& [begin, end] : {std::pair{int64_t{0}, n / 2}, std::pair{n / 2, n}})
                        kernels.matmul_bf16(guarded.data(), 2 * k, begin, end, {rounded.data(), k, rows, k},
                                            few.data(), n);
                    for (int64_t r = 0; r < rows; ++r)
                        kernels.matmul_bf16(guarded.data(), 2 * k, 0, n, {rounded.data() + r * k, k, 1, k},
                                            single.data() + r * n, n);
                    CHECK(wrong_products(x, values, rows, n, k, few) == 0);
                    CHECK(few == single);
                }
    });
}

TEST_CASE("a result depends neither on how many rows are given nor on the range of weight rows") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        Rng rng(9);
        const int64_t k = some_width(id, format_info(id).block_size == 256 ? 5 : 11);
        const int64_t n = 41, rows = 39, row_bytes = format_info(id).row_bytes(k);
        const bool is_float = format_info(id).is_float();
        const std::vector<uint8_t> w = random_rows(id, n, k, rng);
        std::vector<float> x(rows * k);
        for (float& v : x) v = rng.uniform();
        const ActivationLayout layout = ActivationLayout::of(rows, k, activation_run(format_info(id)));
        std::vector<uint8_t> storage(layout.bytes);
        const Activations all = layout.view(storage.data(), rows, k);
        if (!is_float) table.quantize_activations(x.data(), 0, rows, all);
        const auto run = [&](bool int8, int64_t row, int64_t count, int64_t begin, int64_t end, float* y,
                             int64_t ldy) {
            if (int8) {
                const Activations part{all.q + row * k,
                                       all.scales + row * (k / all.run),
                                       all.sums + row * (k / 16),
                                       all.whole_sums + row * (k / 16),
                                       count,
                                       k,
                                       all.run};
                table[id].matmul_i8(w.data(), row_bytes, begin, end, part, y, ldy);
            } else {
                table[id].matmul_f32(w.data(), row_bytes, begin, end, {x.data() + row * k, k, count, k}, y,
                                     ldy);
            }
        };
        for (bool int8 : {false, true}) {
            if (int8 && is_float) continue;
            std::vector<float> whole(rows * n);
            run(int8, 0, rows, 0, n, whole.data(), n);
            int64_t differ = 0;
            for (int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 33}) {
                for (const auto& [begin, end] : {std::pair{0, 3}, {1, 4}, {4, 7}, {8, 9}, {0, 9}, {1, 41}}) {
                    const int64_t ldy = n + 2;
                    std::vector<float> y(count * ldy, -77.0f);
                    run(int8, 5, count, begin, end, y.data(), ldy);
                    for (int64_t r = 0; r < count; ++r)
                        for (int64_t i = 0; i < ldy; ++i) {
                            const float expected = i >= begin && i < end ? whole[(5 + r) * n + i] : -77.0f;
                            differ +=
                                std::bit_cast<uint32_t>(y[r * ldy + i]) != std::bit_cast<uint32_t>(expected);
                        }
                }
            }
            CHECK(differ == 0);
            float untouched = -77.0f;
            run(int8, 0, 0, 0, n, &untouched, n);  // no rows
            run(int8, 0, 1, 3, 3, &untouched, n);  // no weight rows
            CHECK(untouched == -77.0f);
        }
    });
}

TEST_CASE("weights and results may lie as far apart as 64 bits tell") {
    const int64_t rows = 9, n = 5, first = int64_t{1} << 31;  // a multiple of the lanes of any panel
    const FarRows far(rows);
    int compared = 0;
    for_each_kernel([&](const KernelTable& table, FormatId id) {
        Rng rng(37);
        const FormatKernels& kernels = table[id];
        const int64_t k = std::max(64, format_info(id).block_size), row_bytes = format_info(id).row_bytes(k);
        const std::vector<uint8_t> w = random_rows(id, n, k, rng);
        const Input x(table, id, rows, k, rng);
        // kernel(w, row_bytes, begin, end, activations, y, ldy), near the start and where rows, bytes and
        // results take more than 32 bits to count.
        const auto compare = [&](auto* kernel, const auto& activations) {
            if (kernel == nullptr) return;
            std::vector<float> near(rows * n, NAN);
            kernel(w.data(), row_bytes, 0, n, activations, near.data(), n);
            for (int64_t r = 0; r < rows; ++r) std::fill_n(far.row(r), n, NAN);
            kernel(start_before(w.data(), first * row_bytes), row_bytes, first, first + n, activations,
                   start_before(far.row(0), first), far.stride);
            int64_t differ = 0;
            for (int64_t r = 0; r < rows; ++r)
                differ += !std::equal(far.row(r), far.row(r) + n, near.data() + r * n);
            CHECK(differ == 0);
            ++compared;
        };
        compare(kernels.matmul_i8, x.quantized);
        compare(kernels.matmul_panels, x.packed);
        compare(kernels.matmul_f32, FloatRows<float>{x.x.data(), k, rows, k});
        const int tile = kernels.float_panel_shape.tile_rows;
        std::vector<float> packed(static_cast<size_t>(packed_float_bytes(rows, k, tile)) / sizeof(float));
        const PackedFloats floats{packed.data(), rows, k};
        pack_float_rows(x.x.data(), 0, rows, tile, floats);
        compare(kernels.matmul_float_panels, floats);
        if (kernels.matmul_bf16 == nullptr) return;
        std::vector<uint16_t> rounded(x.x.size());
        std::transform(x.x.begin(), x.x.end(), rounded.begin(), f32_to_bf16);
        compare(kernels.matmul_bf16, FloatRows<uint16_t>{rounded.data(), k, rows, k});
        pack_bf16_rows(x.x.data(), 0, rows, tile, floats, round_floats);
        compare(kernels.matmul_bf16_panels, floats);
    });
    MESSAGE("products far away: " << compared);
}

TEST_CASE("nothing is read past the weights or the activations, at any address, whatever their bits") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        Rng rng(10);
        for (int blocks : {1, 3, 8, 9}) {
            const int64_t k = some_width(id, blocks), n = 3, rows = 3,
                          row_bytes = format_info(id).row_bytes(k);
            const GuardedBytes w(random_bytes(static_cast<size_t>(n * row_bytes), rng));
            const GuardedBytes floats(std::vector<uint8_t>(static_cast<size_t>(rows * k * 4)));
            float y[9];
            table[id].matmul_f32(w.data(), row_bytes, 0, n,
                                 {reinterpret_cast<const float*>(floats.data()), k, rows, k}, y, n);
            if (format_info(id).is_float()) continue;
            GuardedBytes q(std::vector<uint8_t>(static_cast<size_t>(rows * k)));
            const int run = activation_run(format_info(id));
            GuardedBytes scales(std::vector<uint8_t>(static_cast<size_t>(rows * k / run * 4)));
            GuardedBytes sums(std::vector<uint8_t>(static_cast<size_t>(rows * k / 16 * 4)));
            GuardedBytes whole_sums(std::vector<uint8_t>(static_cast<size_t>(rows * k / 16 * 2)));
            const Activations x{reinterpret_cast<int8_t*>(q.data()),
                                reinterpret_cast<float*>(scales.data()),
                                reinterpret_cast<float*>(sums.data()),
                                reinterpret_cast<int16_t*>(whole_sums.data()),
                                rows,
                                k,
                                run};
            table.quantize_activations(reinterpret_cast<const float*>(floats.data()), 0, rows, x);
            table[id].matmul_i8(w.data(), row_bytes, 0, n, x, y, n);
            const PanelShape& shape = table[id].panel_shape;
            const PackedLayout layout = PackedLayout::of(rows, k, shape);
            GuardedBytes packed_bytes(std::vector<uint8_t>(static_cast<size_t>(layout.bytes)));
            const PackedRows packed = layout.view(packed_bytes.data(), rows, k);
            pack_rows(x, 0, rows, shape, packed);
            table[id].matmul_panels(w.data(), row_bytes, 0, n, packed, y, n);
        }
    });
}

TEST_CASE("products of blocks of equal bytes and the largest activations neither saturate nor overflow") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        if (format_info(id).is_float()) return;
        const int64_t k = some_width(id, format_info(id).block_size == 256 ? 2 : 9), n = 3, rows = 8;
        Rng rng(41);
        for (int byte : {0x00, 0x0f, 0x7f, 0x80, 0xf0, 0xff}) {
            CAPTURE(byte);
            const std::vector<uint8_t> w = rows_of_byte(id, n, k, static_cast<uint8_t>(byte), rng);
            Input x(table, id, rows, k, rng);
            x.make_largest(table);
            std::vector<float> few(rows * n, NAN), many(rows * n, NAN);
            const int64_t row_bytes = format_info(id).row_bytes(k);
            table[id].matmul_i8(w.data(), row_bytes, 0, n, x.quantized, few.data(), n);
            check_products(x, w, n, few);
            table[id].matmul_panels(w.data(), row_bytes, 0, n, x.packed, many.data(), n);
            check_products(x, w, n, many);
        }
    });
}

TEST_CASE("int8 products neither saturate nor overflow at the extremes") {
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        const int64_t k = 1024;
        for (int weight : {-128, -127, 127})
            for (float sign : {-1.0f, 1.0f}) {
                std::vector<BlockQ8_0> w(k / 32);
                for (BlockQ8_0& b : w) {
                    b.d = f32_to_f16(1.0f);
                    std::memset(b.qs, weight, 32);
                }
                Rng rng(1);
                Input x(*table, FormatId::Q8_0, 1, k, rng);
                for (float& v : x.x) v = sign * 127.0f;
                x.quantize(*table);
                float y[2] = {0, 0};
                const FormatKernels& q8_0 = (*table)[FormatId::Q8_0];
                const auto* bytes = reinterpret_cast<const uint8_t*>(w.data());
                q8_0.matmul_i8(bytes, k / 32 * 34, 0, 1, x.quantized, y, 1);
                q8_0.matmul_panels(bytes, k / 32 * 34, 0, 1, x.packed, y + 1, 1);
                for (float result : y)
                    CHECK(result == static_cast<float>(weight) * 127.0f * sign * static_cast<float>(k));
            }
    }
}

TEST_CASE("quantized activations are the same on every instruction set and near the floats") {
    Rng rng(11);
    const int64_t rows = 5, k = 32 * 40;
    std::vector<float> x(rows * k);
    for (int64_t i = 0; i < rows * k; ++i) x[i] = rng.uniform() * std::exp(60.0f * (rng.uniform()));
    const auto run = [&](int64_t index) { return x.data() + index * 32; };
    std::fill(run(0), run(1), 0.0f);
    std::fill(run(1), run(2), -0.0f);
    std::fill(run(2), run(3), 1e-39f);
    std::fill(run(3), run(4), -1e-36f);
    std::fill(run(4), run(5), 3.4e38f);
    run(5)[3] = std::numeric_limits<float>::infinity();
    run(6)[31] = -std::numeric_limits<float>::infinity();
    run(7)[0] = std::numeric_limits<float>::quiet_NaN();
    for (int i = 0; i < 32; ++i) run(8)[i] = static_cast<float>(i - 16) + 0.5f;  // ties
    run(8)[0] = 127.0f;

    std::vector<uint8_t> first;
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        const ActivationLayout layout = ActivationLayout::of(rows, k, kActivationRun);
        CHECK(layout.scales_offset % 64 == 0);
        CHECK(layout.sums_offset % 64 == 0);
        std::vector<uint8_t> storage(layout.bytes, 0);
        const Activations a = layout.view(storage.data(), rows, k);
        table->quantize_activations(x.data(), 0, 2, a);
        table->quantize_activations(x.data(), 2, rows, a);
        if (first.empty()) first = storage;
        CHECK(first == storage);
        for (int64_t i = 0; i < rows * k / 32; ++i) {
            if (i >= 5 && i <= 7) {
                CHECK(std::isnan(a.scales[i]));
                continue;
            }
            CHECK(std::isfinite(a.scales[i]));
            int sums[2] = {0, 0};
            for (int j = 0; j < 32; ++j) {
                const double q = a.q[i * 32 + j], s = a.scales[i];
                CHECK(std::abs(q) <= 127);
                if (std::abs(x[i * 32 + j]) > 1e-36f)
                    CHECK(std::abs(s * q - x[i * 32 + j]) <= 0.5001 * s + 1e-36);
                sums[j / 16] += a.q[i * 32 + j];
            }
            CHECK(a.sums[2 * i] == a.scales[i] * static_cast<float>(sums[0]));
            CHECK(a.sums[2 * i + 1] == a.scales[i] * static_cast<float>(sums[1]));
        }
        CHECK(a.q[8 * 32 + 1] == -14);  // -14.5 to even
        CHECK(a.q[8 * 32 + 2] == -14);  // -13.5
    }
}

TEST_CASE("a NaN activation makes the results of its row NaN and of no other") {
    for_each_kernel([](const KernelTable& table, FormatId id) {
        if (format_info(id).is_float()) return;
        Rng rng(12);
        const int64_t k = some_width(id, 9), n = 2, rows = 5;
        Input x(table, id, rows, k, rng);
        x.x[2 * k + 7] = NAN;
        x.quantize(table);
        const std::vector<uint8_t> w = random_rows(id, n, k, rng);
        std::vector<float> y(rows * n);
        for (bool panels : {false, true}) {
            if (panels)
                table[id].matmul_panels(w.data(), format_info(id).row_bytes(k), 0, n, x.packed, y.data(), n);
            else
                table[id].matmul_i8(w.data(), format_info(id).row_bytes(k), 0, n, x.quantized, y.data(), n);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t i = 0; i < n; ++i) CHECK(std::isnan(y[r * n + i]) == (r == 2));
        }
    });
}

TEST_CASE("activations with a scale for 256 are the same on every instruction set and near the floats") {
    Rng rng(13);
    const int64_t rows = 3, k = 256 * 4;
    std::vector<float> x(rows * k);
    for (float& v : x) v = rng.uniform();
    std::fill(x.begin() + 256, x.begin() + 512, 0.0f);
    x[600] = std::numeric_limits<float>::infinity();
    std::fill(x.begin() + 768, x.begin() + 1024, 1e-38f);
    std::vector<uint8_t> first;
    for (const KernelTable* table : runnable_kernels()) {
        CAPTURE(std::string(table->isa));
        const ActivationLayout layout = ActivationLayout::of(rows, k, kLongActivationRun);
        CHECK(layout.whole_sums_offset % 64 == 0);
        std::vector<uint8_t> storage(layout.bytes, 0);
        const Activations a = layout.view(storage.data(), rows, k);
        table->quantize_activations(x.data(), 0, rows, a);
        if (first.empty()) first = storage;
        CHECK(first == storage);
        for (int64_t i = 0; i < rows * k / 256; ++i) {
            if (i == 2) {
                CHECK(std::isnan(a.scales[i]));
                continue;
            }
            for (int64_t j = i * 256; j < (i + 1) * 256; ++j)
                CHECK(std::abs(static_cast<double>(a.scales[i]) * a.q[j] - x[j]) <=
                      0.5001 * a.scales[i] + 1e-37);
            for (int64_t j = i * 16; j < (i + 1) * 16; ++j) {
                int sum = 0;
                for (int64_t e = j * 16; e < (j + 1) * 16; ++e) sum += a.q[e];
                CHECK(a.whole_sums[j] == sum);
                CHECK(a.sums[j] == a.scales[i] * static_cast<float>(sum));
            }
        }
    }
}
