// Quantized activations, and the float64 products that kernels must come near.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernel_tables.hpp"
#include "matmul/packed_rows.hpp"

namespace bq::test {

// Rows of activations and their quantized form, as weights of a format want it.
struct Input {
    FormatId id;
    int64_t rows, k;
    std::vector<float> x;
    std::vector<uint8_t> storage, packed_storage;
    Activations quantized;
    PackedRows packed;

    Input(const KernelTable& table, FormatId id_, int64_t rows_, int64_t k_, Rng& rng)
        : id(id_), rows(rows_), k(k_), x(rows_ * k_) {
        for (float& v : x) v = rng.uniform() + 0.1f;
        quantize(table);
    }
    void quantize(const KernelTable& table) {
        const ActivationLayout layout = ActivationLayout::of(rows, k, activation_run(format_info(id)));
        storage.assign(static_cast<size_t>(layout.bytes) + 1, 0xee);
        quantized = layout.view(storage.data(), rows, k);
        table.quantize_activations(x.data(), 0, rows, quantized);
        CHECK(storage.back() == 0xee);
        const PanelShape& shape = table[id].panel_shape;
        if (shape.lanes == 0) return;  // a format of floats
        const PackedLayout packed_layout = PackedLayout::of(rows, k, shape);
        packed_storage.assign(static_cast<size_t>(packed_layout.bytes) + 1, 0xee);
        packed = packed_layout.view(packed_storage.data(), rows, k);
        const int64_t first = std::min<int64_t>(rows, shape.tile_rows);
        pack_rows(quantized, first, rows, shape, packed);
        pack_rows(quantized, 0, first, shape, packed);
        CHECK(packed_storage.back() == 0xee);
    }
    // The largest activations: all of one sign, of both by turns, of both in halves of 16.
    void make_largest(const KernelTable& table) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < k; ++i)
                x[r * k + i] = (r + (r < 2 ? 0 : r < 5 ? i : i / 8)) % 2 == 0 ? 127.0f : -127.0f;
        quantize(table);
    }
    double activation(int64_t r, int64_t i) const {
        return static_cast<double>(quantized.scales[(r * k + i) / quantized.run]) * quantized.q[r * k + i];
    }
};

inline std::vector<float> decoded(FormatId id, const std::vector<uint8_t>& w, int64_t n, int64_t k) {
    std::vector<float> values(n * k);
    for (int64_t i = 0; i < n; ++i)
        reference_decode(id, w.data() + i * format_info(id).row_bytes(k), values.data() + i * k, k);
    return values;
}

// A value w = scale * (q - offset) - minimum enters a product as up to three terms, of which the largest is
// at most 8 scale-steps of 127 larger than w itself; a few float roundings of each stay below this share of
// the sum of |largest stored value of the row| * |x|.
inline constexpr double kBound = 64 * 0x1p-24;

inline double tolerance(const std::vector<float>& w, int64_t row, int64_t k, double sum_of_magnitudes_of_x) {
    double largest = 0;
    for (int64_t i = 0; i < k; ++i)
        largest = std::max(largest, std::abs(static_cast<double>(w[row * k + i])));
    return kBound * largest * sum_of_magnitudes_of_x;
}

inline void check_products(const Input& x, const std::vector<uint8_t>& w, int64_t n,
                           const std::vector<float>& y) {
    const std::vector<float> values = decoded(x.id, w, n, x.k);
    int64_t wrong = 0;
    for (int64_t r = 0; r < x.rows; ++r) {
        std::vector<double> activations(x.k);
        double magnitude = 0;
        for (int64_t j = 0; j < x.k; ++j) {
            activations[j] = x.activation(r, j);
            magnitude += std::abs(activations[j]);
        }
        for (int64_t i = 0; i < n; ++i) {
            double exact = 0;
            for (int64_t j = 0; j < x.k; ++j) exact += activations[j] * values[i * x.k + j];
            wrong += !(std::abs(y[r * n + i] - exact) <= tolerance(values, i, x.k, magnitude));
        }
    }
    CAPTURE(x.rows);
    CAPTURE(n);
    CAPTURE(x.k);
    CHECK(wrong == 0);
}

}  // namespace bq::test
