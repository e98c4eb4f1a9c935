// y = x * w^T for float weights and a few to a few dozen activation rows, straight from the weight rows:
// several of these meet several activation rows in registers, lanes along k.
#pragma once

#include "decode/decode.hpp"
#include "simd/common.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

// What a kind of weights brings: Input, the type of the activations; kStep elements at a time, of kBytes each
// in the weights; Values of weights and of activations, and Sum.
template <class S, FormatId id>
struct FloatOperands {
    using Input = float;
    using Values = typename S::Wide;
    using Sum = typename S::Wide;
    static constexpr int kStep = S::kWide, kBytes = id == FormatId::F32 ? 4 : 2;
    static constexpr bool kManyRegisters = S::kWide == 16;
    static constexpr bool kInParts = !kManyRegisters && !S::kOneWeightRow;
    static BQ_INLINE Values weights(const uint8_t* p) { return load_floats<S, id>(p); }
    static BQ_INLINE Values inputs(const float* p) { return S::load_f32(p); }
    static BQ_INLINE Sum zero() { return S::wide_zero(); }
    static BQ_INLINE Sum add(Sum a, Sum b) { return S::add(a, b); }
    static BQ_INLINE Sum mul_add(Values w, Values x, Sum sum) { return S::mul_add(w, x, sum); }
    static BQ_INLINE float total(Sum sum) { return S::wide_sum(sum); }
    static BQ_INLINE void totals(const Sum (&sums)[4], float* y) { S::wide_sums(sums, y); }
};

// Weights to come, which are asked for while those before them are multiplied; each of their lines several
// times (kAskedApart).
struct WeightsToCome {
    const uint8_t* place;
    int times;

    // While element `at` of kWeights rows is multiplied, kStep elements of kBytes each at a time.
    template <int kWeights, int kStep, int kBytes>
    BQ_INLINE void ask(int64_t at) const {
        constexpr int kAll = kWeights * kStep * kBytes;
        const uint8_t* const p = place + kWeights * kBytes * at;
        if (times > 0) prefetch<kAll>(p);
        if (times > 1) prefetch<kAll>(p + kAskedApart);
        if (times > 2) prefetch<kAll>(p + 2 * kAskedApart);
    }
};

// kWeights weight rows, one of them `stride` bytes after the other, against kRows activation rows. One chain
// of additions for each pair, which starts anew every kPart elements, whatever kWeights and kRows are.
template <class O, int kRows, int kWeights>
struct FloatTile {
    using Sum = typename O::Sum;
    using Input = typename O::Input;
    static constexpr int kPart = O::kStep > 16 ? 1024 : 512;
    // Elements of a cache line of weights, or of a step that is longer.
    static constexpr int kLine = 64 / O::kBytes > O::kStep ? 64 / O::kBytes : O::kStep;
    // Twelve sums and four weights would leave no register to three activation rows.
    static constexpr bool kKeepsInputs = !O::kManyRegisters && kRows == 3 && kWeights == 4;

    const Input* x[kRows];
    Sum total[kRows][kWeights];

    BQ_INLINE FloatTile(const Input* rows, int64_t stride) {
        for (int r = 0; r < kRows; ++r) {
            x[r] = rows + r * stride;
            for (int v = 0; v < kWeights; ++v) total[r][v] = O::zero();
        }
    }

