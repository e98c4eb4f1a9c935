// The products of dot_strips.hpp where two products make an int16 (AVX2). Weights are unpacked one vector at
// a time and meet all activation rows at once, so that nothing but sums stays in registers; the product that
// widens pairs takes the integer scale of the run.
#pragma once

#include "matmul/strip_stream.hpp"

namespace bq {
namespace {

// Adds to each row's sum `factor`, two words, times its products: vector i of kSteps, weight(i), with four
// activations from row(r) + 4 * i on.
template <class V, int kTop, int kSteps, int kRows, class Weight, class Row>
BQ_INLINE void add_products(Weight&& weight, Row&& row, typename V::Ints factor,
                            typename V::Ints (&sum)[kRows]) {
    using Ints = typename V::Ints;
    constexpr int kPairs = V::template pairs<kTop, kSteps>();
    unroll<kSteps / kPairs>([&](auto part) BQ_INLINE_LAMBDA {
        Ints words[kRows];
        unroll<kPairs>([&](auto i) BQ_INLINE_LAMBDA {
            constexpr int kStep = decltype(part)::value * kPairs + decltype(i)::value;
            const auto u = V::template factors<kTop>(weight(Index<kStep>{}));
            for (int r = 0; r < kRows; ++r) {
                const Ints products = V::products(u, row(r) + 4 * kStep);
                words[r] = i == 0 ? products : V::add_words(words[r], products);
                V::keep_order(words[r]);
            }
        });
        for (int r = 0; r < kRows; ++r) {
            sum[r] = V::add(sum[r], V::widened(words[r], factor));
            V::keep_order(sum[r]);
        }
    });
}

template <class V, FormatId id, int kRows>
struct StripWordsDot : StripRows<V, id, kRows> {
    using Rows = StripRows<V, id, kRows>;
    using F = Strip<V, id>;
    using Ints = typename V::Ints;
    using Floats = typename V::Floats;

    using Rows::acc;
    using Rows::q;
    using Rows::scales;
    using Rows::StripRows;
    using Rows::sums;
    using Rows::whole_sums;

    // The vectors `first` and on of group g, kSteps of them, with the activations of the group at `at`.
    template <int g, int first, int kSteps>
    BQ_INLINE void dots(const typename F::Open& o, int64_t at, Ints factor, Ints (&sum)[kRows]) const {
        add_products<V, F::kTop, kSteps>(
            [&](auto i) BQ_INLINE_LAMBDA { return F::template weight<g, first + decltype(i)::value>(o); },
            [&](int r) BQ_INLINE_LAMBDA { return q[r] + at + 4 * first; }, factor, sum);
    }

    // Elements 32 g to 32 g + 31 of a block with float scales; they are elements 32 * i of the row and on.
    template <int g>
    BQ_INLINE void group(const typename F::Open& o, int64_t i) {
        const auto run = [&](auto part) BQ_INLINE_LAMBDA {
            constexpr int kPart = decltype(part)::value, kSteps = 8 / F::kRuns;
            Ints sum[kRows];
            for (int r = 0; r < kRows; ++r) {
                sum[r] = V::no_ints();
                if constexpr (F::kOffset != 0) {
                    // Of two runs, one has the first sum and the other one the second.
                    constexpr int kFirst = kPart == 0 ? -F::kOffset & 0xffff : 0;
                    constexpr int kLast = kPart == 1 || F::kRuns == 1 ? -F::kOffset * 0x10000 : 0;
                    sum[r] = V::dot_pair(sum[r], V::splat_ints(kLast | kFirst), whole_sums[r] + 2 * i);
                }
            }
            dots<g, kPart * kSteps, kSteps>(o, 32 * i, V::splat_words(1), sum);
            const Floats scale = F::template scale<(F::kRuns * g + kPart) % F::kScales>(o);
            for (int r = 0; r < kRows; ++r)
                acc[r] = V::mul_add(V::to_floats(sum[r]), V::mul(scale, V::splat(scales[r][i])), acc[r]);
        };
        unroll<F::kRuns>(run);
        if constexpr (F::kMinima)
            for (int r = 0; r < kRows; ++r)
                acc[r] =
                    V::mul_add(F::minus_minimum(o), V::splat(sums[r][2 * i] + sums[r][2 * i + 1]), acc[r]);
    }

