// y = x * w^T for a few activation rows with weights laid out in strips (strips.hpp): a lane is a weight row,
// so that nothing is ever added across lanes, and the scales of all rows are unpacked at once. See README.md.
#pragma once

#include "matmul/dot_strip_parts.hpp"
#include "targets/strip_kernels.hpp"

namespace bq {
namespace {

// A strip against kRows activation rows.
template <class V, FormatId id, int kRows>
struct StripDot : StripRows<V, id, kRows> {
    using Rows = StripRows<V, id, kRows>;
    using F = Strip<V, id>;
    using Stream = StripStream<V, id>;
    using Bytes = typename V::Bytes;
    using Ints = typename V::Ints;
    using Floats = typename V::Floats;

    // Whether minima or offsets are summed up over a super-block, rather than taken from each run.
    static constexpr bool kLess = F::kMinima || (F::kOffset != 0 && (F::kPairs || F::kRun != 32));
    // Sums of integers times 1, 4, 16 and 64: two bits need not be shifted down, where that is not done once
    // for many rows.
    static constexpr int kPlaces = kRows <= 2 ? F::kPlaces : 1;

    using Rows::acc;
    using Rows::q;
    using Rows::scales;
    using Rows::StripRows;
    using Rows::sums;
    using Rows::whole_sums;

    // Elements 32 g to 32 g + 31 of a block with float scales; they are elements 32 * i of the row and on.
    template <int g>
    BQ_INLINE void group(const typename F::Open& o, int64_t i) {
        Bytes u[8];
        strip_weights<F, g>(o, u);
        for (int r = 0; r < kRows; ++r) {
            const int8_t* const x = q[r] + 32 * i;
            const int16_t* const two = whole_sums[r] + 2 * i;
            const Floats unit = V::splat(scales[r][i]);
            if constexpr (F::kRuns == 1) {
                Ints start = V::no_ints();
                if constexpr (F::kOffset != 0) start = V::dot_pair(start, V::splat_words(-F::kOffset), two);
                const Floats dot = V::to_floats(V::template dots<F::kTop, 8>(u, x, start));
                acc[r] = V::mul_add(dot, V::mul(F::template scale<(g % F::kScales)>(o), unit), acc[r]);
            } else {
                static_assert(F::kRuns == 2);
                const Ints low = V::dot_pair(V::no_ints(), V::splat_ints(-F::kOffset & 0xffff), two);
                const Ints high =
                    V::dot_pair(V::no_ints(), V::splat_ints(static_cast<int>(-F::kOffset * 65536u)), two);
                Floats part = V::mul(V::to_floats(V::template dots<F::kTop, 4>(u, x, low)),
                                     F::template scale<2 * g>(o));
                part = V::mul_add(V::to_floats(V::template dots<F::kTop, 4>(u + 4, x + 16, high)),
                                  F::template scale<2 * g + 1>(o), part);
                acc[r] = V::mul_add(part, unit, acc[r]);
            }
            if constexpr (F::kMinima)
                acc[r] =
                    V::mul_add(F::minus_minimum(o), V::splat(sums[r][2 * i] + sums[r][2 * i + 1]), acc[r]);
        }
    }

