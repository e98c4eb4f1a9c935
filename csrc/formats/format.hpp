// The registry: every format's name, id and sizes stand here once. Python reads this table too.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bq {

// Values are ggml's type ids, which GGUF files store.
enum class FormatId : uint8_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
};

inline constexpr int kFormatIdLimit = 43;  // one past the largest id; tables are indexed by id

struct FormatInfo {
    FormatId id;
    const char* name;
    int block_size;      // elements of a block
    int type_size;       // bytes of a block
    int run;             // elements that share a scale in the common form; 0 for the float formats
    bool has_minima;     // value = scale * q - minimum rather than scale * q
    bool needs_imatrix;  // the encoder refuses to work without an importance matrix
    bool implemented;    // encode, decode and matmul exist in this build
    const char* description;

    constexpr bool is_float() const { return run == 0; }
    constexpr double bits_per_weight() const { return 8.0 * type_size / block_size; }
    // k must be a multiple of block_size.
    constexpr int64_t row_bytes(int64_t k) const { return k / block_size * type_size; }
};

// In the order of the ids.
std::span<const FormatInfo> all_formats();
// nullptr when there is none.
const FormatInfo* find_format(std::string_view name);
const FormatInfo* find_format(int64_t ggml_type);
// The entry of a known id.
const FormatInfo& format_info(FormatId id);

}  // namespace bq
