// The registry's rows, for code that needs them at compile time; everyone else asks format.hpp.
#pragma once

#include "formats/format.hpp"

namespace bq::registry {

using enum FormatId;

// name, block_size, type_size, run, minima, needs imatrix, implemented
static constexpr FormatInfo kFormats[] = {
    {F32, "F32", 1, 4, 0, false, false, true, "IEEE float, 32 bits"},
    {F16, "F16", 1, 2, 0, false, false, true, "IEEE float, 16 bits"},
    {Q4_0, "Q4_0", 32, 18, 32, false, false, true, "4-bit integers, one f16 scale for 32"},
    {Q4_1, "Q4_1", 32, 20, 32, true, false, true, "4-bit integers, f16 scale and minimum for 32"},
    {Q5_0, "Q5_0", 32, 22, 32, false, false, true, "5-bit integers, one f16 scale for 32"},
    {Q5_1, "Q5_1", 32, 24, 32, true, false, true, "5-bit integers, f16 scale and minimum for 32"},
    {Q8_0, "Q8_0", 32, 34, 32, false, false, true, "8-bit integers, one f16 scale for 32"},
    {Q2_K, "Q2_K", 256, 84, 16, true, false, true, "2-bit integers, 4-bit scales and minima for 16"},
    {Q3_K, "Q3_K", 256, 110, 16, false, false, true, "3-bit integers, 6-bit scales for 16"},
    {Q4_K, "Q4_K", 256, 144, 32, true, false, true, "4-bit integers, 6-bit scales and minima for 32"},
    {Q5_K, "Q5_K", 256, 176, 32, true, false, true, "5-bit integers, 6-bit scales and minima for 32"},
    {Q6_K, "Q6_K", 256, 210, 16, false, false, true, "6-bit integers, 8-bit scales for 16"},
    {IQ2_XXS, "IQ2_XXS", 256, 66, 32, false, true, true, "256-entry grid of 8 values, signs by parity"},
    {IQ2_XS, "IQ2_XS", 256, 74, 16, false, true, true, "512-entry grid of 8 values, 4-bit scales for 16"},
    {IQ3_XXS, "IQ3_XXS", 256, 98, 32, false, false, true, "256-entry grid of 4 values, signs by parity"},
    {IQ1_S, "IQ1_S", 256, 50, 32, false, true, true, "2048-entry ternary grid of 8, 3-bit scales for 32"},
    {IQ4_NL, "IQ4_NL", 32, 18, 32, false, false, true, "4-bit indices into 16 levels, f16 scale for 32"},
    {IQ3_S, "IQ3_S", 256, 110, 32, false, false, true, "512-entry grid of 4 values, free signs"},
    {IQ2_S, "IQ2_S", 256, 82, 16, false, false, true, "1024-entry grid of 8 values, free signs"},
    {IQ4_XS, "IQ4_XS", 256, 136, 32, false, false, true, "4-bit indices into 16 levels, 6-bit scales for 32"},
    {IQ1_M, "IQ1_M", 256, 56, 16, false, false, true, "2048-entry ternary grid of 8, 3-bit scales for 16"},
    {BF16, "BF16", 1, 2, 0, false, false, true, "the upper half of an IEEE 32-bit float"},
    {TQ1_0, "TQ1_0", 256, 54, 256, false, false, true, "ternary, five to a byte, one f16 scale for 256"},
    {TQ2_0, "TQ2_0", 256, 66, 256, false, false, true, "ternary, 2 bits each, one f16 scale for 256"},
    {MXFP4, "MXFP4", 32, 17, 32, false, false, true, "E2M1 floats, one E8M0 scale for 32"},
    {NVFP4, "NVFP4", 64, 36, 16, false, false, true, "E2M1 floats, one UE4M3 scale for 16"},
    {Q1_0, "Q1_0", 128, 18, 128, false, false, true, "signs, one f16 scale for 128"},
    {Q2_0, "Q2_0", 64, 18, 64, false, false, true, "2-bit integers -1 to 2, one f16 scale for 64"},
};

static constexpr FormatInfo entry(FormatId id) {
    for (const FormatInfo& f : kFormats)
        if (f.id == id) return f;
    throw "no such format";  // not a constant expression: a compile-time error
}

}  // namespace bq::registry
