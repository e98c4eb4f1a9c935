// The common form: every quantized format decodes exactly into runs of small integers, each run with a float
// scale and, for some formats, a float minimum:
//
//     value = scale * q - minimum        (a multiplication, rounded, then a subtraction, rounded: never
//     fused)
//
// A format is, to everything above this header,
//   - a packed struct (legacy.hpp, k_quants.hpp, ...), named here by BlockOf,
//   - unpack_values(block, q): CommonForm<id>::elements integers in element order, offsets and tables
//   applied,
//   - unpack_scales(block, scales, minima): CommonForm<id>::runs scales, and as many minima if the format has
//   them;
//     minima is not touched (may be nullptr) if it has none,
// and an encoder (csrc/encode). Its sizes come from the registry. To add one: write those and a BlockOf line.
//
// This and the headers below it are included by the sources compiled once per instruction set. All functions
// are `static`, so that no instance of them is shared by the linker between instruction sets; keep it so: no
// member functions, no calls of std:: templates.
#pragma once

#include <cstdint>

#include "formats/format_table.hpp"
#include "formats/half.hpp"
#include "formats/iq4.hpp"
#include "formats/iq_grids.hpp"
#include "formats/k_quants.hpp"
#include "formats/legacy.hpp"
#include "formats/low_bit.hpp"
#include "formats/microscaling.hpp"
#include "formats/ternary.hpp"

namespace bq {

// Of all formats, for buffers of one block.
inline constexpr int kMaxBlockElements = 256;
inline constexpr int kMaxBlockRuns = 16;

template <FormatId id>
struct BlockOf;
template <>
struct BlockOf<FormatId::Q4_0> {
    using type = BlockQ4_0;
};
template <>
struct BlockOf<FormatId::Q4_1> {
    using type = BlockQ4_1;
};
template <>
struct BlockOf<FormatId::Q5_0> {
    using type = BlockQ5_0;
};
template <>
struct BlockOf<FormatId::Q5_1> {
    using type = BlockQ5_1;
};
template <>
struct BlockOf<FormatId::Q8_0> {
    using type = BlockQ8_0;
};
template <>
struct BlockOf<FormatId::Q2_K> {
    using type = BlockQ2_K;
};
template <>
struct BlockOf<FormatId::Q3_K> {
    using type = BlockQ3_K;
};
template <>
struct BlockOf<FormatId::Q4_K> {
    using type = BlockQ4_K;
};
template <>
struct BlockOf<FormatId::Q5_K> {
    using type = BlockQ5_K;
};
template <>
struct BlockOf<FormatId::Q6_K> {
    using type = BlockQ6_K;
};
template <>
struct BlockOf<FormatId::IQ1_S> {
    using type = BlockIQ1_S;
};
template <>
struct BlockOf<FormatId::IQ1_M> {
    using type = BlockIQ1_M;
};
template <>
struct BlockOf<FormatId::IQ2_XXS> {
    using type = BlockIQ2_XXS;
};
template <>
struct BlockOf<FormatId::IQ2_XS> {
    using type = BlockIQ2_XS;
};
template <>
struct BlockOf<FormatId::IQ2_S> {
    using type = BlockIQ2_S;
};
template <>
struct BlockOf<FormatId::IQ3_XXS> {
    using type = BlockIQ3_XXS;
};
template <>
struct BlockOf<FormatId::IQ3_S> {
    using type = BlockIQ3_S;
};
template <>
struct BlockOf<FormatId::IQ4_NL> {
    using type = BlockIQ4_NL;
};
template <>
struct BlockOf<FormatId::IQ4_XS> {
    using type = BlockIQ4_XS;
};
template <>
struct BlockOf<FormatId::TQ1_0> {
    using type = BlockTQ1_0;
};
template <>
struct BlockOf<FormatId::TQ2_0> {
    using type = BlockTQ2_0;
};
template <>
struct BlockOf<FormatId::MXFP4> {
    using type = BlockMXFP4;
};
template <>
struct BlockOf<FormatId::NVFP4> {
    using type = BlockNVFP4;
};
template <>
struct BlockOf<FormatId::Q1_0> {
    using type = BlockQ1_0;
};
template <>
struct BlockOf<FormatId::Q2_0> {
    using type = BlockQ2_0;
};

// The sizes of a quantized format's blocks, from the registry.
template <FormatId id>
struct CommonForm {
    using Block = typename BlockOf<id>::type;
    static constexpr int elements = registry::entry(id).block_size;
    static constexpr int bytes = registry::entry(id).type_size;
    static constexpr int run = registry::entry(id).run;  // elements that share a scale
    static constexpr int runs = elements / run;
    static constexpr bool has_minima = registry::entry(id).has_minima;
    static_assert(sizeof(Block) == bytes && alignof(Block) == 1);
    static_assert(elements <= kMaxBlockElements && runs <= kMaxBlockRuns && elements % run == 0);
};

// Block i of a row. Any address will do: the structs are packed.
template <FormatId id>
static inline const typename CommonForm<id>::Block& block_at(const uint8_t* row, int64_t i) {
    return reinterpret_cast<const typename CommonForm<id>::Block*>(row)[i];
}

template <FormatId id>
static inline void unpack_block(const uint8_t* block, int8_t* q, float* scales, float* minima) {
    unpack_values(block_at<id>(block, 0), q);
    unpack_scales(block_at<id>(block, 0), scales, minima);
}

// A whole row of k elements (a multiple of the block) into k integers and k / run scales (and minima).
template <FormatId id>
static inline void unpack_row(const uint8_t* row, int8_t* q, float* scales, float* minima, int64_t k) {
    using Form = CommonForm<id>;
    for (int64_t i = 0; i < k / Form::elements; ++i)
        unpack_block<id>(row + i * Form::bytes, q + i * Form::elements, scales + i * Form::runs,
                         Form::has_minima ? minima + i * Form::runs : nullptr);
}

// One block to floats: the reference that every faster decode must equal bit for bit (NaN payloads aside).
// A block of a float format is one element.
template <FormatId id>
static inline void decode_block(const uint8_t* block, float* out) {
    if constexpr (id == FormatId::F32) {
        const uint32_t bits =
            block[0] | block[1] << 8 | block[2] << 16 | static_cast<uint32_t>(block[3]) << 24;
        out[0] = bits_as<float>(bits);
    } else if constexpr (id == FormatId::F16) {
        out[0] = f16_to_f32(static_cast<uint16_t>(block[0] | block[1] << 8));
    } else if constexpr (id == FormatId::BF16) {
        out[0] = bf16_to_f32(static_cast<uint16_t>(block[0] | block[1] << 8));
    } else {
        using Form = CommonForm<id>;
        int8_t q[Form::elements];
        float scales[Form::runs], minima[Form::runs];
        unpack_block<id>(block, q, scales, minima);
        for (int j = 0; j < Form::runs; ++j)
            for (int i = j * Form::run; i < (j + 1) * Form::run; ++i) {
                const float scaled = scales[j] * static_cast<float>(q[i]);
                if constexpr (Form::has_minima) {
                    out[i] = scaled - minima[j];
                } else {
                    out[i] = scaled;
                }
            }
    }
}

template <FormatId id>
static inline void decode_row(const uint8_t* row, float* out, int64_t k) {
    constexpr int elements = registry::entry(id).block_size, bytes = registry::entry(id).type_size;
    for (int64_t i = 0; i < k / elements; ++i) decode_block<id>(row + i * bytes, out + i * elements);
}

}  // namespace bq
