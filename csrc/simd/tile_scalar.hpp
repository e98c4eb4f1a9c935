// What the product of many rows (csrc/matmul/gemm.hpp) needs, in plain C++: the reference of the other
// tile_*.hpp.
//   kLanes          weight rows side by side in a vector
//   kRows           activation rows of a tile
//   kFloatRows      the same with float activations
//   kRowsInLanes    products of float weights go through gemm_float_lanes.hpp
//   kSignedWeights  panels hold signed integers; otherwise unsigned ones up to kLargestWeight
//   dots<kTop, kSteps, kCount>
//                   for each of kCount activation rows: start[r] and the products of kSteps groups of four.
//                   Weights lie as [step][lane][4], activations as [step][row][4]. kTop is the largest weight
//                   that the panel can hold.
//   signed_dots<kSteps, kCount>, sum_of_negatives
//                   where weights are unsigned and kLargestWeight is too small for eight bits: the same for
//                   signed ones, given for each lane the sum of the magnitudes of its negative weights
//   kIntegerBlocks  the scales and minima of super-blocks stay integers, where that saves multiplications.
//                   Then there are also
//   add_dots        as dots, onto what sum holds
//   add_words       for each row the products of two words a lane, onto what sum holds: weights [lane][2],
//                   activations [row][2]
//   kIntegerScales  super-blocks stay integers up to 256 elements (matmul/integer_panel.hpp): then there are
//                   add_words and
//   add_scaled_dots<kPairs, kSteps, kRaised>
//                   the products of kSteps groups of four, times the words `scale`, onto what sum holds;
//                   int16 can add up kPairs products of pairs. kRaised: of signed weights and unsigned
//                   activations
//   add_scaled_signed_dots<kSteps>
//                   the same for signed weights of eight bits; the activations of negative ones are
//                   complemented
//   pairs_up_to     products of pairs that int16 can add up, given the largest product and the most of them
//   splat_word_pairs, load_words, load_ints, store_ints, sub_ints
#pragma once

#include "simd/scalar.hpp"

namespace bq {
namespace {

struct TileScalar {
    static constexpr int kLanes = 8;
    static constexpr int kRows = 4;
    static constexpr int kFloatRows = 4;
    static constexpr bool kRowsInLanes = false;
    static constexpr int kLargestWeight = 127;
    static constexpr bool kSignedWeights = true;
    static constexpr bool kIntegerBlocks = false, kIntegerScales = false;
    struct Ints {
        int32_t v[kLanes];
    };
    struct Floats {
        float v[kLanes];
    };

    template <class Body>
    static BQ_INLINE Floats each(Body&& body) {
        Floats out;
        for (int i = 0; i < kLanes; ++i) out.v[i] = body(i);
        return out;
    }
    static BQ_INLINE Floats load(const float* p) {
        return each([&](int i) BQ_INLINE_LAMBDA { return p[i]; });
    }
    static BQ_INLINE void store(float* p, const Floats& a) {
        for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
    }
    static BQ_INLINE Floats zero() { return splat(0.0f); }
    static BQ_INLINE Floats splat(float value) {
        return each([&](int) BQ_INLINE_LAMBDA { return value; });
    }
    static BQ_INLINE Floats mul(const Floats& a, const Floats& b) {
        return each([&](int i) BQ_INLINE_LAMBDA { return a.v[i] * b.v[i]; });
    }
    static BQ_INLINE Floats add(const Floats& a, const Floats& b) {
        return each([&](int i) BQ_INLINE_LAMBDA { return a.v[i] + b.v[i]; });
    }
    static BQ_INLINE Floats mul_add(const Floats& a, const Floats& b, const Floats& c) {
        return each([&](int i) BQ_INLINE_LAMBDA { return a.v[i] * b.v[i] + c.v[i]; });
    }
    static BQ_INLINE Floats mul_sub_from(const Floats& a, const Floats& b, const Floats& c) {
        return each([&](int i) BQ_INLINE_LAMBDA { return c.v[i] - a.v[i] * b.v[i]; });
    }
    static BQ_INLINE Floats to_floats(const Ints& a) {
        return each([&](int i) BQ_INLINE_LAMBDA { return static_cast<float>(a.v[i]); });
    }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        for (int r = 0; r < kCount; ++r)
            for (int i = 0; i < kLanes; ++i) sum[r].v[i] = start[r];
        for (int step = 0; step < kSteps; ++step)
            for (int r = 0; r < kCount; ++r)
                for (int i = 0; i < kLanes; ++i) {
                    const uint8_t* u = w + 4 * (kLanes * step + i);
                    const int8_t* x = a + 4 * (kCount * step + r);
                    int32_t total = 0;
                    for (int j = 0; j < 4; ++j) total += static_cast<int8_t>(u[j]) * x[j];
                    sum[r].v[i] += total;
                }
    }
};

}  // namespace
}  // namespace bq
