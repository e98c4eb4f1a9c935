// A panel of weights for the product of many rows: T::kLanes weight rows by at most kPanelDepth elements in
// the common form, four elements of each row side by side, as T::dots wants them. See README.md.
#pragma once

#include "matmul/integer_minima.hpp"
#include "matmul/packed_rows.hpp"
#include "simd/super_block.hpp"
#include "simd/unpack.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

inline constexpr int kPanelDepth = 512;

// The largest integer of a format's chunks (Unpack::chunk), or for signed ones its magnitude.
template <FormatId id>
constexpr int largest_integer() {
    using enum FormatId;
    switch (id) {
        case TQ1_0:
        case TQ2_0:
        case Q1_0:
            return 2;
        case Q2_0:
        case Q2_K:
            return 3;
        case Q3_K:
            return 7;
        case IQ1_S:
        case IQ1_M:
            return 9;
        case MXFP4:
        case NVFP4:
            return 12;
        case Q4_0:
        case Q4_1:
        case Q4_K:
        case IQ3_S:
            return 15;
        case Q5_0:
        case Q5_1:
        case Q5_K:
            return 31;
        case IQ2_XXS:
        case IQ2_XS:
        case IQ2_S:
            return 43;
        case IQ3_XXS:
            return 62;
        case Q6_K:
            return 63;
        default:
            return 128;
    }
}

// Formats whose integers times the scales of their runs fit unsigned bytes, with a bias: at most kLargest.
template <FormatId id>
struct ScaledBytes {
    static constexpr bool kFit = false;
    static constexpr int kBias = 0, kLargest = 0;
};
template <>
struct ScaledBytes<FormatId::Q2_K> {  // 0..3 times 0..15
    static constexpr bool kFit = true;
    static constexpr int kBias = 0, kLargest = 45;
};
template <>
struct ScaledBytes<FormatId::Q3_K> {  // -4..3 times -32..31
    static constexpr bool kFit = true;
    static constexpr int kBias = 127, kLargest = 255;
};

// Super-blocks as integers, where a tile wants them.
template <bool kWanted, class S, FormatId id>
struct IntegerBlock {
    static constexpr bool kKnown = false, kUnitScale = false;
    using Words = int;
};
template <class S, FormatId id>
    requires(SuperBlock<S, id>::kKnown)
struct IntegerBlock<true, S, id> : SuperBlock<S, id> {
    using Words = typename S::Words;
};

// body(rows, lane) for each eight of the rows begin to begin + kLanes - 1 of a panel, which are at row_at(n).
// From `end` on the last row is repeated.
template <int kLanes, class RowAt, class Body>
BQ_INLINE void each_eight_rows(int64_t begin, int64_t end, RowAt&& row_at, Body&& body) {
    for (int lane = 0; lane < kLanes; lane += 8) {
        const uint8_t* rows[8];
        for (int i = 0; i < 8; ++i) {
            const int64_t n = begin + lane + i;
            rows[i] = row_at(n < end ? n : end - 1);
        }
        body(rows, lane);
    }
}

// O opens super-blocks in another way than Unpack, as simd/block_vbmi.hpp does; void where nothing does.
template <class S, class T, FormatId id, class O = void>
struct Panel {
    using F = Unpack<S, id>;
    static constexpr bool kOpens = !IsSame<O, void>::value;
    using Form = CommonForm<id>;
    using Block = IntegerBlock<T::kIntegerBlocks, S, id>;
    static constexpr bool kIntegers = Block::kKnown;
    static constexpr bool kScaled = kIntegers && ScaledBytes<id>::kFit;  // the integers include the scales
    static constexpr int kLanes = T::kLanes;
    static constexpr int kRun = kScaled || Block::kUnitScale ? 256 : F::kRun;
    static constexpr int kActivations = Form::elements == 256 ? 256 : 32;  // elements of one activation scale
    static constexpr bool kMinima = Form::has_minima;
    // Elements of a minimum that is an integer, with `dmin` for 256; 0 where minima are floats of each run.
    static constexpr int kMinimumRun = kIntegers && kMinima ? F::kRun : 0;

    static constexpr int opened_offset() {
        if constexpr (kOpens) return O::kOffset;
        return 0;
    }

    // Integers are stored as chunk + kBias, which stands for the value plus kOffset.
    static constexpr int kLargest = largest_integer<id>();
    static constexpr bool kAsSigned =
        T::kSignedWeights || (F::kSigned && 2 * kLargest > T::kLargestWeight + 1);
    static constexpr int kBias = kAsSigned ? (F::kSigned ? 0 : -F::kOffset) : F::kSigned ? kLargest : 0;
    static constexpr int kOffset = kOpens       ? opened_offset()
                                   : kScaled    ? ScaledBytes<id>::kBias
                                   : kAsSigned  ? 0
                                   : F::kSigned ? kLargest
                                                : F::kOffset;
    // Signed integers with unsigned dots: the tile flips the activations of negative ones, see signed_dots.
    static constexpr bool kFlips = kAsSigned && !T::kSignedWeights;
    static constexpr int kTop = kScaled      ? ScaledBytes<id>::kLargest
                                : kAsSigned  ? 128
                                : F::kSigned ? 2 * kLargest
                                             : kLargest;

    // Activation rows of a tile. Two runs under one activation scale have sums of three kinds in registers.
    static constexpr int kRows = kActivations == 2 * kRun ? kSmallTile : T::kRows;

    static constexpr PanelShape shape() {
        return {kRun, kOffset, kMinima, kActivations, kRows, kLanes, kMinimumRun, false};
    }

