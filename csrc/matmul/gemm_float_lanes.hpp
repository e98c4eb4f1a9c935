// y = x * w^T for float weights and from a dozen activation rows on, for vocabularies with sixteen registers:
// lanes are activation rows, so that weights need not be transposed. A part of a group of weight rows lies in
// the level-1 cache as floats, which are broadcast; the last tile of activation rows that meets a part
// replaces it by the next one, eight elements at a time, while units that multiply nothing would be idle.
#pragma once

#include "decode/decode.hpp"
#include "matmul/packed_rows.hpp"
#include "matmul/tile.hpp"

namespace bq {
namespace {

// Weight rows and elements of a part, and elements after which sums start anew, which keeps rounding errors
// small.
inline constexpr int kLanesGroup = 24, kLanesDepth = 512, kLanesChain = 256;
// More activation rows go block by block: read again and again, they should stay in the caches.
inline constexpr int kLanesRows = 128;

// The elements at to at + depth - 1 of the weight rows from n on.
struct WeightPart {
    int64_t n, at;
    int depth;
};

// A group of weight rows of at most so many bytes is asked for as it lies in memory, while the group before
// it is multiplied. Of longer rows, which would push too much out of the caches by then, the part after the
// next.
inline constexpr int64_t kLanesAhead = 128 << 10;

// The weights that replace those of a tile, and what is asked for meanwhile: the lines at `asked`, and those
// `apart` lines after the ones before.
template <int kWeights>
struct ComingWeights {
    const uint8_t* row[kWeights];
    const uint8_t* asked[kWeights];
    int depth, apart;
};

template <class S, FormatId id>
struct FloatLanes {
    using Wide = typename S::Wide;
    static constexpr int kBytes = registry::entry(id).type_size;
    static constexpr int kVector = S::kWide;
    static constexpr int kSums = 12;  // vectors of a tile

    const uint8_t* w;
    int64_t row_bytes, begin, end, k;
    alignas(64) float part[kLanesGroup][kLanesDepth];

    // Weight rows from `end` on repeat the last one.
    BQ_INLINE const uint8_t* place(int64_t n, int64_t at) const {
        return w + (n < end ? n : end - 1) * row_bytes + at * kBytes;
    }
    BQ_INLINE WeightPart part_at(int64_t n, int64_t at) const {
        return {n, at, static_cast<int>(k - at < kLanesDepth ? k - at : kLanesDepth)};
    }
    BQ_INLINE WeightPart after(const WeightPart& p) const {
        return p.at + p.depth < k ? part_at(p.n, p.at + p.depth) : part_at(p.n + kLanesGroup, 0);
    }

    // Elements from `from` on of one row of a part.
    static BQ_NOINLINE void convert_rest(const uint8_t* row, int from, int depth, float* to) {
        decode_floats<S, id, OutF32>(row + from * kBytes, to + from, depth - from);
    }
    BQ_INLINE void fill(const WeightPart& p) {
        for (int i = 0; i < kLanesGroup; ++i) convert_rest(place(p.n + i, p.at), 0, p.depth, part[i]);
    }

    // kSums / kVectors rows of the part, `depth` elements, against the kVectors vectors of activation rows at
    // x, onto sums[weight row][activation row], or into them. kConverts: then `coming` replaces them.
    template <int kVectors, bool kConverts>
    static BQ_NOINLINE void multiply(const float* x, float (*from)[kLanesDepth], int depth,
                                     const ComingWeights<kSums / kVectors>& coming, bool is_first,
                                     float* sums, int64_t stride) {
        constexpr int kWeights = kSums / kVectors;
        constexpr int kSteps = kVectors > 2 ? 1 : 2;  // the registers do not hold more
        Wide sum[kWeights][kVectors];
        const auto step = [&](int e) BQ_INLINE_LAMBDA {
            Wide rows[kVectors];
            for (int v = 0; v < kVectors; ++v) {
                rows[v] = S::load_f32(x + (e * kVectors + v) * kVector);
                keep_in_register(rows[v]);
            }
            for (int i = 0; i < kWeights; ++i) {
                const Wide weight = S::wide_splat(from[i][e]);
                for (int v = 0; v < kVectors; ++v) sum[i][v] = S::mul_add(rows[v], weight, sum[i][v]);
            }
        };
        [[maybe_unused]] int converted = 0;
        for (int e = 0; e < depth;) {
            const int stop = depth - e < kLanesChain ? depth : e + kLanesChain;
            const bool sets = is_first && e == 0;
            for (int i = 0; i < kWeights; ++i)
                for (int v = 0; v < kVectors; ++v) sum[i][v] = S::wide_zero();
            for (; e + kSteps <= stop; e += kSteps) {
                unroll<kSteps>([&](auto i) BQ_INLINE_LAMBDA { step(e + i); });
                if constexpr (kConverts) {
                    if ((e + kSteps) % kVector != 0 || e + kSteps > coming.depth) continue;
                    for (int i = 0; i < kWeights; ++i)
                        S::store_f32(from[i] + converted,
                                     load_floats<S, id>(coming.row[i] + converted * kBytes));
                    if (converted * kBytes % 64 == 0)
                        for (int i = 0; i < kWeights; ++i)
                            prefetch<1>(coming.asked[i] + converted * kBytes * coming.apart);
                    converted += kVector;
                }
            }
            if (kSteps > 1 && e < stop) step(e++);
            for (int i = 0; i < kWeights; ++i)
                for (int v = 0; v < kVectors; ++v) {
                    float* const to = sums + i * stride + v * kVector;
                    S::store_f32(to, sets ? sum[i][v] : S::add(S::load_f32(to), sum[i][v]));
                }
        }
        if constexpr (kConverts)
            if (converted < coming.depth)
                for (int i = 0; i < kWeights; ++i)
                    convert_rest(coming.row[i], converted, coming.depth, from[i]);
    }

