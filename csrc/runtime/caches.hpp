// The sizes of the CPU's caches.
#pragma once

#include <cstdint>

namespace bq {

// Bytes of the largest cache that the CPU of this process has, asked for once; 0 where the system does not
// say.
int64_t largest_cache();

}  // namespace bq
