// What the reference transformer loop needs of an instruction set, besides matmul.
#pragma once

#include <cstdint>

namespace bq {

struct TransformerKernels {};

}  // namespace bq
