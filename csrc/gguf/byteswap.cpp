#include "gguf/byteswap.hpp"

#include <algorithm>
#include <cstddef>

#include "formats/iq4.hpp"
#include "formats/iq_grids.hpp"
#include "formats/k_quants.hpp"
#include "formats/legacy.hpp"
#include "formats/low_bit.hpp"
#include "formats/microscaling.hpp"
#include "formats/ternary.hpp"

namespace bq::gguf {
namespace {

struct Field {
    uint32_t offset, width;  // bytes; width 0: no field
    uint32_t count = 1;      // so many, one after the other
};
struct Layout {
    std::string_view format;
    uint32_t block_bytes;
    Field fields[3];
};

#define BQ_F16(block, field) {offsetof(block, field), 2}

// ggml reads and writes the runs of IQ2_XXS, indices and all, as 32-bit integers in the machine's byte order.
// qh of Q5_0 and Q5_1 is one 32-bit integer to ggml, which copies it in the byte order of the machine.
constexpr Layout kLayouts[] = {
    {"F16", 2, {{0, 2}}},
    {"I16", 2, {{0, 2}}},
    {"BF16", 2, {{0, 2}}},
    {"F32", 4, {{0, 4}}},
    {"I32", 4, {{0, 4}}},
    {"F64", 8, {{0, 8}}},
    {"I64", 8, {{0, 8}}},
    {"I8", 1, {}},
    {"Q4_0", sizeof(BlockQ4_0), {BQ_F16(BlockQ4_0, d)}},
    {"Q4_1", sizeof(BlockQ4_1), {BQ_F16(BlockQ4_1, d), BQ_F16(BlockQ4_1, m)}},
    {"Q5_0", sizeof(BlockQ5_0), {BQ_F16(BlockQ5_0, d), {offsetof(BlockQ5_0, qh), 4}}},
    {"Q5_1", sizeof(BlockQ5_1), {BQ_F16(BlockQ5_1, d), BQ_F16(BlockQ5_1, m), {offsetof(BlockQ5_1, qh), 4}}},
    {"Q8_0", sizeof(BlockQ8_0), {BQ_F16(BlockQ8_0, d)}},
    {"Q2_K", sizeof(BlockQ2_K), {BQ_F16(BlockQ2_K, d), BQ_F16(BlockQ2_K, dmin)}},
    {"Q3_K", sizeof(BlockQ3_K), {BQ_F16(BlockQ3_K, d)}},
    {"Q4_K", sizeof(BlockQ4_K), {BQ_F16(BlockQ4_K, d), BQ_F16(BlockQ4_K, dmin)}},
    {"Q5_K", sizeof(BlockQ5_K), {BQ_F16(BlockQ5_K, d), BQ_F16(BlockQ5_K, dmin)}},
    {"Q6_K", sizeof(BlockQ6_K), {BQ_F16(BlockQ6_K, d)}},
    {"IQ1_S", sizeof(BlockIQ1_S), {BQ_F16(BlockIQ1_S, d), {offsetof(BlockIQ1_S, qh), 2, 8}}},
    {"IQ1_M", sizeof(BlockIQ1_M), {{offsetof(BlockIQ1_M, scales), 2, 4}}},
    {"IQ2_XXS", sizeof(BlockIQ2_XXS), {BQ_F16(BlockIQ2_XXS, d), {offsetof(BlockIQ2_XXS, runs), 4, 16}}},
    {"IQ2_XS", sizeof(BlockIQ2_XS), {BQ_F16(BlockIQ2_XS, d), {offsetof(BlockIQ2_XS, qs), 2, 32}}},
    {"IQ2_S", sizeof(BlockIQ2_S), {BQ_F16(BlockIQ2_S, d)}},
    {"IQ3_XXS", sizeof(BlockIQ3_XXS), {BQ_F16(BlockIQ3_XXS, d), {offsetof(BlockIQ3_XXS, signs_scale), 4, 8}}},
    {"IQ3_S", sizeof(BlockIQ3_S), {BQ_F16(BlockIQ3_S, d)}},
    {"IQ4_NL", sizeof(BlockIQ4_NL), {BQ_F16(BlockIQ4_NL, d)}},
    {"IQ4_XS", sizeof(BlockIQ4_XS), {BQ_F16(BlockIQ4_XS, d), {offsetof(BlockIQ4_XS, scales_h), 2}}},
    {"TQ1_0", sizeof(BlockTQ1_0), {BQ_F16(BlockTQ1_0, d)}},
    {"TQ2_0", sizeof(BlockTQ2_0), {BQ_F16(BlockTQ2_0, d)}},
    {"MXFP4", sizeof(BlockMXFP4), {}},
    {"NVFP4", sizeof(BlockNVFP4), {}},
    {"Q1_0", sizeof(BlockQ1_0), {BQ_F16(BlockQ1_0, d)}},
    {"Q2_0", sizeof(BlockQ2_0), {BQ_F16(BlockQ2_0, d)}},
};

#undef BQ_F16

}  // namespace

bool swap_blocks(std::string_view format, uint8_t* data, uint64_t size) {
    for (const Layout& layout : kLayouts) {
        if (layout.format != format) continue;
        if (size % layout.block_bytes != 0) return false;
        for (uint8_t* block = data; block != data + size; block += layout.block_bytes)
            for (const Field& f : layout.fields)
                for (uint32_t i = 0; i < f.count; ++i) {
                    uint8_t* const at = block + f.offset + i * f.width;
                    std::reverse(at, at + f.width);
                }
        return true;
    }
    return false;
}

}  // namespace bq::gguf
