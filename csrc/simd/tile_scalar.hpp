// What the product of many rows (csrc/matmul/gemm.hpp) needs, on any CPU, and the description of each
// operation.
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
    using Ints = Scalar::Ints;
    using Floats = Scalar::Floats;

    static BQ_INLINE Floats load(const float* p) { return Scalar::load8(p); }
    static BQ_INLINE void store(float* p, Floats a) { Scalar::store8(p, a); }
    static BQ_INLINE Floats zero() { return Scalar::zero(); }
    static BQ_INLINE Floats splat(float value) { return Scalar::splat8(value); }
    static BQ_INLINE Floats mul(Floats a, Floats b) { return a * b; }
    static BQ_INLINE Floats add(Floats a, Floats b) { return a + b; }
    static BQ_INLINE Floats mul_add(Floats a, Floats b, Floats c) { return a * b + c; }
    static BQ_INLINE Floats mul_sub_from(Floats a, Floats b, Floats c) { return c - a * b; }
    static BQ_INLINE Floats to_floats(Ints a) { return Scalar::to_floats(a); }

    template <int kTop, int kSteps, int kCount>
    static BQ_INLINE void dots(const uint8_t* w, const int8_t* a, const int32_t* start, Ints (&sum)[kCount]) {
        for (int r = 0; r < kCount; ++r) sum[r] = splat_vector<Ints>(start[r]);
        for (int step = 0; step < kSteps; ++step) {
            const Scalar::Bytes weights = Scalar::load(w + 4 * kLanes * step);
            for (int r = 0; r < kCount; ++r) {
                const Ints activations = splat_vector<Ints>(load_as<int32_t>(a + 4 * (kCount * step + r)));
                sum[r] = sum[r] + Scalar::dot_signed(weights, vector_as<Scalar::Bytes>(activations));
            }
        }
    }
};

}  // namespace
}  // namespace bq
