// The minima of super-blocks in a panel (panel.hpp, integer_panel.hpp) as integers: one for each kRun
// elements, in pairs, and dmin for 256.
#pragma once

#include "simd/common.hpp"

namespace bq {
namespace {

// kHave: whether there are any.
template <bool kHave, class S, class T, class Block, int kRun, int kDepth>
struct IntegerMinima {};

template <class S, class T, class Block, int kRun, int kDepth>
struct IntegerMinima<true, S, T, Block, kRun, kDepth> {
    static constexpr int kLanes = T::kLanes;
    static constexpr int kPairs = 128 / kRun;  // of a super-block

    alignas(64) float dmin[kDepth / 256 * kLanes];      // [depth / 256][lane]
    alignas(64) int16_t words[kDepth / kRun * kLanes];  // [depth / (2 * kRun)][lane][2]

    // Those of eight rows, from the element on.
    BQ_INLINE void fill(const uint8_t* const (&rows)[8], int element, int lane) {
        typename S::Bytes pairs[8];
        for (int i = 0; i < 8; ++i) {
            pairs[i] = Block::minima_once(rows[i]);
            dmin[element / 256 * kLanes + lane + i] = Block::dmin(rows[i]);
        }
        S::transpose(pairs, reinterpret_cast<uint8_t*>(words + element / kRun * kLanes + 2 * lane),
                     4 * kLanes, kPairs);
    }

    // Those of one super-block times the sums of the activations, in pairs of int16, from sum[row].
    template <int kCount>
    BQ_INLINE void subtract(const float* sums, int block, typename T::Floats (&sum)[kCount]) const {
        typename T::Ints whole[kCount];
        unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { whole[r] = T::splat_ints(0); });
        const int16_t* pairs = reinterpret_cast<const int16_t*>(sums) + 2 * block * kPairs * kCount;
        for (int i = 0; i < kPairs; ++i)
            T::add_words(words + 2 * (block * kPairs + i) * kLanes, pairs + 2 * i * kCount, whole);
        const typename T::Floats unit = T::load(dmin + block * kLanes);
        unroll<kCount>(
            [&](auto r) BQ_INLINE_LAMBDA { sum[r] = T::mul_sub_from(T::to_floats(whole[r]), unit, sum[r]); });
    }
};

}  // namespace
}  // namespace bq
