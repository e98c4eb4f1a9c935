// How scales are stored: as a float16, as a code of an 8-bit float, or as integers times a float16 that the
// runs of a super-block share. Each exactly, or the nearest.
#pragma once

#include <cstdint>

namespace bq::assemble {

inline constexpr int kMostRuns = 16;

// True if a float16 has exactly this value (a NaN: these bits).
bool exact_f16(float value, uint16_t* bits);
// The nearest finite one.
uint16_t nearest_f16(float value);

// The code with the nearest value, the lower of two; values rise with the codes 0 .. count - 1.
template <class ValueOf>
int nearest_code(float value, int count, ValueOf value_of) {
    int low = 0, high = count - 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (value_of(middle) <= value ? low : high) = middle;
    }
    const float below = value_of(low), above = value_of(high);
    return value - below <= above - value ? low : high;
}

// Scales unit * d * m of n runs, d a float16 and m one of low, low + step, ..., high.
struct Multiples {
    int low = 0, high = 0, step = 0;
    float unit = 1;  // a power of two
    // Which of the ways to store scales that all are minus zero the encoders choose: d = 0 and all m = low,
    // or d = -0 and all m = 0.
    bool zeros_are_lowest = false;
};

struct Factors {
    uint16_t d = 0;
    int m[kMostRuns] = {};
};

// True if there are d and m with exactly these products. Several can be (d and m up to a common factor): the
// largest |m| is taken, and where m can be negative, that of the largest scale is. So do the encoders: the
// run with the largest scale gets the end of the range.
bool exact_multiples(const float* scales, int n, const Multiples& range, Factors* out);

// The least weighted squared difference to the products; scales are finite, weights >= 0.
Factors nearest_multiples(const float* scales, const float* weights, int n, const Multiples& range);

}  // namespace bq::assemble
