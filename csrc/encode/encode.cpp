#include "encode/encode.hpp"

#include <cstring>

#include "encode/grid_neighbours.hpp"
#include "encode/row_encoders.hpp"
#include "formats/half.hpp"

namespace bq {
namespace encode {

void f32(const float* x, uint8_t* out, int64_t k, const float*) {
    std::memcpy(out, x, static_cast<size_t>(k) * sizeof(float));
}

void f16(const float* x, uint8_t* out, int64_t k, const float*) {
    for (int64_t i = 0; i < k; ++i) {
        const uint16_t h = f32_to_f16(x[i]);
        std::memcpy(out + 2 * i, &h, 2);
    }
}

void bf16(const float* x, uint8_t* out, int64_t k, const float*) {
    for (int64_t i = 0; i < k; ++i) {
        const uint16_t h = f32_to_bf16(x[i]);
        std::memcpy(out + 2 * i, &h, 2);
    }
}

}  // namespace encode

EncodeRowFn reference_encoder(FormatId id) {
    switch (id) {
        case FormatId::F32:
            return encode::f32;
        case FormatId::F16:
            return encode::f16;
        case FormatId::BF16:
            return encode::bf16;
        case FormatId::Q4_0:
            return encode::q4_0;
        case FormatId::Q4_1:
            return encode::q4_1;
        case FormatId::Q5_0:
            return encode::q5_0;
        case FormatId::Q5_1:
            return encode::q5_1;
        case FormatId::Q8_0:
            return encode::q8_0;
        case FormatId::Q2_K:
            return encode::q2_k;
        case FormatId::Q3_K:
            return encode::q3_k;
        case FormatId::Q4_K:
            return encode::q4_k;
        case FormatId::Q5_K:
            return encode::q5_k;
        case FormatId::Q6_K:
            return encode::q6_k;
        case FormatId::IQ1_S:
            return encode::iq1_s;
        case FormatId::IQ1_M:
            return encode::iq1_m;
        case FormatId::IQ2_XXS:
            return encode::iq2_xxs;
        case FormatId::IQ2_XS:
            return encode::iq2_xs;
        case FormatId::IQ2_S:
            return encode::iq2_s;
        case FormatId::IQ3_XXS:
            return encode::iq3_xxs;
        case FormatId::IQ3_S:
            return encode::iq3_s;
        case FormatId::IQ4_NL:
            return encode::iq4_nl;
        case FormatId::IQ4_XS:
            return encode::iq4_xs;
        case FormatId::TQ1_0:
            return encode::tq1_0;
        case FormatId::TQ2_0:
            return encode::tq2_0;
        case FormatId::MXFP4:
            return encode::mxfp4;
        case FormatId::NVFP4:
            return encode::nvfp4;
        case FormatId::Q1_0:
            return encode::q1_0;
        case FormatId::Q2_0:
            return encode::q2_0;
        default:
            return nullptr;
    }
}

bool encoder_uses_imatrix(FormatId id) {
    switch (id) {
        case FormatId::F32:
        case FormatId::F16:
        case FormatId::BF16:
        case FormatId::Q8_0:
        case FormatId::TQ1_0:
        case FormatId::TQ2_0:
        case FormatId::MXFP4:
        case FormatId::NVFP4:
        case FormatId::Q1_0:
        case FormatId::Q2_0:
            return false;
        default:
            return true;
    }
}

void prepare_encoder(FormatId id) {
    using encode::Grid;
    switch (id) {
        case FormatId::IQ1_S:
        case FormatId::IQ1_M:
            encode::grid_neighbours(Grid::kIQ1S);
            break;
        case FormatId::IQ2_XXS:
            encode::grid_neighbours(Grid::kIQ2XXS);
            break;
        case FormatId::IQ2_XS:
            encode::grid_neighbours(Grid::kIQ2XS);
            break;
        case FormatId::IQ2_S:
            encode::grid_neighbours(Grid::kIQ2S);
            break;
        case FormatId::IQ3_XXS:
            encode::grid_neighbours(Grid::kIQ3XXS);
            break;
        case FormatId::IQ3_S:
            encode::grid_neighbours(Grid::kIQ3S);
            break;
        default:
            break;
    }
}

}  // namespace bq
