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

    template <int kBytes>
    BQ_INLINE void ask(int64_t at) const {
        prefetch<kBytes>(place + at);
        if (times > 1) prefetch<kBytes>(place + kAskedApart + at);
        if (times > 2) prefetch<kBytes>(place + 2 * kAskedApart + at);
    }
};

// kWeights weight rows, one of them `stride` bytes after the other, against kRows activation rows. One chain
// of additions for each pair, which starts anew every kPart elements, whatever kWeights and kRows are.
template <class O, int kRows, int kWeights>
struct FloatTile {
    using Sum = typename O::Sum;
    using Input = typename O::Input;
    static constexpr int kPart = O::kStep > 16 ? 1024 : 512;

    const Input* x[kRows];
    Sum total[kRows][kWeights];

    BQ_INLINE FloatTile(const Input* rows, int64_t stride) {
        for (int r = 0; r < kRows; ++r) {
            x[r] = rows + r * stride;
            for (int v = 0; v < kWeights; ++v) total[r][v] = O::zero();
        }
    }

    // Elements from `at` on.
    BQ_INLINE void part(const uint8_t* w, int64_t stride, int64_t at, int64_t end,
                        const WeightsToCome& next) {
        Sum sum[kWeights][kRows];
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) sum[v][r] = O::zero();
        for (; at < end; at += O::kStep) {
            next.ask<kWeights * O::kStep * O::kBytes>(kWeights * O::kBytes * at);
            typename O::Values weights[kWeights];
            for (int v = 0; v < kWeights; ++v) weights[v] = O::weights(w + v * stride + at * O::kBytes);
            for (int r = 0; r < kRows; ++r) {
                const typename O::Values inputs = O::inputs(x[r] + at);
                for (int v = 0; v < kWeights; ++v) sum[v][r] = O::mul_add(weights[v], inputs, sum[v][r]);
            }
        }
        for (int v = 0; v < kWeights; ++v)
            for (int r = 0; r < kRows; ++r) total[r][v] = O::add(total[r][v], sum[v][r]);
    }

    BQ_INLINE void rows(const uint8_t* w, int64_t stride, int64_t k, const WeightsToCome& next, float* y,
                        int64_t ldy) {
        const int64_t whole = k / O::kStep * O::kStep;
        for (int64_t at = 0; at < whole; at += kPart)
            part(w, stride, at, at + kPart < whole ? at + kPart : whole, next);
        if (whole < k) {  // padded copies of the last elements
            uint8_t weights[kWeights][O::kStep * O::kBytes] = {};
            Input rest[kRows][O::kStep] = {};
            for (int v = 0; v < kWeights; ++v)
                memcpy(weights[v], w + v * stride + whole * O::kBytes,
                       static_cast<size_t>((k - whole) * O::kBytes));
            for (int r = 0; r < kRows; ++r) {
                memcpy(rest[r], x[r] + whole, static_cast<size_t>(k - whole) * sizeof(Input));
                x[r] = rest[r];
            }
            part(weights[0], O::kStep * O::kBytes, 0, O::kStep, next);
        }
        for (int r = 0; r < kRows; ++r)
            if constexpr (kWeights == 4)
                O::totals(total[r], y + r * ldy);
            else
                for (int v = 0; v < kWeights; ++v) y[r * ldy + v] = O::total(total[r][v]);
    }
};

// Four weight rows at a time (two beside a single activation row), read from memory once, against all
// activation rows of a tile, which stay in the level-2 cache unless they are long (fewer of them would read
// the weights more often, which is slower).
template <class O>
BQ_INLINE void multiply_floats(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                               const FloatRows<typename O::Input>& x, float* y, int64_t ldy) {
    constexpr int64_t kTile = 48;
    constexpr int kMost = O::kManyRegisters ? 6 : 4;
    for (int64_t first = 0; first < x.rows; first += kTile) {
        const int64_t last = first + kTile < x.rows ? first + kTile : x.rows;
        // As many activation rows at a time as the registers hold sums of, or evenly fewer. Each pass over
        // the weights asks for the next ones, so that all of them together do three times or more.
        const int64_t passes = (last - first + kMost - 1) / kMost;
        const int times = passes < 3 ? static_cast<int>(4 - passes) : 1;
        // `weights` rows from n on.
        const auto group = [&](auto weights, int64_t n) BQ_INLINE_LAMBDA {
            const uint8_t* next = w + n * w_row_bytes + bytes_ahead(weights, w_row_bytes);
            const auto some = [&](auto count, int64_t r) BQ_INLINE_LAMBDA {
                constexpr int kRows = decltype(count)::value, kGiven = decltype(weights)::value;
                constexpr int kTogether = !O::kManyRegisters && kRows > 2 && kGiven > 2 ? 2 : kGiven;
                for (int v = 0; v < kGiven; v += kTogether)
                    FloatTile<O, kRows, kTogether>(x.x + r * x.stride, x.stride)
                        .rows(w + (n + v) * w_row_bytes, w_row_bytes, x.k, {next + v * w_row_bytes, times},
                              y + r * ldy + n + v, ldy);
            };
            if constexpr (decltype(weights)::value == 2) {
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
        if (x.rows > 1)
            for (; n + 4 <= end; n += 4) group(Index<4>{}, n);
        else
            for (; n + 2 <= end; n += 2) group(Index<2>{}, n);
        for (; n < end; ++n) group(Index<1>{}, n);
    }
}

template <class S, FormatId id>
void matmul_floats(const uint8_t* w, int64_t w_row_bytes, int64_t begin, int64_t end,
                   const FloatRows<float>& x, float* y, int64_t ldy) {
    multiply_floats<FloatOperands<S, id>>(w, w_row_bytes, begin, end, x, y, ldy);
}

}  // namespace
}  // namespace bq
