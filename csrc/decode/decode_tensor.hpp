// All blocks of a tensor to floats, on several threads.
#pragma once

#include <cstdint>

#include "targets/kernels.hpp"

namespace bq {

enum class DecodedType { f32, f16, bf16 };

// `elements` (a multiple of the block) from consecutive blocks. `out` need not be aligned. threads as in
// parallel_for.
void decode_tensor(const KernelTable& table, const FormatInfo& format, const uint8_t* blocks, void* out,
                   DecodedType type, int64_t elements, int threads);

}  // namespace bq