    // What minima or offsets take off, without d or dmin, of super-block i.
    BQ_INLINE void add_less(const typename F::Open& o, int64_t i, Ints (&less)[kRows]) const {
        if constexpr (F::kRun == 256) {
            for (int r = 0; r < kRows; ++r) less[r] = V::sum_of_words(whole_sums[r] + 16 * i);
        } else if constexpr (F::kRun == 32) {
            alignas(16) int16_t runs[kRows][8];
            for (int r = 0; r < kRows; ++r) V::sums_of_pairs(whole_sums[r] + 16 * i, runs[r]);
            unroll<4>([&](auto two) BQ_INLINE_LAMBDA {
                const Ints minima = F::template minima<decltype(two)::value>(o);
                for (int r = 0; r < kRows; ++r) less[r] = V::dot_pair(less[r], minima, runs[r] + 2 * two);
            });
        } else {
            unroll<8>([&](auto g) BQ_INLINE_LAMBDA {
                const Ints words = F::template less<decltype(g)::value>(o);
                for (int r = 0; r < kRows; ++r)
                    less[r] = V::dot_pair(less[r], words, whole_sums[r] + 16 * i + 2 * g);
            });
        }
    }

    BQ_INLINE void super_block(const typename F::Open& o, int64_t i) {
        Ints total[kRows];
        for (Ints& sum : total) sum = V::no_ints();
        unroll<4>([&](auto two) BQ_INLINE_LAMBDA {
            unroll<2>([&](auto half) BQ_INLINE_LAMBDA {
                constexpr int g = 2 * decltype(two)::value + decltype(half)::value;
                const int64_t at = 256 * i + 32 * g;
                if constexpr (F::kRun == 256) {
                    dots<g, 0, 8>(o, at, V::splat_words(1), total);
                } else if constexpr (F::kRun == 32) {
                    dots<g, 0, 8>(o, at, F::template factor<g>(o), total);
                } else {
                    dots<g, 0, 4>(o, at, F::template factor<2 * g>(o), total);
                    dots<g, 4, 4>(o, at, F::template factor<2 * g + 1>(o), total);
                }
            });
        });
        Ints less[kRows];
        for (Ints& sum : less) sum = V::no_ints();
        if constexpr (F::kMinima || F::kOffset != 0) add_less(o, i, less);
        for (int r = 0; r < kRows; ++r)
            add_scaled<V, F, F::kOffset>(o, total[r], less[r], scales[r][i], acc[r]);
    }
};

// The same for more rows, and super-blocks that take long to unpack: a block of all rows of a strip is
// unpacked to memory and then meets a few activation rows at a time, in a loop over its runs. Unrolled, as
// above, the code of all that would be too long for the cache of decoded instructions.
inline constexpr int kUnpackedRows = 8;  // activation rows, at most
template <class V, FormatId id>          // runs of 16 or 32
struct StripBlockDot : StripStream<V, id> {
    using F = Strip<V, id>;
    using Ints = typename V::Ints;
    using Floats = typename V::Floats;
    static constexpr int kSideBySide = 1, kSums = kUnpackedRows;
    static constexpr int kTogether = 4;  // activation rows that registers hold the sums of
    static constexpr int kRun = F::kRun, kRuns = 256 / kRun;
    static constexpr int kBytes = 4 * V::kLanes;  // of a vector
    static constexpr bool kTakesOff = F::kMinima || F::kOffset != 0;
    static constexpr bool kPairsOfRuns = kRun == 32;  // whose minima meet their sums: F::minima

