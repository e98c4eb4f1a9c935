// y = x * w^T for many activation rows with weights in strips (strips.hpp): a strip is a panel (panel.hpp)
// but for its bits, so that panels are filled without putting rows together and transposing them again.
#pragma once

#include "matmul/gemm.hpp"
#include "matmul/strips.hpp"
#include "simd/strip_formats.hpp"
#include "targets/strip_kernels.hpp"

namespace bq {
namespace {

// V: the vocabulary of strips; P: the panel, whose lanes are those of one or several strips.
template <class V, class P, FormatId id>
struct StripPanel {
    using F = Strip<V, id>;
    using Form = CommonForm<id>;
    static constexpr int kStrips = P::kLanes / V::kLanes;
    static constexpr int kHeaders = V::kLanes * strip_header_bytes(id);  // bytes of a block of all rows
    static constexpr int kWords = V::kLanes * Form::bytes - kHeaders;
    static constexpr int kBlocks = kPanelDepth / Form::elements;
    static constexpr int kBytes = kBlocks * kWords / V::kLanes;  // of a row in a panel, on average
    static constexpr bool kIntegers = F::kSuper;                 // the panel is an IntegerPanel
    static_assert(P::kMinima == F::kMinima);

    P panel;

    // Elements `element` to `element` + 31 of one strip, the first of which is its first lane.
    template <int g>
    BQ_INLINE void group(const typename F::Open& o, int element, int lane) {
        typename V::Bytes u[8];
        strip_weights<F, g>(o, u);
        uint8_t* const q = reinterpret_cast<uint8_t*>(panel.q) + element * P::kLanes + 4 * lane;
        unroll<8>([&](auto i) BQ_INLINE_LAMBDA {
            if constexpr (kIntegers && F::kOffset != 0) u[i] = V::sub_bytes(u[i], V::splat(F::kOffset));
            V::store_bytes(q + 4 * P::kLanes * i, u[i]);
        });
        if constexpr (kIntegers)
            integer_scales<g>(o, element, lane);
        else
            float_scales<g>(o, element, lane, u);
    }

    template <int g>
    BQ_INLINE void float_scales(const typename F::Open& o, int element, int lane,
                                const typename V::Bytes (&u)[8]) {
        static_assert(P::kFlips ? F::kOffset == 0 : F::kOffset == P::kOffset);
        if constexpr (P::kFlips)
            V::store_ints(panel.negatives + element / 32 * P::kLanes + lane, V::sum_of_negatives(u));
        unroll<32 / P::kRun>([&](auto part) BQ_INLINE_LAMBDA {
            constexpr int kPart = decltype(part)::value, kRun = 32 / P::kRun * g + kPart;
            const int at = (element / P::kRun + kPart) * P::kLanes + lane;
            V::store(panel.scales + at, F::template scale<kRun % F::kScales>(o));
            if constexpr (P::kMinima)
                V::store(panel.minima + at, V::mul(F::minus_minimum(o), V::splat(-1.0f)));
        });
    }

    template <int g>
    BQ_INLINE void integer_scales(const typename F::Open& o, int element, int lane) {
        if constexpr (!P::kUnitScale)
            unroll<32 / P::kRun>([&](auto part) BQ_INLINE_LAMBDA {
                constexpr int kPart = decltype(part)::value;
                store_words(panel.scales, element / P::kRun + kPart, lane,
                            F::template factor<32 / P::kRun * g + kPart>(o));
            });
        if constexpr (P::kMinima) {
            if constexpr (P::kRun == 16) {
                const typename V::Ints both = F::template less<g>(o);  // the minima of the halves
                store_words(panel.minima.words, element / 32, lane, both);
            } else if constexpr (g % 2 == 0) {
                store_words(panel.minima.words, element / 64, lane, F::template minima<g / 2>(o));
            }
        }
    }
    static BQ_INLINE void store_words(int16_t* to, int index, int lane, typename V::Ints words) {
        V::store_bytes(reinterpret_cast<uint8_t*>(to + 2 * (index * P::kLanes + lane)), words);
    }

    // The strips `first` to `last` - 1, at most kStrips, elements at to at + depth - 1. Where strips are
    // missing the last one is repeated.
    BQ_NOINLINE void fill(const uint8_t* strips, int64_t row_bytes, int64_t first, int64_t last, int64_t at,
                          int depth) {
        const int64_t blocks = row_bytes / Form::bytes;
        for (int s = 0; s < kStrips; ++s) {
            const int64_t strip = first + s < last ? first + s : last - 1;
            const uint8_t* words = strips + strip * V::kLanes * row_bytes;
            const uint8_t* headers = words + kWords * blocks + kHeaders * (at / Form::elements);
            words += kWords * (at / Form::elements);
            for (int element = 0; element < depth;
                 element += Form::elements, words += kWords, headers += kHeaders) {
                const typename F::Open o(words, headers);
                if constexpr (kIntegers) {
                    const int to = element / 256 * P::kLanes + V::kLanes * s;
                    V::store(panel.d + to, F::d(o));
                    if constexpr (P::kMinima) V::store(panel.minima.dmin + to, F::dmin(o));
                }
                unroll<Form::elements / 32>([&](auto g) BQ_INLINE_LAMBDA {
                    group<decltype(g)::value>(o, element + 32 * g, V::kLanes * s);
                });
            }
        }
        if constexpr (kIntegers) panel.finish(depth);
    }
};

template <class S, class T, class V, FormatId id>
void matmul_strip_panels(const uint8_t* strips, int64_t row_bytes, int64_t begin, int64_t end,
                         const PackedRows& x, float* y, int64_t ldy) {
    using P = ChosenPanel<S, T, id>;
    using Filler = StripPanel<V, P, id>;
    constexpr int kLanes = V::kLanes;
    Filler filler;
    multiply_panels<T, P::kRows, kPanelDepth>(
        {kLanes * begin, kLanes * end, x.rows, x.k, x.block_rows, y, ldy},
        // Of the words of a strip, which are side by side, each row's share.
        [&](int64_t n, int64_t at) BQ_INLINE_LAMBDA {
            prefetch<Filler::kBytes>(strips + n / kLanes * kLanes * row_bytes +
                                     at / CommonForm<id>::elements * Filler::kWords +
                                     n % kLanes * Filler::kBytes);
        },
        [&](int64_t n, int64_t at, int depth)
            BQ_INLINE_LAMBDA { filler.fill(strips, row_bytes, n / kLanes, end, at, depth); },
        [&](int64_t r, auto rows, int64_t at, int depth, float (*sums)[T::kLanes]) BQ_INLINE_LAMBDA {
            multiply_tile<T, P, decltype(rows)::value>(filler.panel, x, r, at, depth, sums);
        });
}

}  // namespace
}  // namespace bq