    // The sums of products of the elements at to end - 1, whole lines of weights.
    template <class Next>
    BQ_INLINE void add_up(const uint8_t* w, int64_t stride, int64_t at, int64_t end, const Next& next,
                          Sum (&sum)[kWeights][kRows]) const {
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) sum[v][r] = O::zero();
        for (; at < end; at += kLine) {
            next.template ask<kWeights, kLine, O::kBytes>(at);
            unroll<kLine / O::kStep>([&](auto step) BQ_INLINE_LAMBDA {
                const int64_t i = at + step * O::kStep;
                if constexpr (kKeepsInputs) {
                    typename O::Values inputs[kRows];
                    for (int r = 0; r < kRows; ++r) {
                        inputs[r] = O::inputs(x[r] + i);
                        keep_in_register(inputs[r]);
                    }
                    for (int v = 0; v < kWeights; ++v) {
                        typename O::Values weights = O::weights(w + v * stride + i * O::kBytes);
                        keep_in_register(weights);
                        for (int r = 0; r < kRows; ++r) sum[v][r] = O::mul_add(weights, inputs[r], sum[v][r]);
                    }
                } else {
                    typename O::Values weights[kWeights];
                    for (int v = 0; v < kWeights; ++v)
                        weights[v] = O::weights(w + v * stride + i * O::kBytes);
                    for (int r = 0; r < kRows; ++r) {
                        const typename O::Values inputs = O::inputs(x[r] + i);
                        for (int v = 0; v < kWeights; ++v)
                            sum[v][r] = O::mul_add(weights[v], inputs, sum[v][r]);
                    }
                }
            });
        }
    }

    template <class Next>
    BQ_INLINE void part(const uint8_t* w, int64_t stride, int64_t at, int64_t end, const Next& next) {
        Sum sum[kWeights][kRows];
        add_up(w, stride, at, end, next, sum);
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) total[r][v] = O::add(total[r][v], sum[v][r]);
    }

    // The last elements, fewer than a line: padded copies.
    template <class Next>
    BQ_INLINE void rest(const uint8_t* w, int64_t stride, int64_t at, int64_t end, const Next& next) {
        uint8_t weights[kWeights][kLine * O::kBytes] = {};
        Input inputs[kRows][kLine] = {};
        for (int v = 0; v < kWeights; ++v)
            memcpy(weights[v], w + v * stride + at * O::kBytes, static_cast<size_t>((end - at) * O::kBytes));
        for (int r = 0; r < kRows; ++r) {
            memcpy(inputs[r], x[r] + at, static_cast<size_t>(end - at) * sizeof(Input));
            x[r] = inputs[r];
        }
        part(weights[0], kLine * O::kBytes, 0, kLine, next);
    }

    BQ_INLINE void rows(const uint8_t* w, int64_t stride, int64_t k, const WeightsToCome& next, float* y,
                        int64_t ldy) {
        const int64_t whole = k / kLine * kLine;
        for (int64_t at = 0; at < whole; at += kPart)
            part(w, stride, at, at + kPart < whole ? at + kPart : whole, next);
        if (whole < k) rest(w, stride, whole, k, next);
        for (int r = 0; r < kRows; ++r)
            if constexpr (kWeights == 4)
                O::totals(total[r], y + r * ldy);
            else
                for (int v = 0; v < kWeights; ++v) y[r * ldy + v] = O::total(total[r][v]);
    }
};

// Activation rows that meet weight rows straight through k, with their sums in registers. Where these are few
// (as measured), more rows go part by part.
template <class O>
inline constexpr int kStraightRows = O::kManyRegisters ? 6
                                     : O::kBytes == 4  ? 4
                                                       : 3;

// Bytes of a weight row from which on, on AVX2, several rows beside a few activation rows are read fastest if
// nothing is asked for (of 16-bit weights beside one or two).
inline constexpr int64_t kLongRow = 4096;

// Four weight rows at a time (beside a single activation row two, unless they are long, and where registers
// are few three beside four), read from memory once, against all activation rows of a tile, which stay in the
// level-2 cache unless they are long (fewer of them would read the weights more often, which is slower).
template <class O>
BQ_INLINE void multiply_floats(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                               const FloatRows<typename O::Input>& x, float* y, int64_t ldy) {
    constexpr int64_t kTile = 48;
    constexpr int kMost = kStraightRows<O>;
    const bool is_long = !O::kManyRegisters && w_row_bytes >= kLongRow;
    const bool asks = !is_long || (x.rows > 2 && O::kBytes < 4);
    const int64_t most = !O::kManyRegisters && x.rows == 3 ? 2 : 3;
    for (int64_t first = 0; first < x.rows; first += kTile) {
        const int64_t last = first + kTile < x.rows ? first + kTile : x.rows;
        // As many activation rows at a time as the registers hold sums of, or evenly fewer. Each pass over
        // the weights asks for the next ones, so that all of them together do three times (`most`) or more.
        const int64_t passes = (last - first + kMost - 1) / kMost;
        const int times = !asks ? 0 : passes < most ? static_cast<int>(most + 1 - passes) : 1;
        // `weights` rows from n on.
        const auto group = [&](auto weights, int64_t n) BQ_INLINE_LAMBDA {
            const uint8_t* next = w + n * w_row_bytes + bytes_ahead(weights, w_row_bytes);
            const auto some = [&](auto count, int64_t r) BQ_INLINE_LAMBDA {
                constexpr int kRows = decltype(count)::value, kGiven = decltype(weights)::value;
                if constexpr (O::kManyRegisters || kRows * kGiven <= 12)  // four rows meet three
                    FloatTile<O, kRows, kGiven>(x.x + r * x.stride, x.stride)
                        .rows(w + n * w_row_bytes, w_row_bytes, x.k, {next, times}, y + r * ldy + n, ldy);
            };
            if (x.rows == 1) {
                some(Index<1>{}, first);
            } else {
                int64_t r = first;
                for (int64_t left = passes; left > 0; --left) {
                    const int64_t rows = (last - r + left - 1) / left;
                    unroll<kMost>([&](auto i) BQ_INLINE_LAMBDA {
                        if (rows == i + 1) some(Index<decltype(i)::value + 1>{}, r);
                    });
                    r += rows;
                }
            }
        };
        int64_t n = begin;
        if (!O::kManyRegisters && x.rows > 3)
            for (; n + 3 <= end; n += 3) group(Index<3>{}, n);
        else if (x.rows > 1 || is_long)
            for (; n + 4 <= end; n += 4) group(Index<4>{}, n);
        else
            for (; n + 2 <= end; n += 2) group(Index<2>{}, n);
        for (; n < end; ++n) group(Index<1>{}, n);
    }
}

