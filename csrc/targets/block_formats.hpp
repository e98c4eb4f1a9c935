// The formats of blocks, for what is instantiated for each of them.
#pragma once

#include "formats/format.hpp"

namespace bq {

template <FormatId... ids>
struct Formats {};

using BlockFormats =
    Formats<FormatId::Q4_0, FormatId::Q4_1, FormatId::Q5_0, FormatId::Q5_1, FormatId::Q8_0, FormatId::Q2_K,
            FormatId::Q3_K, FormatId::Q4_K, FormatId::Q5_K, FormatId::Q6_K, FormatId::IQ4_NL,
            FormatId::IQ4_XS, FormatId::TQ1_0, FormatId::TQ2_0, FormatId::MXFP4, FormatId::NVFP4,
            FormatId::Q1_0, FormatId::Q2_0, FormatId::IQ1_S, FormatId::IQ1_M, FormatId::IQ2_XXS,
            FormatId::IQ2_XS, FormatId::IQ2_S, FormatId::IQ3_XXS, FormatId::IQ3_S>;

}  // namespace bq
