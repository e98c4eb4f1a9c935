// Activation rows to int8 in runs of 32 or 256: the same integers, scales and sums on every instruction set.
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
    int16_t* const whole_sums = const_cast<int16_t*>(out.whole_sums);
    const int64_t runs = out.k / out.run;
    const int parts = out.run / kActivationRun;
    for (int64_t i = begin * runs; i < end * runs; ++i) {
        const float* run = x + i * out.run;
        uint32_t largest_bits = 0;
        for (int part = 0; part < parts; ++part) {
            const uint32_t bits = S::max_magnitude_bits(run + part * kActivationRun);
            largest_bits = bits > largest_bits ? bits : largest_bits;
        }
        const float largest = bits_as<float>(largest_bits);
        float scale = largest / 127.0f, factor = 127.0f / largest;
        if (!(largest >= 1e-36f && largest <= 3.4e38f)) {
            // NaN or infinity: the integers are 0, the scale makes the products NaN. Or so small that the
            // factor would be infinite, far below what any product can show.
            scale = largest < 1e-36f ? 0.0f : bits_as<float>(0x7fc00000u);
            factor = 0.0f;
        }
        for (int part = 0; part < parts; ++part) {
            const int64_t at = i * parts + part;
            int8_t* to = q + at * kActivationRun;
            typename S::HalfSums half{0, 0};
            if (factor != 0.0f)
                half = S::round_to_bytes(run + part * kActivationRun, factor, to);
            else
                memset(to, 0, kActivationRun);
            whole_sums[2 * at] = static_cast<int16_t>(half.first);
            whole_sums[2 * at + 1] = static_cast<int16_t>(half.last);
            sums[2 * at] = scale * static_cast<float>(half.first);
            sums[2 * at + 1] = scale * static_cast<float>(half.last);
        }
        scales[i] = scale;
    }
}

}  // namespace
}  // namespace bq
