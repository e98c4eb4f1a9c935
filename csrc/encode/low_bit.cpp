// Encoders of the formats of one and two bits with one scale. An imatrix is not used.
#include "formats/low_bit.hpp"

#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {

using namespace search;

// Each element keeps its sign, the scale is the mean magnitude. Zeros of both signs count as positive.
void q1_0(const float* x, uint8_t* out, int64_t k, const float*) {
    constexpr int kBlock = 128;
    BlockQ1_0* blocks = reinterpret_cast<BlockQ1_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        float magnitudes = 0;
        for (int i = 0; i < kBlock; ++i) magnitudes += std::fabs(x[i]);
        blocks[n].d = scale_to_f16(magnitudes / as_float(kBlock));
        uint8_t levels[kBlock];
        for (int i = 0; i < kBlock; ++i) levels[i] = x[i] >= 0;
        store_levels(levels, blocks[n]);
    }
}

// The largest magnitude is the scale: levels -1, 0 and 1 are used, 2 is for other encoders.
void q2_0(const float* x, uint8_t* out, int64_t k, const float*) {
    constexpr int kBlock = 64;
    BlockQ2_0* blocks = reinterpret_cast<BlockQ2_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        const float scale = std::fabs(peak_of(x, kBlock));
        const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
        blocks[n].d = scale_to_f16(scale);
        // A scale too small for its inverse to be finite makes the elements infinite or NaN, and those -1.
        uint8_t levels[kBlock];
        for (int i = 0; i < kBlock; ++i) {
            const float value = x[i] * inverse;
            levels[i] = static_cast<uint8_t>(value >= 0x1p31f ? 0 : clamp(round_half_away(value), -1, 2) + 1);
        }
        store_levels(levels, blocks[n]);
    }
}

}  // namespace bq::encode
