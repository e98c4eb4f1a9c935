// Whether all blocks of a tensor decode to finite numbers, on several threads and without writing them
// anywhere.
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

struct BadElement {
    int64_t index;      // of the first bad element; of the first element of its run for a NaN scale; -1: none
    bool is_nan_scale;  // a scale whose bits say NaN where decoding takes them for a number, as ggml does
};

// The first of `elements` (a multiple of the block) that is not finite, or whose scale is a NaN. threads as
// in parallel_for.
BadElement find_bad_element(const KernelTable& table, const FormatInfo& format, const uint8_t* blocks,
                            int64_t elements, int threads);

}  // namespace bq
