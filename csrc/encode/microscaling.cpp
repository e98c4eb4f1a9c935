// Encoders of the formats of 4-bit floats: the largest magnitude of a run fixes its scale, each element takes
// the nearest value. An imatrix is not used.
#include "formats/microscaling.hpp"

#include <cmath>

#include "encode/row_encoders.hpp"
#include "encode/search.hpp"

namespace bq::encode {
namespace {

using namespace search;

// The first of the nearest values: so among equals the smaller magnitude, and never minus zero.
int nearest_code(float x, float scale) {
    int best = 0;
    float best_error = std::fabs(as_float(fp4::kDoubled[0]) * scale - x);
    for (int code = 1; code < 16; ++code) {
        const float error = std::fabs(as_float(fp4::kDoubled[code]) * scale - x);
        if (error < best_error) {
            best = code;
            best_error = error;
        }
    }
    return best;
}

void choose_codes(const float* x, int n, float scale, uint8_t* codes) {
    for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(nearest_code(x[i], scale));
}

// The exponent that puts the largest magnitude into [4, 8) times the scale, where E2M1 ends at 6. The
// logarithm is rounded to float32 before it is floored, which takes magnitudes just below a power of two to
// that power.
uint8_t e8m0_for(float largest) {
    if (!(largest > 0)) return 0;
    const float power = std::floor(static_cast<float>(std::log2(static_cast<double>(largest))));
    return static_cast<uint8_t>(truncate_to_int(power - 2 + 127));  // negative ones wrap
}

// The nearest UE4M3 number, halves up, at most 448; everything from 256 on is 448.
uint8_t ue4m3_of(float scale) {
    if (!(scale > 0)) return 0;
    if (scale < 0x1p-6f) {  // subnormal: multiples of 2^-9
        const int steps = truncate_to_int(scale * 512 + 0.5f);
        return static_cast<uint8_t>(steps < 7 ? steps : 7);
    }
    if (scale >= 256) return 0x7e;
    const uint32_t rounded = (bits_as<uint32_t>(scale) + 0x80000u) >> 20;  // with its carry
    const uint32_t bits = rounded - (127 - 7) * 8;
    return static_cast<uint8_t>(bits < 0x78 ? bits : 0x7e);
}

}  // namespace

void mxfp4(const float* x, uint8_t* out, int64_t k, const float*) {
    constexpr int kBlock = 32;
    BlockMXFP4* blocks = reinterpret_cast<BlockMXFP4*>(out);
    for (int64_t n = 0; n < k / kBlock; ++n, x += kBlock) {
        blocks[n].e = e8m0_for(std::fabs(peak_of(x, kBlock)));
        uint8_t codes[kBlock];
        choose_codes(x, kBlock, fp4::half_of_e8m0(blocks[n].e), codes);
        store_levels(codes, blocks[n]);
    }
}

void nvfp4(const float* x, uint8_t* out, int64_t k, const float*) {
    constexpr int kRun = 16, kRuns = 4;
    BlockNVFP4* blocks = reinterpret_cast<BlockNVFP4*>(out);
    for (int64_t n = 0; n < k / (kRun * kRuns); ++n) {
        uint8_t codes[kRun * kRuns];
        for (int j = 0; j < kRuns; ++j, x += kRun) {
            blocks[n].scales[j] = ue4m3_of(std::fabs(peak_of(x, kRun)) / 6.0f);
            choose_codes(x, kRun, fp4::half_of_ue4m3(blocks[n].scales[j]), codes + kRun * j);
        }
        store_levels(codes, blocks[n]);
    }
}

}  // namespace bq::encode