    // Elements 32 g to 32 g + 31 of super-block i. Integers that are left where they are in their bytes
    // (kPlaces) go to a sum of their place.
    template <int g, class Codes>
    BQ_INLINE void super_group(const typename F::Open& o, [[maybe_unused]] const Codes& codes, int64_t i,
                               Ints (&total)[kRows][kPlaces], Ints (&less)[kRows]) {
        Bytes u[8];
        if constexpr (F::kCodes)
            F::template weights<g>(o, codes, u);
        else if constexpr (kPlaces > 1)
            strip_weights<F, g, true>(o, u);
        else
            strip_weights<F, g>(o, u);
        for (int r = 0; r < kRows; ++r) {
            const int8_t* const x = q[r] + 256 * i + 32 * g;
            const int16_t* const two = whole_sums[r] + 16 * i + 2 * g;
            const Ints none = V::no_ints();
            Ints& sum = total[r][kPlaces > 1 ? F::template place<g>(0) : 0];
            if constexpr (F::kPairs) {
                sum = V::add(sum, V::template dots_of_pairs<8>(u, x, F::template less<g>(o)));
            } else if constexpr (F::kRun == 256 && kPlaces > 1) {
                unroll<8>([&](auto e) BQ_INLINE_LAMBDA {
                    Ints& one = total[r][F::template place<g>(e)];
                    one = V::template dots<F::kTop, 1>(u + e, x + 4 * e, one);
                });
            } else if constexpr (F::kRun == 256) {
                sum = V::add(sum, V::template dots<F::kTop, 8>(u, x, none));
            } else if constexpr (F::kRun == 32) {
                Ints start = none;
                if constexpr (F::kOffset != 0) start = V::dot_pair(none, V::splat_words(-F::kOffset), two);
                Ints dot = V::template dots<F::kTop, 8>(u, x, start);
                if constexpr (F::kShiftsRuns) dot = F::template shifted<g>(o, dot, two);
                sum = V::add(sum, V::mul(dot, F::template scale<g>(o)));
            } else {
                const Ints low = V::template dots<F::kTop, 4>(u, x, none);
                const Ints high = V::template dots<F::kTop, 4>(u + 4, x + 16, none);
                sum = V::add(sum, V::mul(low, F::template scale<2 * g>(o)));
                sum = V::add(sum, V::mul(high, F::template scale<2 * g + 1>(o)));
            }
            if constexpr (kLess) less[r] = V::dot_pair(less[r], F::template less<g>(o), two);
        }
    }

