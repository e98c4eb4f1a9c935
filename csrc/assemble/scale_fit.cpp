#include "assemble/scale_fit.hpp"

#include <algorithm>
#include <cmath>

#include "formats/half.hpp"

namespace bq::assemble {
namespace {

bool has_zero(const Multiples& range) {
    return range.low <= 0 && range.step == 1;
}

// The multiple nearest to a quotient that is no NaN.
int nearest_multiple(float quotient, const Multiples& range) {
    const float last = static_cast<float>((range.high - range.low) / range.step);
    const float steps = (quotient - static_cast<float>(range.low)) / static_cast<float>(range.step);
    const float inside = steps > 0 ? (steps < last ? steps : last) : 0.0f;
    return range.low + range.step * static_cast<int>(inside + 0.5f);
}

// Calls body with every multiple of magnitude `least` and more that the scale of largest magnitude may have
// been, in the order of preference, until it returns true. Where multiples can be negative its own is: with
// the signs of d and of all multiples changed the products are the same.
template <class Body>
bool any_peak_multiple(const Multiples& range, int least, Body body) {
    if (range.low < 0) {
        for (int m = range.low; m <= -least; m += range.step)
            if (body(m)) return true;
    } else {
        for (int m = range.high; m >= std::max(least, range.low); m -= range.step)
            if (body(m)) return true;
    }
    return false;
}

int peak_index(const float* scales, const float* weights, int n) {
    int peak = -1;
    for (int j = 0; j < n; ++j)
        if ((!weights || weights[j] > 0) && scales[j] != 0 &&
            (peak < 0 || std::fabs(scales[j]) > std::fabs(scales[peak])))
            peak = j;
    return peak;
}

// All scales are zeros.
Factors factors_of_zeros(const float* scales, int n, const Multiples& range) {
    Factors out;
    const int negative =
        static_cast<int>(std::count_if(scales, scales + n, [](float s) { return std::signbit(s); }));
    const int zero = has_zero(range) ? 0 : range.low;
    std::fill(out.m, out.m + n, zero);
    if (negative == 0) return out;
    const bool by_integers = range.low < 0 && (negative < n || range.zeros_are_lowest);
    if (!by_integers) {
        out.d = 0x8000;
        return out;
    }
    for (int j = 0; j < n; ++j)
        if (std::signbit(scales[j])) out.m[j] = range.zeros_are_lowest ? range.low : -1;
    return out;
}

// Some scale is infinite or NaN, so d is: all are infinite, or NaN where d is or where an infinite one is
// times 0.
bool nonfinite_multiples(const float* scales, int n, const Multiples& range, Factors* out) {
    int infinities = 0, first = -1;
    for (int j = 0; j < n; ++j) {
        if (std::isfinite(scales[j])) return false;
        if (!std::isinf(scales[j])) continue;
        if (infinities++ == 0) first = j;
    }
    *out = Factors();
    if (infinities == 0) {
        if (!exact_f16(scales[0], &out->d)) out->d = 0x7e00;
        std::fill(out->m, out->m + n, has_zero(range) ? 0 : range.low);
        return true;
    }
    if (infinities < n && !has_zero(range)) return false;
    const bool negative_d = range.low >= 0 && scales[first] < 0;
    out->d = negative_d ? 0xfc00 : 0x7c00;
    for (int j = 0; j < n; ++j) {
        if (std::isnan(scales[j])) continue;  // 0 times infinity
        const bool negative = (scales[j] < 0) != negative_d;
        if (negative && range.low >= 0) return false;
        out->m[j] = negative ? -1 : 1;
    }
    return true;
}

}  // namespace

bool exact_f16(float value, uint16_t* bits) {
    const auto wide = bits_as<uint32_t>(value);
    *bits = value == value ? f32_to_f16(value)
                           : static_cast<uint16_t>((wide >> 16 & 0x8000) | 0x7c00 | (wide >> 13 & 0x3ff));
    return bits_as<uint32_t>(f16_to_f32(*bits)) == wide;
}

uint16_t nearest_f16(float value) {
    return f32_to_f16(std::clamp(value, -65504.0f, 65504.0f));
}

bool exact_multiples(const float* scales, int n, const Multiples& range, Factors* out) {
    for (int j = 0; j < n; ++j)
        if (!std::isfinite(scales[j])) return nonfinite_multiples(scales, n, range, out);
    const int peak = peak_index(scales, nullptr, n);
    if (peak < 0) {
        *out = factors_of_zeros(scales, n, range);
        return true;
    }
    return any_peak_multiple(range, 1, [&](int peak_multiple) {
        // Products have at most 11 + 8 significant bits, so they are exact; quotients are when they matter.
        if (!exact_f16(scales[peak] / (range.unit * static_cast<float>(peak_multiple)), &out->d))
            return false;
        const float step = range.unit * f16_to_f32(out->d);
        if (step == 0) return false;
        for (int j = 0; j < n; ++j) {
            out->m[j] = nearest_multiple(scales[j] / step, range);
            if (step * static_cast<float>(out->m[j]) != scales[j]) return false;
        }
        return true;
    });
}

Factors nearest_multiples(const float* scales, const float* weights, int n, const Multiples& range) {
    const int zero = has_zero(range) ? 0 : range.low;
    Factors best;
    std::fill(best.m, best.m + n, zero);
    const int peak = peak_index(scales, weights, n);
    if (peak < 0) return best;
    double least_error = INFINITY;
    // Tries this d; returns the one that would be best for the multiples it came to.
    const auto attempt = [&](float wanted) {
        const uint16_t d = nearest_f16(wanted);
        const float step = range.unit * f16_to_f32(d);
        const float inverse = step != 0 ? 1 / step : 0.0f;
        int m[kMostRuns];
        for (int j = 0; j < n; ++j) m[j] = step != 0 ? nearest_multiple(scales[j] * inverse, range) : zero;
        double error = 0, product = 0, square = 0;
        for (int j = 0; j < n; ++j) {
            const double weight = weights[j], difference = scales[j] - static_cast<double>(step) * m[j];
            error += weight * difference * difference;
            product += weight * scales[j] * m[j];
            square += weight * m[j] * m[j];
        }
        if (error < least_error) {
            least_error = error;
            best.d = d;
            std::copy(m, m + n, best.m);
        }
        return square > 0 ? static_cast<float>(product / square) / range.unit : 0.0f;
    };
    // Whatever fits with small multiples fits with their doubles and half of d, unless d has no half or
    // doubles are not to be had.
    const bool all =
        range.step != 1 || std::fabs(scales[peak]) < 0x1p-12f * range.unit * static_cast<float>(range.high);
    const int reach = std::max(-range.low, range.high);
    any_peak_multiple(range, all ? 1 : reach / 2, [&](int peak_multiple) {
        attempt(attempt(scales[peak] / (range.unit * static_cast<float>(peak_multiple))));
        return least_error == 0;
    });
    return best;
}

}  // namespace bq::assemble
