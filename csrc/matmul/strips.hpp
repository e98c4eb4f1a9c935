// Weights laid out for the products of few rows: strips of as many weight rows as a vector has lanes of 32
// bits, their blocks taken apart into words of four bytes and the words of all rows put side by side, so that
// one vector holds the same word of each row. README.md has the picture.
#pragma once

#include <array>
#include <cstdint>

#include "formats/format.hpp"

namespace bq {

// Rows of a strip: 16 (AVX-512) or 8 (AVX2).
inline constexpr int kMaxStripRows = 16;

// What is done to a word besides choosing its bytes.
enum class StripBits : uint8_t {
    as_they_are,
    by_step,    // bit 4 j + i to bit 8 i + j: the fifth bits of Q5_0 and Q5_1
    even_first  // in each byte the even bits, then the odd ones: the signs of IQ3_S
};

struct StripWord {
    uint8_t offset;  // in the block
    uint8_t step;    // from one byte to the next
    StripBits bits = StripBits::as_they_are;
};

// How the blocks of a format lie in a strip of `lanes` rows: words[i] of block b and row r at
//     4 * (lanes * (words * b + i) + r),
// behind those of all blocks headers[i] of block b and row r at
//     4 * lanes * words * blocks + header_bytes * (lanes * (headers * b + i) + r).
// A strip has as many bytes as its rows had.
struct StripLayout {
    int words = 0, headers = 0, header_bytes = 2;
    std::array<StripWord, 52> word{};
    std::array<uint8_t, 2> header{};  // offsets in the block
    // The activations that a vector of words meets: of 32, elements 4 i to 4 i + 3 at step i or, transposed,
    // elements i, 8 + i, 16 + i and 24 + i.
    bool transposed = false;
};

const StripLayout& strip_layout(FormatId id);

// What kernels need of it as a constant: bytes of the headers of a block.
constexpr int strip_header_bytes(FormatId id) {
    using enum FormatId;
    switch (id) {
        case NVFP4:
        case IQ1_M:
            return 0;
        case MXFP4:
            return 1;
        case Q4_1:
        case Q5_1:
        case Q2_K:
        case Q4_K:
        case Q5_K:
        case IQ4_XS:
            return 4;
        default:
            return 2;
    }
}

// `lanes` rows of `blocks` blocks to a strip, and back; in and out do not overlap.
void rows_to_strip(FormatId id, int lanes, int64_t blocks, const uint8_t* rows, uint8_t* strip);
void strip_to_rows(FormatId id, int lanes, int64_t blocks, const uint8_t* strip, uint8_t* rows);

}  // namespace bq
