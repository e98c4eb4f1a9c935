// Encoders of the formats of 32 elements. Without an imatrix the extreme values of a block fix its scale;
// with one, a search does, weighting each error by its importance and by the magnitude of its element
// relative to the row's.
#include "formats/legacy.hpp"

#include <cfloat>
#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {
namespace {

using namespace search;

constexpr int kBlock = 32;

// The low eight bits of an integer as a level in 0..top. A scale too small for its inverse to be finite makes
// the elements infinite or NaN, and then those bits are zero.
uint8_t level_of(float value, int top) {
    const int level = static_cast<int8_t>(truncate_to_int(value));
    return static_cast<uint8_t>(level < top ? level : top);
}

float inverse_or_zero(float scale) {
    return scale != 0 ? 1.0f / scale : 0.0f;
}

// x ~ d * (level - limit): the element of largest magnitude gets level 0, that is -limit * d.
template <class Block, int limit>
void symmetric_row(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    Block* blocks = reinterpret_cast<Block*>(out);
    const float mean_square = imatrix ? sum_of_squares(x, k) / static_cast<float>(k) : 0.0f;
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        uint8_t levels[kBlock];
        float scale;
        if (imatrix) {
            float weights[kBlock];
            importance_weights(x, imatrix + n * kBlock, mean_square, kBlock, weights);
            scale = symmetric_scale(x, weights, kBlock, limit, levels);
        } else {
            scale = peak_of(x, kBlock) / as_float(-limit);
            const float inverse = inverse_or_zero(scale);
            for (int i = 0; i < kBlock; ++i)
                levels[i] = level_of(x[i] * inverse + (as_float(limit) + 0.5f), 2 * limit - 1);
        }
        blocks[n].d = scale_to_f16(scale);
        store_levels(levels, blocks[n]);
    }
}

// x ~ d * level + m: levels 0..top span the block's range.
template <class Block, int top>
void affine_row(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    Block* blocks = reinterpret_cast<Block*>(out);
    const float mean_square = imatrix ? sum_of_squares(x, k) / static_cast<float>(k) : 0.0f;
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        uint8_t levels[kBlock];
        float scale, offset;
        if (imatrix) {
            float weights[kBlock], minimum;
            importance_weights(x, imatrix + n * kBlock, mean_square, kBlock, weights);
            scale = affine_scale(x, weights, kBlock, importance_walk(top), levels, &minimum);
            offset = -minimum;
        } else {
            float high = -FLT_MAX;
            offset = FLT_MAX;
            for (int i = 0; i < kBlock; ++i) {
                if (x[i] < offset) offset = x[i];
                if (x[i] > high) high = x[i];
            }
            scale = (high - offset) / as_float(top);
            const float inverse = inverse_or_zero(scale);
            for (int i = 0; i < kBlock; ++i) levels[i] = level_of((x[i] - offset) * inverse + 0.5f, top);
        }
        blocks[n].d = scale_to_f16(scale);
        blocks[n].m = scale_to_f16(offset);
        store_levels(levels, blocks[n]);
    }
}

}  // namespace

void q4_0(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    symmetric_row<BlockQ4_0, 8>(x, out, k, imatrix);
}

void q4_1(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    affine_row<BlockQ4_1, 15>(x, out, k, imatrix);
}

void q5_0(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    symmetric_row<BlockQ5_0, 16>(x, out, k, imatrix);
}

void q5_1(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    affine_row<BlockQ5_1, 31>(x, out, k, imatrix);
}

// 8 bits are enough to need no search: the imatrix is not used.
void q8_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockQ8_0* blocks = reinterpret_cast<BlockQ8_0*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        const float scale = std::fabs(peak_of(x, kBlock)) / 127.0f;
        const float inverse = inverse_or_zero(scale);
        blocks[n].d = scale_to_f16(scale);
        for (int i = 0; i < kBlock; ++i)
            blocks[n].qs[i] = static_cast<int8_t>(round_half_away(x[i] * inverse));
    }
}

}  // namespace bq::encode
