// The formats whose elements are points of a codebook, eight or four elements each, and how each unpacks into
// the common form (common_form.hpp). The points of IQ2 and IQ3 are magnitudes and get signs; those of IQ1 are
// ternary and are moved by an eighth up or down, so that in eighths they are integers.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats/codebooks/points.hpp"
#include "formats/half.hpp"

namespace bq {

// Blocks are read and written in place at any address, so the structs have no alignment of their own.
#pragma pack(push, 1)
struct BlockIQ2_XXS {  // d * (scale + 1/2) / 4 * point, runs of 32
    uint16_t d;        // f16
    struct Run {
        uint8_t qs[4];         // the points
        uint32_t signs_scale;  // the signs of point l in bits 7 l to 7 l + 6 (even_signs), the scale in the
                               // top four
    } runs[8];
};
struct BlockIQ2_XS {    // d * (scale + 1/2) / 4 * point, runs of 16
    uint16_t d;         // f16
    uint16_t qs[32];    // a point in the low nine bits, its signs in the high seven (even_signs)
    uint8_t scales[8];  // run j: byte j / 2, bits 4 * (j % 2)
};
struct BlockIQ2_S {     // d * (scale + 1/2) / 4 * point, runs of 16
    uint16_t d;         // f16
    uint8_t qs[32];     // the low eight bits of each point
    uint8_t signs[32];  // a bit for each element
    uint8_t qh[8];      // the high pairs of bits, point l at byte l / 4, bits 2 * (l % 4)
    uint8_t scales[8];  // as IQ2_XS
};
struct BlockIQ3_XXS {         // d * (scale + 1/2) / 2 * point, runs of 32
    uint16_t d;               // f16
    uint8_t qs[64];           // the points, of four elements
    uint32_t signs_scale[8];  // as IQ2_XXS, the signs of two points together
};
struct BlockIQ3_S {     // d * (2 * scale + 1) * point, runs of 32
    uint16_t d;         // f16
    uint8_t qs[64];     // the low eight bits of each point, of four elements
    uint8_t qh[8];      // the ninth bits, point l at byte l / 8, bit l % 8
    uint8_t signs[32];  // a bit for each element
    uint8_t scales[4];  // run j: byte j / 2, bits 4 * (j % 2)
};
struct BlockIQ1_S {  // d * (2 * scale + 1) * (point + shift), runs of 32
    uint16_t d;      // f16
    uint8_t qs[32];  // the low eight bits of each point
    uint16_t
        qh[8];  // of a run: the high three bits of point l at bits 3 l; the scale at 12; bit 15: shift down
};
struct BlockIQ1_M {      // d * (2 * scale + 1) * (point + shift), runs of 16
    uint8_t qs[32];      // the low eight bits of each point
    uint8_t qh[16];      // a nibble for each point: its high three bits; bit 3: shift down
    uint16_t scales[4];  // run j: word j / 4, bits 3 * (j % 4); the top nibbles are d, lowest first
};
#pragma pack(pop)

static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82);
static_assert(sizeof(BlockIQ3_XXS) == 98 && sizeof(BlockIQ3_S) == 110);
static_assert(sizeof(BlockIQ1_S) == 50 && sizeof(BlockIQ1_M) == 56);

namespace iq_grids {

// The elements of a point, those negated whose bit in `signs` is set.
template <int kElements>
static inline void signed_point(const int8_t (&point)[kElements], int signs, int8_t* q) {
    for (int i = 0; i < kElements; ++i) q[i] = static_cast<int8_t>(signs >> i & 1 ? -point[i] : point[i]);
}

// A ternary point in eighths, one down if `down` and else one up.
static inline void shifted_point(int index, bool down, int8_t* q) {
    const int8_t (&point)[8] = codebooks::iq1_s::kPoints.at[index];
    for (int i = 0; i < 8; ++i) q[i] = static_cast<int8_t>(point[i] + (down ? -1 : 1));
}

static inline int nibble(const uint8_t* bytes, int j) {
    return bytes[j / 2] >> 4 * (j % 2) & 15;
}

// The float16 that an IQ1_M block keeps in the top nibbles of its scales.
static inline uint16_t iq1_m_d(const uint16_t scales[4]) {
    return static_cast<uint16_t>(scales[0] >> 12 | (scales[1] >> 8 & 0xf0) | (scales[2] >> 4 & 0xf00) |
                                 (scales[3] & 0xf000));
}

}  // namespace iq_grids

