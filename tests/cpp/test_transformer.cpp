// The transformer kernels of every instruction set this CPU has, against plain double arithmetic.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "doctest/doctest.h"
#include "formats/half.hpp"
#include "targets/kernels.hpp"

using namespace bq;

namespace {

std::vector<float> gaussian(size_t n, unsigned seed, float scale = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> out(n);
    for (float& v : out) v = normal(engine);
    return out;
}

struct Shape {
    int64_t rows, heads, kv_heads, dim, position, window;
};

// What the cache keeps of the elements of a head, and how many bytes of a position.
struct Kind {
    const char* name;
    int64_t (*head_bytes)(int64_t dim);  // of a block
    uint8_t garbage;                     // bytes that make NaNs, or large numbers
    void (*keep)(float* head, int64_t dim);
};

void keep_half(float* head, int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) head[d] = f16_to_f32(f32_to_f16(head[d]));
}

void keep_q8_0(float* head, int64_t dim) {
    for (int64_t start = 0; start < dim; start += 32) {
        const int64_t stop = std::min(start + 32, dim);
        float largest = 0.0f;
        for (int64_t d = start; d < stop; ++d) largest = std::max(largest, std::abs(head[d]));
        const float scale = largest / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        for (int64_t d = start; d < stop; ++d)
            head[d] = f16_to_f32(f32_to_f16(scale)) * std::nearbyint(head[d] * inverse);
    }
}

const Kind kF32{"f32", [](int64_t dim) { return dim * kCacheBlock * 4; }, 0xff, [](float*, int64_t) {}};
const Kind kF16{"f16", [](int64_t dim) { return dim * kCacheBlock * 2; }, 0x7e, keep_half};
const Kind kQ8{"q8_0", q8_0_cache_bytes, 0x7e, keep_q8_0};

// Stores position + rows keys and values in two calls and compares attention with a direct softmax.
void check_attention(const TransformerKernels& k, const Shape& s, const Kind& kind) {
    CAPTURE(kind.name);
    CAPTURE(s.rows);
    CAPTURE(s.heads);
    CAPTURE(s.dim);
    CAPTURE(s.position);
    CAPTURE(s.window);
    const bool f32 = &kind == &kF32, f16 = &kind == &kF16;
    const auto store = f32 ? k.store_f32 : f16 ? k.store_f16 : k.store_q8_0;
    const auto attention = f32 ? k.attention_f32 : f16 ? k.attention_f16 : k.attention_q8_0;
    const int64_t total = s.position + s.rows, kv_row = s.kv_heads * s.dim, row = s.heads * s.dim;
    const std::vector<float> q = gaussian(s.rows * row, 1);
    std::vector<float> keys = gaussian(total * kv_row, 2), values = gaussian(total * kv_row, 3);
    const CacheShape cache{s.kv_heads, s.dim};
    const int64_t blocks = (total + kCacheBlock - 1) / kCacheBlock;
    // What was never stored must not matter, not even NaN.
    std::vector<uint8_t> key_cache(blocks * s.kv_heads * kind.head_bytes(s.dim), kind.garbage),
        value_cache(key_cache);
    store(keys.data(), values.data(), key_cache.data(), value_cache.data(), s.position, 0, cache);
    store(keys.data() + s.position * kv_row, values.data() + s.position * kv_row, key_cache.data(),
          value_cache.data(), s.rows, s.position, cache);
    for (int64_t head = 0; head < total * s.kv_heads; ++head) {
        kind.keep(keys.data() + head * s.dim, s.dim);
        kind.keep(values.data() + head * s.dim, s.dim);
    }

    const float scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
    std::vector<float> out(q.size(), -1.0f), pieces(q.size(), -2.0f);
    AttentionRows a{q.data(), key_cache.data(), value_cache.data(), out.data(), s.rows, s.heads,
                    cache,    s.position,       s.window,           scale};
    const int64_t units = s.rows * s.heads;
    attention(a, 0, units);
    a.out = pieces.data();
    for (int64_t u = 0; u < units; u += 3) attention(a, u, std::min(units, u + 3));
    CHECK(out == pieces);

    double worst = 0.0;
    for (int64_t r = 0; r < s.rows; ++r) {
        const int64_t last = s.position + r,
                      first = s.window > 0 ? std::max<int64_t>(0, last - s.window + 1) : 0;
        for (int64_t h = 0; h < s.heads; ++h) {
            const int64_t kv = h / (s.heads / s.kv_heads);
            std::vector<double> weights;
            double sum = 0.0;
            for (int64_t p = first; p <= last; ++p) {
                double score = 0.0;
                for (int64_t d = 0; d < s.dim; ++d)
                    score += q[r * row + h * s.dim + d] * double{keys[p * kv_row + kv * s.dim + d]};
                weights.push_back(std::exp(score * scale));
                sum += weights.back();
            }
            for (int64_t d = 0; d < s.dim; ++d) {
                double expected = 0.0;
                for (int64_t p = first; p <= last; ++p)
                    expected += weights[p - first] / sum * double{values[p * kv_row + kv * s.dim + d]};
                worst = std::max(worst, std::abs(expected - out[r * row + h * s.dim + d]));
            }
        }
    }
    CHECK(worst < 5e-6);
}

}  // namespace

