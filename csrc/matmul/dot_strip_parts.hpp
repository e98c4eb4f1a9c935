// The products of dot_strip_words.hpp for super-blocks with parts that lie alike (kParts), in a loop over
// them: unrolled, the code for more than a few activation rows is too long for the cache of decoded
// instructions, which a core's other thread may share.
#pragma once

#include "matmul/dot_strip_words.hpp"

namespace bq {
namespace {

// Adds `factor`, two words, times the products of a run of 32 levels of IQ4 (Iq4Steps) without their signs:
// those of the indices to `high`, those of the rests to `low`. These are so small that four products and more
// add up in words, where those of levels have to be widened one by one.
template <class V, int kRows, class Row>
BQ_INLINE void add_steps(const uint8_t* words, Row&& row, typename V::Ints factor,
                         typename V::Ints (&low)[kRows], typename V::Ints (&high)[kRows]) {
    using Ints = typename V::Ints;
    static_assert(4 * 2 * 127 * Iq4Steps::kLargestRest <= 32767 && 8 * 2 * 127 * 15 <= 32767);
    const auto table = V::levels(kIq4Steps.rests, 0);
    Ints indices[kRows], rests[kRows][2];  // of the rests, those of each half
    unroll<4>([&](auto i) BQ_INLINE_LAMBDA {
        auto word = strip_word<V>(words, i);
        V::keep_order(word);  // loaded once
        const auto u0 = V::template field<0>(word, 15), u1 = V::template field<4>(word, 15);
        const auto rest0 = V::look_up(table, u0), rest1 = V::look_up(table, u1);
        for (int r = 0; r < kRows; ++r) {
            const auto add = [&](Ints& sum, bool is_first, Ints products) BQ_INLINE_LAMBDA {
                sum = is_first ? products : V::add_words(sum, products);
                V::keep_order(sum);
            };
            const int8_t* const four = row(r) + 4 * i;
            add(indices[r], i == 0, V::products(u0, four));
            add(rests[r][0], i == 0, V::products(rest0, four));
            add(indices[r], false, V::products(u1, four + 16));
            add(rests[r][1], i == 0, V::products(rest1, four + 16));
        }
    });
    for (int r = 0; r < kRows; ++r) {
        for (const Ints& half : rests[r]) {
            low[r] = V::add(low[r], V::widened(half, factor));
            V::keep_order(low[r]);
        }
        high[r] = V::add(high[r], V::widened(indices[r], factor));
        V::keep_order(high[r]);
    }
}

template <class V, FormatId id, int kRows>
struct StripPartsDot : StripWordsDot<V, id, kRows> {
    using Words = StripWordsDot<V, id, kRows>;
    using F = Strip<V, id>;
    using Ints = typename V::Ints;
    // Levels as steps; of more rows there are too many sums for the registers.
    static constexpr bool kSteps = id == FormatId::IQ4_XS && kRows <= 2;
    static constexpr int kTogether = id == FormatId::IQ4_XS ? 4 : 6;  // activation rows in a loop
    static constexpr int kGroups = 8 / F::kParts;                     // of 32 elements in a part
    static constexpr int kRun = F::kRun < 32 ? F::kRun : 32;          // of a factor in memory
    static constexpr bool kFactors = F::kRun != 256;                  // not all 1
    static constexpr int kBytes = 4 * V::kLanes;
    static constexpr bool kAsks = true;

    using Words::acc;
    using Words::q;
    using Words::scales;
    using Words::StripWordsDot;
    using Words::whole_sums;

    // Asks for the block at `later` as it goes: a few lines a part come sooner than all at once.
    BQ_INLINE void super_block(const uint8_t* later, const typename F::Open& o, int64_t i) {
        alignas(64) uint8_t factors[kFactors ? 256 / kRun * kBytes : 1];
        if constexpr (kFactors)
            unroll<256 / kRun>([&](auto j) BQ_INLINE_LAMBDA {
                V::store_bytes(factors + j * kBytes, F::template factor<decltype(j)::value>(o));
            });
        Ints less[kRows];
        for (Ints& sum : less) sum = V::no_ints();
        if constexpr (kSteps)
            add_scales(o, i, less);
        else if constexpr (F::kMinima || F::kOffset != 0)
            this->add_less(o, i, less);
        constexpr int kPasses = (kRows + kTogether - 1) / kTogether;
        constexpr int kOffset = kSteps ? Iq4Steps::kBelow : F::kOffset;
        unroll<kPasses>([&](auto pass) BQ_INLINE_LAMBDA {
            constexpr int kPass = decltype(pass)::value;
            constexpr int kFirst = kRows * kPass / kPasses, kEnd = kRows * (kPass + 1) / kPasses;
            Ints total[kEnd - kFirst];
            multiply<kFirst>(later, o, i, factors, total);
            for (int r = kFirst; r < kEnd; ++r)
                add_scaled<V, F, kOffset>(o, total[r - kFirst], less[r], scales[r][i], acc[r]);
        });
    }

  private:
    // Scales times the sums of their runs.
    BQ_INLINE void add_scales(const typename F::Open& o, int64_t i, Ints (&sum)[kRows]) const {
        alignas(16) int16_t runs[kRows][8];
        for (int r = 0; r < kRows; ++r) V::sums_of_pairs_4_apart(whole_sums[r] + 16 * i, runs[r]);
        unroll<4>([&](auto j) BQ_INLINE_LAMBDA {
            const Ints two = F::template two_scales<decltype(j)::value>(o);
            for (int r = 0; r < kRows; ++r) sum[r] = V::dot_pair(sum[r], two, runs[r] + 2 * j);
        });
    }

    // The products of the rows `first` and on.
    template <int first, int kCount>
    BQ_INLINE void multiply(const uint8_t* later, const typename F::Open& o, int64_t i,
                            [[maybe_unused]] const uint8_t* factors, Ints (&total)[kCount]) const {
        [[maybe_unused]] Ints high[kCount];
        for (int r = 0; r < kCount; ++r) total[r] = high[r] = V::no_ints();
        int64_t at = 256 * i;
        for (int part = 0; part < F::kParts; ++part) {
            if constexpr (first == 0) Words::template ask_for<Words::kBlock, F::kParts>(later, part);
            const auto words = F::part_words(o, part);
            unroll<kGroups * 32 / kRun>([&](auto run) BQ_INLINE_LAMBDA {
                constexpr int kGroup = decltype(run)::value * kRun / 32;
                constexpr int kFirst = decltype(run)::value * kRun % 32 / 4;  // vector of the group
                const auto row = [&](int r) BQ_INLINE_LAMBDA { return q[first + r] + at; };
                Ints factor;
                if constexpr (kFactors) {
                    factor = V::load(factors);
                    factors += kBytes;
                } else {
                    factor = V::splat_words(1);
                }
                if constexpr (kSteps)
                    add_steps<V>(words, row, factor, total, high);
                else
                    add_products<V, F::kTop, kRun / 4>(
                        [&](auto step) BQ_INLINE_LAMBDA {
                            return F::template weight_in_part<kGroup, kFirst + decltype(step)::value>(words);
                        },
                        row, factor, total);
                at += kRun;
            });
        }
        if constexpr (kSteps)
            for (int r = 0; r < kCount; ++r)
                total[r] = V::add(total[r], V::mul(high[r], V::splat_ints(Iq4Steps::kStep)));
    }
};

}  // namespace
}  // namespace bq