static inline void unpack_values(const BlockIQ2_XXS& b, int8_t* q) {
    for (int j = 0; j < 8; ++j)
        for (int l = 0; l < 4; ++l)
            iq_grids::signed_point(codebooks::iq2_xxs::kPoints.at[b.runs[j].qs[l]],
                                   codebooks::even_signs(b.runs[j].signs_scale >> 7 * l & 127),
                                   q + 32 * j + 8 * l);
}
static inline void unpack_values(const BlockIQ2_XS& b, int8_t* q) {
    for (int l = 0; l < 32; ++l)
        iq_grids::signed_point(codebooks::iq2_xs::kPoints.at[b.qs[l] & 511],
                               codebooks::even_signs(b.qs[l] >> 9), q + 8 * l);
}
static inline void unpack_values(const BlockIQ2_S& b, int8_t* q) {
    for (int l = 0; l < 32; ++l) {
        const int high = b.qh[l / 4] >> 2 * (l % 4) & 3;
        iq_grids::signed_point(codebooks::iq2_s::kPoints.at[high << 8 | b.qs[l]], b.signs[l], q + 8 * l);
    }
}
static inline void unpack_values(const BlockIQ3_XXS& b, int8_t* q) {
    for (int l = 0; l < 64; ++l) {
        const int signs = codebooks::even_signs(b.signs_scale[l / 8] >> 7 * (l / 2 % 4) & 127);
        iq_grids::signed_point(codebooks::iq3_xxs::kPoints.at[b.qs[l]], signs >> 4 * (l % 2), q + 4 * l);
    }
}
static inline void unpack_values(const BlockIQ3_S& b, int8_t* q) {
    for (int l = 0; l < 64; ++l) {
        const int high = b.qh[l / 8] >> l % 8 & 1;
        iq_grids::signed_point(codebooks::iq3_s::kPoints.at[high << 8 | b.qs[l]],
                               b.signs[l / 2] >> 4 * (l % 2), q + 4 * l);
    }
}
static inline void unpack_values(const BlockIQ1_S& b, int8_t* q) {
    for (int l = 0; l < 32; ++l) {
        const int qh = b.qh[l / 4], high = qh >> 3 * (l % 4) & 7;
        iq_grids::shifted_point(high << 8 | b.qs[l], qh >> 15, q + 8 * l);
    }
}
static inline void unpack_values(const BlockIQ1_M& b, int8_t* q) {
    for (int l = 0; l < 32; ++l) {
        const int qh = iq_grids::nibble(b.qh, l);
        iq_grids::shifted_point((qh & 7) << 8 | b.qs[l], qh >> 3, q + 8 * l);
    }
}

// All products are exact: d has 11 bits, the factor five, the divisor is a power of two.
static inline void unpack_scales(const BlockIQ2_XXS& b, float* scales, float*) {
    const float d = f16_to_f32(b.d) * 0.125f;
    for (int j = 0; j < 8; ++j) scales[j] = d * static_cast<float>(2 * (b.runs[j].signs_scale >> 28) + 1);
}
static inline void unpack_scales(const BlockIQ2_XS& b, float* scales, float*) {
    const float d = f16_to_f32(b.d) * 0.125f;
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(2 * iq_grids::nibble(b.scales, j) + 1);
}
static inline void unpack_scales(const BlockIQ2_S& b, float* scales, float*) {
    const float d = f16_to_f32(b.d) * 0.125f;
    for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(2 * iq_grids::nibble(b.scales, j) + 1);
}
static inline void unpack_scales(const BlockIQ3_XXS& b, float* scales, float*) {
    const float d = f16_to_f32(b.d) * 0.25f;
    for (int j = 0; j < 8; ++j) scales[j] = d * static_cast<float>(2 * (b.signs_scale[j] >> 28) + 1);
}
static inline void unpack_scales(const BlockIQ3_S& b, float* scales, float*) {
    const float d = f16_to_f32(b.d);
    for (int j = 0; j < 8; ++j) scales[j] = d * static_cast<float>(2 * iq_grids::nibble(b.scales, j) + 1);
}
static inline void unpack_scales(const BlockIQ1_S& b, float* scales, float*) {
    const float d = f16_to_f32(b.d) * 0.125f;
    for (int j = 0; j < 8; ++j) scales[j] = d * static_cast<float>(2 * (b.qh[j] >> 12 & 7) + 1);
}
static inline void unpack_scales(const BlockIQ1_M& b, float* scales, float*) {
    const uint16_t words[4] = {b.scales[0], b.scales[1], b.scales[2], b.scales[3]};
    const float d = f16_to_f32(iq_grids::iq1_m_d(words)) * 0.125f;
    for (int j = 0; j < 16; ++j)
        scales[j] = d * static_cast<float>(2 * (words[j / 4] >> 3 * (j % 4) & 7) + 1);
}

}  // namespace bq
