// Encoders of the ternary formats: the largest magnitude is the scale, each element rounds to -1, 0 or 1
// times it. For weights that are ternary already; an imatrix is not used.
#include "formats/ternary.hpp"

#include <cmath>
#include <cstring>

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
        // The number whose base-3 digits the trits are, a missing fifth one being 0.
        int number[52] = {};
        for (int i = 0; i < kBlock; ++i) {
            constexpr int kWeights[5] = {81, 27, 9, 3, 1};
            const ternary::Place p = ternary::place(i);
            number[p.byte] += trits[i] * kWeights[p.trit];
        }
        // As a fraction of 3^5, in 256ths, rounded up so that no digit is lost.
        uint8_t bytes[52];
        for (int i = 0; i < 52; ++i) bytes[i] = static_cast<uint8_t>((number[i] * 256 + 242) / 243);
        std::memcpy(blocks[n].qs, bytes, 48);
        std::memcpy(blocks[n].qh, bytes + 48, 4);
    }
}

void tq2_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockTQ2_0* blocks = reinterpret_cast<BlockTQ2_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        uint8_t trits[kBlock];
        blocks[n].d = scale_to_f16(ternary_scale(x, trits));
        for (int i = 0; i < 64; ++i) {
            const uint8_t* t = trits + i / 32 * 128 + i % 32;
            blocks[n].qs[i] = static_cast<uint8_t>(t[0] | t[32] << 2 | t[64] << 4 | t[96] << 6);
        }
    }
}

}  // namespace bq::encode