TEST_CASE("attention is a causal softmax on every instruction set") {
    for (const KernelTable* table : available_kernels()) {
        CAPTURE(table->isa);
        for (const Shape& s :
             {Shape{1, 4, 2, 64, 0, 0}, Shape{1, 4, 2, 64, 99, 0}, Shape{40, 4, 2, 64, 0, 0},
              Shape{37, 8, 8, 8, 30, 0}, Shape{3, 6, 1, 20, 61, 0}, Shape{2, 2, 1, 256, 70, 0},
              Shape{70, 2, 1, 16, 10, 7}, Shape{1, 4, 2, 64, 99, 33}, Shape{5, 8, 2, 40, 50, 0},
              Shape{9, 3, 3, 48, 33, 0}, Shape{2, 4, 1, 100, 40, 9}}) {
            for (const Kind* kind : {&kF32, &kF16, &kQ8}) check_attention(table->transformer, s, *kind);
        }
    }
}

TEST_CASE("every half survives the cache") {
    for (const KernelTable* table : available_kernels()) {
        CAPTURE(table->isa);
        const TransformerKernels& k = table->transformer;
        // One position and one value: attention returns that value.
        const CacheShape cache{1, 1};
        int wrong = 0;
        for (uint32_t bits = 0; bits < 0x10000; ++bits) {
            if ((bits & 0x7c00) == 0x7c00) continue;
            const float value = f16_to_f32(static_cast<uint16_t>(bits)), q = 1.0f, key = 0.5f;
            uint16_t key_cache[kCacheBlock], value_cache[kCacheBlock];
            k.store_f16(&key, &value, key_cache, value_cache, 1, 0, cache);
            float out = -1.0f;
            k.attention_f16({&q, key_cache, value_cache, &out, 1, 1, cache, 0, 0, 1.0f}, 0, 1);
            wrong += value_cache[0] != bits || out != value;
        }
        CHECK(wrong == 0);
        // Rounding, and saturation instead of infinity.
        for (float value : {1.00048828125f, 1.00146484375f, 3.0e-8f, 65519.0f, 65504.0f, 0.1f, -0.3f}) {
            uint16_t key_cache[kCacheBlock], value_cache[kCacheBlock];
            k.store_f16(&value, &value, key_cache, value_cache, 1, 0, cache);
            CHECK(value_cache[0] == f32_to_f16(value));
        }
        for (float value : {65520.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
            uint16_t key_cache[kCacheBlock], value_cache[kCacheBlock];
            k.store_f16(&value, &value, key_cache, value_cache, 1, 0, cache);
            CHECK(value_cache[0] == 0x7bff);
        }
    }
}

TEST_CASE("gated units") {
    using Gate = double (*)(double);
    const Gate silu = [](double x) { return x / (1.0 + std::exp(-x)); };
    const Gate gelu = [](double x) {
        return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    };
    const Gate relu_squared = [](double x) { return x > 0.0 ? x * x : 0.0; };
    for (const KernelTable* table : available_kernels()) {
        CAPTURE(table->isa);
        const TransformerKernels& k = table->transformer;
        const auto check = [](TransformerKernels::Gated kernel, Gate function, float spread, double floor) {
            std::vector<float> gate = gaussian(1003, 4, spread), up = gaussian(1003, 5), out(1003, 7.0f);
            gate[0] = -200.0f, gate[1] = 200.0f, gate[2] = 0.0f, gate[3] = -0.0f, gate[4] = -88.5f;
            kernel(gate.data(), up.data(), out.data(), 0, 1003);
            double worst = 0.0;
            for (int i = 0; i < 1003; ++i) {
                const double expected = function(gate[i]) * up[i];
                worst = std::max(worst, std::abs(out[i] - expected) / std::max(std::abs(expected), floor));
            }
            CHECK(worst < 1e-6);
            kernel(gate.data(), up.data(), gate.data(), 0, 1003);  // in place
            CHECK(gate == out);
        };
        check(k.gated_silu, silu, 30.0f, 1e-28);
        // Far below zero 1 + tanh(u) loses its digits in double arithmetic, and nothing is left of it in
        // float32.
        check(k.gated_gelu, gelu, 2.0f, 1e-2);
        check(k.gated_relu_squared, relu_squared, 30.0f, 1e-28);
    }
}

TEST_CASE("rms_norm, rope and add") {
    for (const KernelTable* table : available_kernels()) {
        CAPTURE(table->isa);
        const TransformerKernels& k = table->transformer;
        for (int64_t n : {1, 8, 20, 64, 172, 1024}) {
            const std::vector<float> x = gaussian(3 * n, 6), weight = gaussian(n, 7);
            std::vector<float> normed(3 * n, 0.0f);
            k.rms_norm(x.data(), weight.data(), normed.data(), 1, 3, n, 1e-5f);
            for (int64_t i = 0; i < n; ++i) CHECK(normed[i] == 0.0f);
            for (int64_t r = 1; r < 3; ++r) {
                double squares = 0.0;
                for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[r * n + i]) * x[r * n + i];
                for (int64_t i = 0; i < n; ++i) {
                    const double expected = x[r * n + i] / std::sqrt(squares / n + 1e-5f) * weight[i];
                    CHECK(normed[r * n + i] == doctest::Approx(expected).epsilon(1e-6));
                }
            }
        }

        for (const bool interleaved : {false, true}) {
            const int64_t heads = 3, dim = 14, pairs = 5;  // the last 4 elements of a head stay as they are
            const std::vector<float> before = gaussian(2 * heads * dim, 8), cos = gaussian(2 * pairs, 9),
                                     sin = gaussian(2 * pairs, 10);
            std::vector<float> x = before;
            k.rope({x.data(), heads, dim, cos.data(), sin.data(), pairs, interleaved}, 0, 2);
            for (int64_t r = 0; r < 2; ++r)
                for (int64_t h = 0; h < heads; ++h) {
                    const int64_t base = (r * heads + h) * dim;
                    for (int64_t i = 0; i < pairs; ++i) {
                        const int64_t a = base + (interleaved ? 2 * i : i);
                        const int64_t b = base + (interleaved ? 2 * i + 1 : i + pairs);
                        const float c = cos[r * pairs + i], s = sin[r * pairs + i];
                        CHECK(x[a] == doctest::Approx(before[a] * c - before[b] * s).epsilon(1e-5));
                        CHECK(x[b] == doctest::Approx(before[a] * s + before[b] * c).epsilon(1e-5));
                    }
                    for (int64_t i = 2 * pairs; i < dim; ++i) CHECK(x[base + i] == before[base + i]);
                }
        }

        std::vector<float> a = gaussian(37, 11);
        const std::vector<float> before = a, b = gaussian(37, 12);
        k.add(a.data(), b.data(), 5, 36);
        for (int i = 0; i < 37; ++i) CHECK(a[i] == (i >= 5 && i < 36 ? before[i] + b[i] : before[i]));
    }
}