    // All rows of the part against kVectors vectors of activation rows.
    template <int kVectors>
    BQ_INLINE void meet(const float* x, const WeightPart& p, bool converts, float* sums, int64_t stride) {
        constexpr int kWeights = kSums / kVectors;
        static_assert(kLanesGroup % kWeights == 0);
        const WeightPart next = after(p), asked = after(next);
        const bool in_order = kLanesGroup * row_bytes <= kLanesAhead;
        for (int i = 0; i < kLanesGroup; i += kWeights) {
            ComingWeights<kWeights> coming;
            if (converts) {
                const uint8_t* const group = w + (next.n + kLanesGroup) * row_bytes;
                const int64_t done = (next.at * kLanesGroup + i * next.depth) * kBytes;
                for (int j = 0; j < kWeights; ++j) {
                    coming.row[j] = place(next.n + i + j, next.at);
                    coming.asked[j] = in_order ? group + done + 64 * j : place(asked.n + i + j, asked.at);
                }
                coming.depth = next.depth;
                coming.apart = in_order ? kWeights : 1;
                multiply<kVectors, true>(x, part + i, p.depth, coming, p.at == 0, sums + i * stride, stride);
            } else {
                multiply<kVectors, false>(x, part + i, p.depth, coming, p.at == 0, sums + i * stride, stride);
            }
        }
    }

    // y[r * ldy + i] = sums[i][r] for `rows` activation rows and `count` weight rows.
    static BQ_INLINE void store(const float* sums, int64_t stride, int64_t rows, int64_t count, float* y,
                                int64_t ldy) {
        for (int64_t r = 0; r < rows; r += 8) {
            int64_t i = 0;
            for (; i + 8 <= count; i += 8) {
                typename S::Bytes columns[8];
                for (int j = 0; j < 8; ++j) columns[j] = S::load(sums + (i + j) * stride + r);
                S::transpose(columns, reinterpret_cast<uint8_t*>(y + r * ldy + i), 4 * ldy,
                             static_cast<int>(rows - r < 8 ? rows - r : 8));
            }
            for (; i < count; ++i)
                for (int64_t j = r; j < rows && j < r + 8; ++j) y[j * ldy + i] = sums[i * stride + j];
        }
    }

    BQ_INLINE void multiply_all(const PackedFloats& x, float* y, int64_t ldy) {
        static_assert(kVector == 8 && kLaneTile == 3 * kVector);
        constexpr int kStride = kLanesRows + kLaneTile;
        alignas(64) float sums[kLanesGroup][kStride];
        for (int64_t block = 0, to; block < x.rows; block = to) {
            // Whole tiles.
            for (to = block; to < x.rows && to - block < kLanesRows;) to += next_tile(x.rows - to, kLaneTile);
            fill(part_at(begin, 0));
            for (WeightPart p = part_at(begin, 0); p.n < end; p = after(p)) {
                const bool is_last = p.at + p.depth == k;
                const bool has_next = !is_last || p.n + kLanesGroup < end;
                for (int64_t r = block; r < to;) {
                    const int rows = next_tile(x.rows - r, kLaneTile);
                    const float* const tile = x.x + r * k + p.at * rows;
                    const bool converts = has_next && r + rows >= to;
                    float* const kept = sums[0] + (r - block);
                    if (rows == 3 * kVector)
                        meet<3>(tile, p, converts, kept, kStride);
                    else if (rows == 2 * kVector)
                        meet<2>(tile, p, converts, kept, kStride);
                    else
                        meet<1>(tile, p, converts, kept, kStride);
                    r += rows;
                }
                if (is_last)
                    store(sums[0], kStride, (to < x.rows ? to : x.rows) - block,
                          end - p.n < kLanesGroup ? end - p.n : kLanesGroup, y + block * ldy + p.n, ldy);
            }
        }
    }
};

// As matmul_float_panels; x in tiles of kLaneTile rows.
template <class S, FormatId id>
void matmul_float_lanes(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                        const PackedFloats& x, float* y, int64_t ldy) {
    FloatLanes<S, id> lanes;
    lanes.w = w;
    lanes.row_bytes = w_row_bytes;
    lanes.begin = begin;
    lanes.end = end;
    lanes.k = x.k;
    lanes.multiply_all(x, y, ldy);
}

}  // namespace
}  // namespace bq
