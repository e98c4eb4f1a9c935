// y = x * w^T for a few activation rows with weights laid out in strips (strips.hpp): a lane is a weight row,
// so that nothing is ever added across lanes, and the scales of all rows are unpacked at once. See README.md.
#pragma once

#include "matmul/strips.hpp"
#include "simd/strip_formats.hpp"
#include "targets/strip_kernels.hpp"

namespace bq {
namespace {

// A strip against kRows activation rows.
template <class V, FormatId id, int kRows>
struct StripDot {
    using F = Strip<V, id>;
    using Form = CommonForm<id>;
    using Bytes = typename V::Bytes;
    using Ints = typename V::Ints;
    using Floats = typename V::Floats;

    // Bytes of a block of all rows.
    static constexpr int kHeaders = V::kLanes * strip_header_bytes(id);
    static constexpr int kWords = V::kLanes * Form::bytes - kHeaders;
    static constexpr int kAhead = F::kSuper ? 16384 : 8192;
    static constexpr int kAheadBlocks = (kAhead + kWords - 1) / kWords;

    // The block that is asked for while another one is multiplied: the streams within a block are too short
    // for the prefetchers of the CPU. It goes from strip to strip as the products do.
    struct Ahead {
        const uint8_t *words, *headers;
        int64_t left, blocks;
        BQ_INLINE Ahead(const uint8_t* strips, int64_t n)
            : words(strips), headers(strips + kWords * n), left(n), blocks(n) {
            for (int64_t b = 0; b < kAheadBlocks; ++b) advance();
        }
        BQ_INLINE void advance() {
            words += kWords;
            headers += kHeaders;
            if (--left > 0) return;
            words = headers;
            headers += kWords * blocks;
            left = blocks;
        }
    };

    // Whether minima or offsets are summed up over a super-block, rather than taken from each run.
    static constexpr bool kLess = F::kMinima || (F::kOffset != 0 && (F::kPairs || F::kRun != 32));
    // Sums of integers times 1, 4, 16 and 64: two bits need not be shifted down, where that is not done once
    // for many rows.
    static constexpr int kPlaces = kRows <= 2 ? F::kPlaces : 1;

    const int8_t* q[kRows];
    const float *scales[kRows], *sums[kRows];
    const int16_t* whole_sums[kRows];
    Floats acc[kRows];

    BQ_INLINE StripDot(const Activations& x, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            q[r] = x.q + (first_row + r) * x.k;
            scales[r] = x.scales + (first_row + r) * (x.k / x.run);
            sums[r] = x.sums + (first_row + r) * (x.k / 16);
            whole_sums[r] = x.whole_sums + (first_row + r) * (x.k / 16);
            acc[r] = V::zero();
        }
    }

