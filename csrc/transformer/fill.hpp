// The transformer kernels, written once. Each csrc/targets/<isa>.cpp includes this file and calls
// transformer_kernels(), so that every function here is compiled with that instruction set's flags and no
// other.
#pragma once

#include "transformer/attention.hpp"
#include "transformer/transformer_kernels.hpp"
#include "transformer/vector_math.hpp"

namespace bq {
namespace {

void rms_norm_rows(const float* x, const float* weight, float* out, int64_t begin, int64_t end, int64_t n,
                   float eps) {
    for (int64_t r = begin; r < end; ++r) {
        const float* row = x + r * n;
        float* target = out + r * n;
        const float factor = 1.0f / square_root(sum_of_squares(row, n) / static_cast<float>(n) + eps);
        for (int64_t i = 0; i < n; ++i) target[i] = row[i] * factor * weight[i];
    }
}

void rope_rows(const RopeRows& rows, int64_t begin, int64_t end) {
    const int64_t pairs = rows.pairs;
    for (int64_t r = begin; r < end; ++r) {
        const float* __restrict cos = rows.cos + r * pairs;
        const float* __restrict sin = rows.sin + r * pairs;
        for (int64_t h = 0; h < rows.heads; ++h) {
            float* __restrict x = rows.x + (r * rows.heads + h) * rows.dim;
            if (rows.interleaved) {
                for (int64_t i = 0; i < pairs; ++i) {
                    const float a = x[2 * i], b = x[2 * i + 1];
                    x[2 * i] = a * cos[i] - b * sin[i];
                    x[2 * i + 1] = a * sin[i] + b * cos[i];
                }
            } else {
                float* __restrict y = x + pairs;
                for (int64_t i = 0; i < pairs; ++i) {
                    const float a = x[i], b = y[i];
                    x[i] = a * cos[i] - b * sin[i];
                    y[i] = a * sin[i] + b * cos[i];
                }
            }
        }
    }
}

// The gated units differ in what they do to the gate: a struct with apply(float*), over kLanes elements.
struct Silu {
    static inline void apply(float* x) {
        for (int i = 0; i < kLanes; ++i) x[i] /= 1.0f + exp_clamped(-x[i]);
    }
};

// The tanh form of GELU: x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3) is x / (1 + e^-2u).
struct GeluTanh {
    static inline void apply(float* x) {
        for (int i = 0; i < kLanes; ++i) {
            const float twice = 1.5957691216057308f * x[i] * (1.0f + 0.044715f * x[i] * x[i]);
            x[i] /= 1.0f + exp_clamped(-twice);
        }
    }
};

struct ReluSquared {
    static inline void apply(float* x) {
        for (int i = 0; i < kLanes; ++i) {
            const float positive = select(x[i] < 0.0f, 0.0f, x[i]);
            x[i] = positive * positive;
        }
    }
};

template <class Activation>
void gated_block(const float* gate, const float* up, float* out, int count) {
    float block[kLanes] = {};  // out may be gate or up
    for (int i = 0; i < count; ++i) block[i] = gate[i];
    Activation::apply(block);
    for (int i = 0; i < count; ++i) out[i] = block[i] * up[i];
}

template <class Activation>
void gated_elements(const float* gate, const float* up, float* out, int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) gated_block<Activation>(gate + i, up + i, out + i, kLanes);
    if (i < end) gated_block<Activation>(gate + i, up + i, out + i, static_cast<int>(end - i));
}

void add_elements(float* x, const float* y, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] += y[i];
}

template <class S>
TransformerKernels transformer_kernels() {
    TransformerKernels kernels{};  // braces: an aggregate, not a shared constructor
    kernels.rms_norm = rms_norm_rows;
    kernels.rope = rope_rows;
    kernels.store_f32 = store_rows<CacheF32>;
    kernels.store_f16 = store_rows<CacheF16>;
    kernels.store_q8_0 = store_rows<CacheQ8>;
    kernels.attention_f32 = attention_rows<S, CacheF32>;
    kernels.attention_f16 = attention_rows<S, CacheF16>;
    kernels.attention_q8_0 = attention_rows<S, CacheQ8>;
    kernels.gated_silu = gated_elements<Silu>;
    kernels.gated_gelu = gated_elements<GeluTanh>;
    kernels.gated_relu_squared = gated_elements<ReluSquared>;
    kernels.add = add_elements;
    return kernels;
}

}  // namespace
}  // namespace bq