// Weights to come in the order of memory: each of kPasses over the same weights asks for its share of them.
template <int kPasses>
struct ShareToCome {
    static_assert(kPasses == 1 || kPasses == 2);
    const uint8_t* place;
    int64_t from;  // the element that place answers to

    template <int kWeights, int kStep, int kBytes>
    BQ_INLINE void ask(int64_t at) const {
        constexpr int kLines = kWeights * kStep * kBytes / 64, kEach = kLines / kPasses;
        const int64_t step = (at - from) / kStep;
        const uint8_t* const p = place + step * kLines / kPasses * 64;
        prefetch<kEach * 64>(p);
        if (kLines % kPasses != 0 && step % kPasses != 0) prefetch<64>(p + kEach * 64);
    }
};

struct NothingToCome {
    template <int kWeights, int kStep, int kBytes>
    BQ_INLINE void ask(int64_t) const {}
};

// Where registers hold few sums: three weight rows meet four activation rows, a part of k at a time, so that
// a part of all activation rows of a tile stays in the level-1 cache; whole rows would come from the level-2
// cache again and again, which is too slow for the few products that a load feeds here. The sums of a group
// of weight rows wait in memory meanwhile.
template <class O>
struct FloatParts {
    using Sum = typename O::Sum;
    static constexpr int kRows = 8, kGroup = 6;
    static constexpr int kPart = FloatTile<O, 1, 1>::kPart;

    const typename O::Input* x;  // `rows` rows, x_stride elements apart
    int64_t x_stride, rows;
    const uint8_t* w;  // `count` weight rows
    int64_t stride;
    int count;
    bool asks;  // for weights to come
    Sum total[kRows][kGroup];

    // The activation rows from `first` on and the weight rows from `weights` on, `left` of which there are.
    // Only the first of several tiles of activation rows asks for weights.
    BQ_INLINE void begin(const FloatRows<typename O::Input>& all, int64_t first, const uint8_t* weights,
                         int64_t row_bytes, int64_t left) {
        x = all.x + first * all.stride;
        x_stride = all.stride;
        rows = all.rows - first < kRows ? all.rows - first : kRows;
        w = weights;
        stride = row_bytes;
        count = static_cast<int>(left < kGroup ? left : kGroup);
        asks = first == 0;
    }

    // kWeights weight rows from v on against kCount activation rows from r on.
    template <int kCount, int kWeights, class Next>
    BQ_NOINLINE void meet(int64_t r, int v, int64_t at, int64_t end, const Next& next) {
        using Tile = FloatTile<O, kCount, kWeights>;
        Tile tile(x + r * x_stride, x_stride);
        const uint8_t* const from = w + v * stride;
        const int64_t whole = end - (end - at) % Tile::kLine;
        Sum sum[kWeights][kCount];
        tile.add_up(from, stride, at, whole, next, sum);
        for (int i = 0; i < kCount; ++i)
            for (int j = 0; j < kWeights; ++j) {
                Sum& all = total[r + i][v + j];
                all = O::add(at == 0 ? O::zero() : all, sum[j][i]);
            }
        if (whole < end) {
            tile.rest(from, stride, whole, end, NothingToCome{});
            for (int i = 0; i < kCount; ++i)
                for (int j = 0; j < kWeights; ++j)
                    total[r + i][v + j] = O::add(total[r + i][v + j], tile.total[i][j]);
        }
    }