    // Elements 32 g to 32 g + 31 of a block with float scales; they are elements 32 * i of the row and on.
    template <int g>
    BQ_INLINE void group(const typename F::Open& o, int64_t i) {
        Bytes u[8];
        F::template weights<g>(o, u);
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
            F::template weights<g, true>(o, u);
        else
            F::template weights<g>(o, u);
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

    // Asks for part i of kParts of kBytes bytes that are wanted later; several times (kAskedApart) where
    // unpacking is so fast that memory binds.
    template <int kBytes, int kParts = 1>
    static BQ_INLINE void ask_for([[maybe_unused]] const uint8_t* p, [[maybe_unused]] int i = 0) {
#if defined(__GNUC__)
        constexpr int kLines = (kBytes + 63) / 64, kPart = (kLines + kParts - 1) / kParts;
        constexpr int kLevel = id == FormatId::Q8_0 ? 3 : 2;
        for (int line = i * kPart; line < (i + 1) * kPart && line < kLines; ++line)
            for (int time = 0; time < (V::outruns_memory(id) ? 3 : 1); ++time)
                __builtin_prefetch(p + time * kAskedApart + 64 * line, 0, kLevel);
#endif
    }

    BQ_INLINE void super_block(const uint8_t* later, const typename F::Open& o, int64_t i) {
        Ints total[kRows][kPlaces], less[kRows];
        for (int r = 0; r < kRows; ++r) {
            less[r] = V::no_ints();
            for (Ints& place : total[r]) place = V::no_ints();
        }
        unroll<4>([&](auto two) BQ_INLINE_LAMBDA {
            constexpr int kTwo = decltype(two)::value, g = 2 * kTwo;
            ask_for<kWords, 4>(later, kTwo);
            const auto codes = F::template codes<two>(o);
            super_group<g>(o, codes, i, total, less);
            super_group<g + 1>(o, codes, i, total, less);
        });
        const Floats d = F::d(o);
        for (int r = 0; r < kRows; ++r) {
            const Floats scale = V::splat(scales[r][i]);
            Ints sum = total[r][kPlaces - 1];
            if constexpr (kPlaces > 1)
                for (int p = kPlaces - 2; p >= 0; --p) sum = V::add(total[r][p], V::template down<2>(sum));
            if constexpr (kLess && F::kOffset != 0)
                sum = V::sub(sum, V::mul(less[r], V::splat_ints(F::kOffset)));
            acc[r] = V::mul_add(V::to_floats(sum), V::mul(d, scale), acc[r]);
            if constexpr (F::kMinima)
                acc[r] = V::mul_sub_from(V::to_floats(less[r]), V::mul(F::dmin(o), scale), acc[r]);
        }
    }

    BQ_INLINE void strip(const uint8_t* words, int64_t blocks, Ahead& ahead, float* y, int64_t ldy) {
        const uint8_t* headers = words + kWords * blocks;
        for (int64_t b = 0; b < blocks; ++b, words += kWords, headers += kHeaders, ahead.advance()) {
            if constexpr (!F::kSuper) {
                ask_for<kWords>(ahead.words);
                if constexpr (kHeaders > 0) ask_for<kHeaders>(ahead.headers);
            }
            const typename F::Open o(words, headers);
            if constexpr (F::kSuper) {
                if constexpr (kHeaders > 0) ask_for<1>(ahead.headers);
                super_block(ahead.words, o, b);
            } else {
                unroll<Form::elements / 32>([&](auto g) BQ_INLINE_LAMBDA {
                    group<decltype(g)::value>(o, b * (Form::elements / 32) + g);
                });
            }
        }
        for (int r = 0; r < kRows; ++r) V::store(y + r * ldy, acc[r]);
    }
};

template <class V, FormatId id>
void matmul_strips(const uint8_t* strips, int64_t row_bytes, int64_t begin, int64_t end, const Activations& x,
                   float* y, int64_t ldy) {
    const int64_t blocks = x.k / CommonForm<id>::elements;
    const auto pass = [&](auto rows, int64_t r) BQ_INLINE_LAMBDA {
        using Dot = StripDot<V, id, decltype(rows)::value>;
        const uint8_t* strip = strips + begin * V::kLanes * row_bytes;
        typename Dot::Ahead ahead(strip, blocks);
        for (int64_t i = begin; i < end; ++i, strip += V::kLanes * row_bytes)
            Dot(x, r).strip(strip, blocks, ahead, y + r * ldy + i * V::kLanes, ldy);
    };
    int64_t r = 0;
    for (; r + 8 <= x.rows; r += 8) pass(Index<8>{}, r);
    if (r + 4 <= x.rows) {
        pass(Index<4>{}, r);
        r += 4;
    }
    if (r + 2 <= x.rows) {
        pass(Index<2>{}, r);
        r += 2;
    }
    if (r < x.rows) pass(Index<1>{}, r);
}

template <class V>
void transpose_activations(const int8_t* from, int8_t* to, int64_t count) {
    for (int64_t i = 0; i < count; i += 32) V::transpose(from + i, to + i);
}

}  // namespace
}  // namespace bq