    const int8_t* q;
    const float* scales;
    const int16_t* whole_sums;
    int64_t k;
    int rows;
    Floats acc[kSums];
    alignas(64) uint8_t weights[64 * kBytes];
    alignas(64) uint8_t factors[kRuns * kBytes];
    alignas(64) uint8_t minima[kTakesOff ? kRuns / 2 * kBytes : 1];

    BQ_INLINE StripBlockDot(const Activations& x, int64_t first_row, int count)
        : q(x.q + first_row * x.k),
          scales(x.scales + first_row * (x.k / 256)),
          whole_sums(x.whole_sums + first_row * (x.k / 16)),
          k(x.k),
          rows(count) {
        for (Floats& sum : acc) sum = V::zero();
    }

    BQ_INLINE void unpack(const typename F::Open& o) {
        unroll<8>([&](auto g) BQ_INLINE_LAMBDA {
            unroll<8>([&](auto i) BQ_INLINE_LAMBDA {
                constexpr int kGroup = decltype(g)::value, kStep = decltype(i)::value;
                V::store_bytes(weights + (8 * g + i) * kBytes, F::template weight<kGroup, kStep>(o));
            });
        });
        unroll<kRuns>([&](auto run) BQ_INLINE_LAMBDA {
            V::store_bytes(factors + run * kBytes, F::template factor<decltype(run)::value>(o));
        });
        if constexpr (kTakesOff)
            unroll<kRuns / 2>([&](auto i) BQ_INLINE_LAMBDA {
                if constexpr (kPairsOfRuns)
                    V::store_bytes(minima + i * kBytes, F::template minima<decltype(i)::value>(o));
                else
                    V::store_bytes(minima + i * kBytes, F::template less<decltype(i)::value>(o));
            });
    }

    // The rows r to r + kCount - 1 and super-block i.
    template <int kCount>
    BQ_INLINE void multiply(const typename F::Open& o, int64_t i, int r) {
        Ints total[kCount];
        for (Ints& sum : total) sum = V::no_ints();
        const int8_t* x = q + r * k + 256 * i;
        for (int run = 0; run < kRuns; ++run, x += kRun) {
            const uint8_t* const u = weights + run * (kRun / 4) * kBytes;
            const Ints factor = V::load(factors + run * kBytes);
            add_products<V, F::kTop, kRun / 4>(
                [&](auto step) BQ_INLINE_LAMBDA { return V::load(u + step * kBytes); },
                [&](int j) BQ_INLINE_LAMBDA { return x + j * k; }, factor, total);
        }
        for (int j = 0; j < kCount; ++j) {
            Ints less = V::no_ints();
            if constexpr (kTakesOff) less = taken_off(whole_sums + (r + j) * (k / 16) + 16 * i);
            add_scaled<V, F, F::kOffset>(o, total[j], less, scales[(r + j) * (k / 256) + i], acc[r + j]);
        }
    }
    BQ_INLINE Ints taken_off(const int16_t* sums) const {
        alignas(16) int16_t pairs[8];
        if constexpr (kPairsOfRuns) V::sums_of_pairs(sums, pairs);
        Ints less = V::no_ints();
        for (int i = 0; i < kRuns / 2; ++i)
            less = V::dot_pair(less, V::load(minima + i * kBytes), (kPairsOfRuns ? pairs : sums) + 2 * i);
        return less;
    }

    BQ_INLINE void super_block(const typename F::Open& o, int64_t i) {
        unpack(o);
        int r = 0;
        for (int passes = (rows + kTogether - 1) / kTogether; passes > 0; --passes) {
            const int some = (rows - r + passes - 1) / passes;
            unroll<kTogether>([&](auto n) BQ_INLINE_LAMBDA {
                if (some == n + 1) multiply<decltype(n)::value + 1>(o, i, r);
            });
            r += some;
        }
    }

    BQ_INLINE void store(float* y, int64_t ldy) const {
        for (int r = 0; r < rows; ++r) V::store(y + r * ldy, acc[r]);
    }
};

}  // namespace
}  // namespace bq
