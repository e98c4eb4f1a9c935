// Activation rows to int8 in runs of 32: the same integers, scales and sums on every instruction set.
#pragma once

#include "formats/half.hpp"
#include "simd/common.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

template <class S>
void quantize_activations(const float* x, int64_t begin, int64_t end, const Activations& out) {
    // out's pointers are const for the kernels that read; this is the one that fills them.
    int8_t* const q = const_cast<int8_t*>(out.q);
    float* const scales = const_cast<float*>(out.scales);
    float* const sums = const_cast<float*>(out.sums);
    const int64_t runs = out.k / kActivationRun;
    for (int64_t i = begin * runs; i < end * runs; ++i) {
        const float* run = x + i * kActivationRun;
        const float largest = bits_as<float>(S::max_magnitude_bits(run));
        float scale = largest / 127.0f, factor = 127.0f / largest;
        if (!(largest <= 3.4e38f)) {  // NaN or infinity: the integers are 0, the scale makes the products NaN
            scale = bits_as<float>(0x7fc00000u);
        }
        if (!(largest >= 1e-36f && largest <= 3.4e38f)) {
            // So small that the factor would be infinite: far below what any product can show.
            if (largest < 1e-36f) scale = 0.0f;
            memset(q + i * kActivationRun, 0, kActivationRun);
            scales[i] = scale;
            sums[2 * i] = sums[2 * i + 1] = scale;
            continue;
        }
        const auto half = S::round_to_bytes(run, factor, q + i * kActivationRun);
        scales[i] = scale;
        sums[2 * i] = scale * static_cast<float>(half.first);
        sums[2 * i + 1] = scale * static_cast<float>(half.last);
    }
}

}  // namespace
}  // namespace bq
