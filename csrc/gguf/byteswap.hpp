// The other byte order for tensor data: reverses the 16-bit and wider fields of each block in place.
#pragma once

#include <cstdint>
#include <string_view>

namespace bq::gguf {

// False when the layout of this format's blocks is not known here, or size is not a whole number of blocks.
bool swap_blocks(std::string_view format, uint8_t* data, uint64_t size);

}  // namespace bq::gguf
