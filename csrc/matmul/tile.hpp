// What the products of many rows share.
#pragma once

#include "simd/common.hpp"

namespace bq {
namespace {

// The first rows (at most kCount) of a tile of results into y, or onto what y holds unless it is the first
// part.
template <class T, int kCount>
BQ_INLINE void add_tile(const float (&out)[kCount][T::kLanes], int64_t rows, bool is_first, int lanes,
                        float* y, int64_t ldy) {
    for (int64_t r = 0; r < (rows < kCount ? rows : kCount); ++r) {
        float* to = y + r * ldy;
        if (lanes == T::kLanes) {
            const auto sum = T::load(out[r]);
            T::store(to, is_first ? sum : T::add(T::load(to), sum));
        } else {
            for (int i = 0; i < lanes; ++i) to[i] = is_first ? out[r][i] : to[i] + out[r][i];
        }
    }
}

}  // namespace
}  // namespace bq
