// The kernels for weights in strips (matmul/strips.hpp), which some instruction sets have besides those of
// kernels.hpp.
#pragma once

#include "targets/kernels.hpp"

namespace bq {

// y[r * ldy + n] = sum over k of x[r][k] * w[n][k] for the weight rows of the strips begin <= i < end, of
// which strip i starts at byte i * (rows of a strip) * row_bytes. For few rows; where the layout says so, x.q
// is transposed.
using MatmulStrips = void (*)(const uint8_t* strips, int64_t row_bytes, int64_t begin, int64_t end,
                              const Activations& x, float* y, int64_t ldy);
// The same for many rows, packed as the panels of stored rows want them.
using MatmulStripPanels = void (*)(const uint8_t* strips, int64_t row_bytes, int64_t begin, int64_t end,
                                   const PackedRows& x, float* y, int64_t ldy);
// Elements 8 i + j of each 32 to 4 j + i. count is a multiple of 32.
using TransposeActivations = void (*)(const int8_t* from, int8_t* to, int64_t count);

struct StripKernels {
    int lanes = 0;  // rows of a strip; 0: there are no kernels
    MatmulStrips formats[kFormatIdLimit] = {};
    // nullptr where rows are put together instead.
    MatmulStripPanels panels[kFormatIdLimit] = {};
    // From this many activation rows on, strips are faster than rows of blocks, which memory binds either way
    // and serves a little faster; 0: always.
    uint8_t pay_from[kFormatIdLimit] = {};
    // From this many activation rows on, panels are faster, even if rows are put together for them; 0: 17.
    uint8_t panels_from[kFormatIdLimit] = {};
    // Activation rows by which a tile of a panel is filled up count against it twice: where strips are nearly
    // as fast, it matters that rows fill their tiles.
    bool prefers_whole_tiles = false;
    TransposeActivations transpose = nullptr;

    MatmulStrips operator[](FormatId id) const { return formats[static_cast<int>(id)]; }
    int64_t panel_rows(FormatId id) const {
        const int from = panels_from[static_cast<int>(id)];
        return from > 0 ? from : 17;
    }
    bool panels_pay(FormatId id, int64_t rows, int tile_rows) const {
        const int64_t missing = prefers_whole_tiles ? (tile_rows - rows % tile_rows) % tile_rows : 0;
        return rows - 2 * missing >= panel_rows(id);
    }
};

// Of a table of available_kernels().
const StripKernels& strip_kernels(const KernelTable& table);

}  // namespace bq
