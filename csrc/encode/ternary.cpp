// Encoders of the ternary formats: the largest magnitude is the scale, each element rounds to -1, 0 or 1
// times it. For weights that are ternary already; an imatrix is not used.
#include "formats/ternary.hpp"

#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {
namespace {

using namespace search;

constexpr int kBlock = 256;

// trits[i] receives 0, 1 or 2. Returns the scale.
float ternary_scale(const float* x, uint8_t* trits) {
    const float scale = std::fabs(peak_of(x, kBlock));
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < kBlock; ++i) {
        // A scale too small for its inverse to be finite makes the elements infinite or NaN: these count as
        // 0.
        const float value = x[i] * inverse;
        trits[i] = static_cast<uint8_t>(1 + (value >= 0.5f && value < INFINITY) -
                                        (value <= -0.5f && value > -INFINITY));
    }
    return scale;
}

}  // namespace

void tq1_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockTQ1_0* blocks = reinterpret_cast<BlockTQ1_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        uint8_t trits[kBlock];
        blocks[n].d = scale_to_f16(ternary_scale(x, trits));
        store_levels(trits, blocks[n]);
    }
}

void tq2_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockTQ2_0* blocks = reinterpret_cast<BlockTQ2_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        uint8_t trits[kBlock];
        blocks[n].d = scale_to_f16(ternary_scale(x, trits));
        store_levels(trits, blocks[n]);
    }
}

}  // namespace bq::encode