    BQ_INLINE void super_block(const uint8_t* later, const typename F::Open& o, int64_t i) {
        Ints total[kRows][kPlaces], less[kRows];
        for (int r = 0; r < kRows; ++r) {
            less[r] = V::no_ints();
            for (Ints& place : total[r]) place = V::no_ints();
        }
        unroll<4>([&](auto two) BQ_INLINE_LAMBDA {
            constexpr int kTwo = decltype(two)::value, g = 2 * kTwo;
            Stream::template ask_for<Stream::kWords, 4>(later, kTwo);
            const auto codes = F::template codes<two>(o);
            super_group<g>(o, codes, i, total, less);
            super_group<g + 1>(o, codes, i, total, less);
        });
        for (int r = 0; r < kRows; ++r) {
            Ints sum = total[r][kPlaces - 1];
            if constexpr (kPlaces > 1)
                for (int p = kPlaces - 2; p >= 0; --p) sum = V::add(total[r][p], V::template down<2>(sum));
            add_scaled<V, F, kLess ? F::kOffset : 0>(o, sum, less[r], scales[r][i], acc[r]);
        }
    }
};

// Where products of pairs are int16, which code serves how many activation rows (measured on Zen 3): one row
// and more dot_strip_words.hpp; `by_parts` and more dot_strip_parts.hpp; more than `few` StripBlockDot, or,
// unless `unpacks`, several passes over the strip.
struct RowsAtOnce {
    int by_parts, few;
    bool unpacks;  // which pays where that takes many instructions
};
constexpr RowsAtOnce rows_at_once(FormatId id) {
    switch (id) {
        using enum FormatId;
        case Q2_K:
            return {3, 6, false};
        case Q3_K:
            return {2, 4, true};
        case Q4_K:
            return {5, 8, false};
        case Q5_K:
        case Q6_K:
            return {1, 6, true};
        case IQ4_XS:
            return {1, 8, false};
        case TQ2_0:
            return {4, 6, false};
        default:
            return {7, 6, false};  // no parts that lie alike
    }
}
template <class V, FormatId id, int kRows>
using ChosenWordsDot = typename Choose<(kRows >= rows_at_once(id).by_parts), StripPartsDot<V, id, kRows>,
                                       StripWordsDot<V, id, kRows>>::Type;
template <class V, FormatId id, int kRows>
using ChosenStripDot =
    typename Choose<V::kSumsWords, ChosenWordsDot<V, id, kRows>, StripDot<V, id, kRows>>::Type;

// Strips of rows of weights, of blocks of the same format.
struct StripRange {
    const uint8_t* strips;
    int64_t row_bytes, begin, end, blocks;
};

// The strips of a range, each with a Dot that make_dot() returns, whose sums go to y.
template <class V, class Dot, class Make>
BQ_INLINE void multiply_strips(const StripRange& range, float* y, int64_t ldy, Make&& make_dot) {
    const auto strip = [&](int64_t i)
                           BQ_INLINE_LAMBDA { return range.strips + i * V::kLanes * range.row_bytes; };
    if constexpr (Dot::kInOrder) {
        const int together = strips_together<Dot>(V::kLanes * range.row_bytes);
        for (int64_t i = range.begin; i < range.end; i += together) {
            const int64_t left = range.end - i;
            Dot dot = make_dot();
            walk_in_order(dot, strip(i), left < together ? static_cast<int>(left) : together, range.blocks,
                          y + i * V::kLanes, ldy);
        }
    } else {
        typename Dot::Ahead ahead(strip(range.begin), range.blocks);
        for (int64_t i = range.begin; i < range.end; ++i) {
            Dot dot = make_dot();
            walk_strip(dot, strip(i), range.blocks, ahead, y + i * V::kLanes, ldy);
        }
    }
}

// Against the activation rows r to r + kRows - 1.
template <class V, FormatId id, int kRows>
BQ_NOINLINE void strips_of_few(const StripRange& range, const Activations& x, int64_t r, float* y,
                               int64_t ldy) {
    using Dot = ChosenStripDot<V, id, kRows>;
    multiply_strips<V, Dot>(range, y + r * ldy, ldy, [&]() BQ_INLINE_LAMBDA { return Dot(x, r); });
}
template <class V, FormatId id>
BQ_NOINLINE void strips_by_block(const StripRange& range, const Activations& x, int64_t r, int rows, float* y,
                                 int64_t ldy) {
    using Dot = StripBlockDot<V, id>;
    multiply_strips<V, Dot>(range, y + r * ldy, ldy, [&]() BQ_INLINE_LAMBDA { return Dot(x, r, rows); });
}

template <class V, FormatId id>
void matmul_strips(const uint8_t* strips, int64_t row_bytes, int64_t begin, int64_t end, const Activations& x,
                   float* y, int64_t ldy) {
    const StripRange range{strips, row_bytes, begin, end, x.k / CommonForm<id>::elements};
    int64_t r = 0;
    const auto pass = [&](auto rows) {
        strips_of_few<V, id, decltype(rows)::value>(range, x, r, y, ldy);
        r += rows;
    };
    if constexpr (V::kSumsWords) {
        // As many rows at a time as there are kernels for, evenly parted.
        constexpr RowsAtOnce kAtOnce = rows_at_once(id);
        constexpr int kMost = kAtOnce.unpacks ? kUnpackedRows : kAtOnce.few;
        for (int64_t passes = (x.rows + kMost - 1) / kMost; passes > 0; --passes) {
            const int64_t rows = (x.rows - r + passes - 1) / passes;
            if constexpr (kAtOnce.unpacks)
                if (rows > kAtOnce.few) {
                    strips_by_block<V, id>(range, x, r, static_cast<int>(rows), y, ldy);
                    r += rows;
                    continue;
                }
            unroll<kAtOnce.few>([&](auto i) BQ_INLINE_LAMBDA {
                if (rows == i + 1) pass(Index<decltype(i)::value + 1>{});
            });
        }
    } else {
        while (r + 8 <= x.rows) pass(Index<8>{});
        if (r + 4 <= x.rows) pass(Index<4>{});
        if (r + 2 <= x.rows) pass(Index<2>{});
        if (r < x.rows) pass(Index<1>{});
    }
}

template <class V>
void transpose_activations(const int8_t* from, int8_t* to, int64_t count) {
    for (int64_t i = 0; i < count; i += 32) V::transpose(from + i, to + i);
}

}  // namespace
}  // namespace bq