    // The same against all activation rows: in one pass or, evenly parted, two.
    template <int kWeights>
    BQ_INLINE void meet_all(int v, int64_t at, int64_t end, const uint8_t* coming) {
        constexpr int kMost = kRows / 2;
        const int passes = rows > kMost ? 2 : 1;
        const int64_t share = (end - at) * kWeights * O::kBytes / passes;
        int64_t r = 0;
        for (int left = passes; left > 0; --left, coming += share) {
            const int64_t some = (rows - r + left - 1) / left;
            unroll<kMost>([&](auto i) BQ_INLINE_LAMBDA {
                constexpr int kCount = decltype(i)::value + 1;
                if (some != kCount) return;
                if (!asks)
                    meet<kCount, kWeights>(r, v, at, end, NothingToCome{});
                else if (passes == 1)
                    meet<kCount, kWeights>(r, v, at, end, ShareToCome<1>{coming, at});
                else
                    meet<kCount, kWeights>(r, v, at, end, ShareToCome<2>{coming, at});
            });
            r += some;
        }
    }

    // The elements from `from` to `to` - 1 of all rows. Meanwhile as many from `coming` on are asked for, as
    // they lie in memory.
    BQ_INLINE void add(int64_t from, int64_t to, const uint8_t* coming) {
        const int64_t piece = (to - from) * O::kBytes;  // of a row
        const auto meet_rows = [&](auto weights, int v, int64_t at, int64_t end) BQ_INLINE_LAMBDA {
            const int64_t done = ((at - from) * count + v * (end - at)) * O::kBytes;
            meet_all<decltype(weights)::value>(
                v, at, end, coming + (piece == stride ? done : done / piece * stride + done % piece));
        };
        for (int64_t at = from; at < to; at += kPart) {
            const int64_t end = at + kPart < to ? at + kPart : to;
            int v = 0;
            for (; v + 3 <= count; v += 3) meet_rows(Index<3>{}, v, at, end);
            for (; v < count; ++v) meet_rows(Index<1>{}, v, at, end);
        }
    }
    BQ_INLINE void store(float* y, int64_t ldy) const {
        for (int64_t r = 0; r < rows; ++r)
            for (int v = 0; v < count; ++v) y[r * ldy + v] = O::total(total[r][v]);
    }
};

// More activations than so many are too much for the level-2 cache. Then several groups of weight rows meet a
// piece of each activation row before they meet the next piece (which more activation rows than a tile has do
// not gain by, as they read these weights several times).
inline constexpr int64_t kMostFloats = 96 << 10, kFloatPiece = 3072;
inline constexpr int64_t kPieceGroups = 16;

template <class O>
BQ_INLINE void multiply_float_parts(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                                    const FloatRows<typename O::Input>& x, float* y, int64_t ldy) {
    using Parts = FloatParts<O>;
    constexpr int kGroup = Parts::kGroup;
    static_assert(kFloatPiece % Parts::kPart == 0);
    const bool in_pieces = x.rows <= Parts::kRows && x.rows * x.k > kMostFloats;
    const int64_t most = in_pieces ? kPieceGroups : 1, piece = in_pieces ? kFloatPiece : x.k;
    Parts parts[kPieceGroups];
    for (int64_t n = begin; n < end; n += most * kGroup) {
        const int64_t left = (end - n + kGroup - 1) / kGroup, groups = left < most ? left : most;
        for (int64_t r = 0; r < x.rows; r += Parts::kRows) {
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t first = n + g * kGroup;
                parts[g].begin(x, r, w + first * w_row_bytes, w_row_bytes, end - first);
            }
            for (int64_t from = 0, to; from < x.k; from = to) {
                to = from + piece < x.k ? from + piece : x.k;
                for (int64_t g = 0; g < groups; ++g)
                    parts[g].add(from, to,
                                 g + 1 < groups ? parts[g + 1].w + from * O::kBytes
                                 : to < x.k     ? parts[0].w + to * O::kBytes
                                                : parts[0].w + groups * kGroup * w_row_bytes);
            }
            for (int64_t g = 0; g < groups; ++g) parts[g].store(y + r * ldy + n + g * kGroup, ldy);
        }
    }
}

template <class S, FormatId id>
void matmul_floats(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                   const FloatRows<float>& x, float* y, int64_t ldy) {
    using O = FloatOperands<S, id>;
    if constexpr (O::kInParts)
        if (x.rows > kStraightRows<O>) return multiply_float_parts<O>(w, w_row_bytes, begin, end, x, y, ldy);
    multiply_floats<O>(w, w_row_bytes, begin, end, x, y, ldy);
}

}  // namespace
}  // namespace bq
