// Activation rows to int8 in runs of 32 or 256: the same integers, scales and sums on every instruction set.
#pragma once

#include <limits>

#include "formats/half.hpp"
#include "simd/common.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

// Runs of kParts times 32.
template <class S, int kParts>
BQ_INLINE void quantize_runs(const float* x, int64_t begin, int64_t end, const Activations& out) {
    // out's pointers are const for the kernels that read; this is the one that fills them.
    int8_t* const q = const_cast<int8_t*>(out.q);
    float* const scales = const_cast<float*>(out.scales);
    float* const sums = const_cast<float*>(out.sums);
    int16_t* const whole_sums = const_cast<int16_t*>(out.whole_sums);
    constexpr int kRun = kParts * kActivationRun;
    for (int64_t i = begin; i < end; ++i) {
        const float* run = x + i * kRun;
        const float largest = bits_as<float>(S::template max_magnitude_bits<kRun>(run));
        float scale = largest / 127.0f;
        if (!(largest >= 1e-36f && largest <= std::numeric_limits<float>::max())) {
            // NaN or infinity: the integers are 0, the scale makes the products NaN. Or so small that the
            // factor would soon be infinite.
            scale = largest < 1e-36f ? 0.0f : bits_as<float>(0x7fc00000u);
            memset(q + i * kRun, 0, kRun);
            memset(whole_sums + 2 * kParts * i, 0, 2 * kParts * sizeof(int16_t));
            for (int half = 0; half < 2 * kParts; ++half) sums[2 * kParts * i + half] = scale;
        } else {
            const float factor = 127.0f / largest;
            for (int64_t at = i * kParts; at < (i + 1) * kParts; ++at) {
                const auto half = S::round_to_bytes(x + at * kActivationRun, factor, q + at * kActivationRun);
                whole_sums[2 * at] = static_cast<int16_t>(half.first);
                whole_sums[2 * at + 1] = static_cast<int16_t>(half.last);
                sums[2 * at] = scale * static_cast<float>(half.first);
                sums[2 * at + 1] = scale * static_cast<float>(half.last);
            }
        }
        scales[i] = scale;
    }
}

template <class S>
void quantize_activations(const float* x, int64_t begin, int64_t end, const Activations& out) {
    const int64_t runs = out.k / out.run;
    if (out.run == kActivationRun)
        quantize_runs<S, 1>(x, begin * runs, end * runs, out);
    else
        quantize_runs<S, kLongActivationRun / kActivationRun>(x, begin * runs, end * runs, out);
}

}  // namespace
}  // namespace bq