    static constexpr bool kFloatMinima = kMinima && kMinimumRun == 0;
    alignas(64) uint8_t q[kPanelDepth * kLanes];                               // [depth / 4][lane][4]
    alignas(64) float scales[kPanelDepth / kRun * kLanes];                     // [depth / kRun][lane]
    alignas(64) float minima[kFloatMinima ? kPanelDepth / kRun * kLanes : 1];  // likewise
    [[no_unique_address]] IntegerMinima<kMinimumRun != 0, S, T, Block, kMinimumRun, kPanelDepth>
        integer_minima;
    alignas(64) int32_t negatives[kFlips ? kPanelDepth / kRun * kLanes : 1];  // [depth / kRun][lane]

    static constexpr int kBytes = kPanelDepth / Form::elements * Form::bytes;
    static BQ_INLINE const uint8_t* row_at(const uint8_t* w, int64_t row_bytes, int64_t n, int64_t at) {
        return w + n * row_bytes + at / Form::elements * Form::bytes;
    }

    // The rows begin to begin + kLanes - 1, elements at to at + depth - 1 (both multiples of the block, and
    // depth of what one activation scale covers). Rows from `end` on repeat the last one.
    BQ_INLINE void fill(const uint8_t* w, int64_t row_bytes, int64_t begin, int64_t end, int64_t at,
                        int depth) {
        each_eight_rows<kLanes>(
            begin, end, [&](int64_t n) BQ_INLINE_LAMBDA { return row_at(w, row_bytes, n, at); },
            [&](const uint8_t*(&rows)[8], int lane) BQ_INLINE_LAMBDA { fill_eight(rows, depth, lane); });
    }

    BQ_NOINLINE void fill_eight(const uint8_t* (&rows)[8], int depth, int lane) {
        constexpr int kGroup = 256 / Form::elements;
        int element = 0;
        for (; element + 256 <= depth; element += 256) step<kGroup>(rows, element, lane);
        if constexpr (kGroup > 1)
            for (; element < depth; element += Form::elements) step<1>(rows, element, lane);
    }

    // kBlocks blocks of eight rows.
    template <int kBlocks>
    BQ_INLINE void step(const uint8_t* (&rows)[8], int element, int lane) {
        constexpr int kChunksPerBlock = Form::elements / 32, kRuns = kBlocks * Form::elements / kRun;
        [[maybe_unused]] typename Block::Words run_scales[8];
        if constexpr (kScaled)
            for (int i = 0; i < 8; ++i) run_scales[i] = Block::scales(rows[i]);
        [[maybe_unused]] alignas(64) uint8_t opened[8][256];
        if constexpr (kOpens) open(rows, opened);
        S::template repeat<kBlocks * kChunksPerBlock>([&](int j) BQ_INLINE_LAMBDA {
            typename S::Bytes c[8];
            for (int i = 0; i < 8; ++i) {
                if constexpr (kOpens)
                    c[i] = S::load(opened[i] + 32 * j);
                else
                    c[i] = F::chunk(rows[i] + j / kChunksPerBlock * Form::bytes, j % kChunksPerBlock);
                if constexpr (kScaled)
                    c[i] = S::scaled(c[i], run_scales[i], j, F::kOffset, ScaledBytes<id>::kBias);
                else if constexpr (kBias != 0 && !kOpens)
                    c[i] = S::sub(c[i], S::splat(-kBias));
            }
            S::transpose(c, q + (element + 32 * j) * kLanes + 4 * lane, 4 * kLanes, 8);
            if constexpr (kFlips) {
                static_assert(kRun == 32);
                for (int i = 0; i < 8; ++i)
                    negatives[(element / 32 + j) * kLanes + lane + i] = T::sum_of_negatives(c[i]);
            }
        });
        if constexpr (kMinimumRun != 0) integer_minima.fill(rows, element, lane);
        if constexpr (kRun == 256) {
            for (int i = 0; i < 8; ++i) scales[element / 256 * kLanes + lane + i] = Block::d(rows[i]);
        } else {
            typename S::Floats scale[8][2], minimum[8][2];
            for (int i = 0; i < 8; ++i) F::template scales<kBlocks>(rows[i], scale[i], minimum[i]);
            for (int part = 0; part < (kRuns + 7) / 8; ++part) {
                const int64_t to = (element / kRun + 8 * part) * kLanes + lane;
                const int count = kRuns - 8 * part < 8 ? kRuns - 8 * part : 8;
                transpose_floats(scale, part, scales + to, count);
                if constexpr (kFloatMinima) transpose_floats(minimum, part, minima + to, count);
            }
        }
        for (int i = 0; i < 8; ++i) rows[i] += kBlocks * Form::bytes;
    }

    // The integers of a super-block of each row.
    static BQ_INLINE void open(const uint8_t* const (&rows)[8], uint8_t (&to)[8][256]) {
        for (int i = 0; i < 8; i += O::kTogether) {
            const typename O::Opened o(rows[i], rows[i + O::kTogether - 1]);
            for (int which = 0; which < O::kTogether; ++which)
                for (int j = 0; j < 4; ++j)
                    O::store_chunk(to[i + which] + 64 * j, O::chunk(o, which, rows[i + which], j));
        }
    }

    static BQ_INLINE void transpose_floats(const typename S::Floats (&from)[8][2], int part, float* to,
                                           int count) {
        typename S::Bytes lines[8];
        for (int i = 0; i < 8; ++i) lines[i] = S::as_bytes(from[i][part]);
        S::transpose(lines, reinterpret_cast<uint8_t*>(to), 4 * kLanes, count);
    }
};

}  // namespace
}  // namespace bq
