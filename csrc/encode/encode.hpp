// The scalar reference encoders: the spec of the bytes, equal to ggml's. One row of k floats each.
// x is finite. imatrix is nullptr or holds k weights >= 0. out has format_info(id).row_bytes(k) bytes.
#pragma once

#include <cstdint>

#include "formats/format.hpp"

namespace bq {

using EncodeRowFn = void (*)(const float* x, uint8_t* out, int64_t k, const float* imatrix);

// nullptr for a format that has no encoder yet.
EncodeRowFn reference_encoder(FormatId id);

// Whether the format's encoders look at the imatrix. Those that do take a row as a whole; blocks of the
// others can be encoded one by one.
bool encoder_uses_imatrix(FormatId id);

// Builds what the format's encoder looks up, if that is still to do: a few milliseconds and an allocation,
// which would otherwise happen with the first row. Safe to call from any thread.
void prepare_encoder(FormatId id);

}  // namespace bq
