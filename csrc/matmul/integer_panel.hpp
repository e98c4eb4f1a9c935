// A panel of weights in super-blocks for instruction sets whose products of pairs become int32 by a product
// of words anyway (AVX2): that product takes the integer scale of the run along, so that 256 elements stay in
// integers. See README.md.
#pragma once

#include "matmul/integer_minima.hpp"
#include "matmul/panel.hpp"

namespace bq {
namespace {

template <class S, class T, FormatId id>
struct IntegerPanel {
    using F = Unpack<S, id>;
    using Form = CommonForm<id>;
    using Block = SuperBlock<S, id>;
    static constexpr int kLanes = T::kLanes;
    static constexpr bool kUnitScale = Block::kUnitScale;
    static constexpr int kRun = kUnitScale ? 32 : F::kRun, kRuns = 256 / kRun;
    static constexpr bool kMinima = Form::has_minima;

    // Signed weights meet activations that are stored 128 above; those of eight bits would be too large for
    // that, and flip the signs of the activations instead (T::add_scaled_signed_dots).
    static constexpr bool kSigned = F::kSigned || F::kOffset != 0;
    static constexpr int kLargest =
        largest_integer<id>() - F::kOffset > F::kOffset ? largest_integer<id>() - F::kOffset : F::kOffset;
    static constexpr bool kFlips = kSigned && kLargest > 64;
    static constexpr bool kRaised = kSigned && !kFlips;
    static constexpr int kRows = T::kRows;  // activation rows of a tile

    static constexpr int kPairs = T::pairs_up_to(kLargest * (kRaised ? 255 : 127), kRun / 4);

    static constexpr PanelShape shape() {
        return {256, 0, kMinima, 256, kRows, kLanes, kMinima ? kRun : 0, kRaised};
    }

    alignas(64) int8_t q[kPanelDepth * kLanes];                                    // [depth / 4][lane][4]
    alignas(64) int16_t scales[kUnitScale ? 2 : 2 * kPanelDepth / kRun * kLanes];  // [depth / kRun][lane][2]
    alignas(64) float d[kPanelDepth / 256 * kLanes];                               // [depth / 256][lane]
    alignas(64) int32_t start[kSigned ? kPanelDepth / 256 * kLanes : 1];           // likewise, see finish
    [[no_unique_address]] IntegerMinima<kMinima, S, T, Block, kRun, kPanelDepth> minima;

    static constexpr int kBytes = kPanelDepth / 256 * Form::bytes;
    static BQ_INLINE const uint8_t* row_at(const uint8_t* w, int64_t row_bytes, int64_t n, int64_t at) {
        return w + n * row_bytes + at / 256 * Form::bytes;
    }

    // As Panel::fill.
    BQ_INLINE void fill(const uint8_t* w, int64_t row_bytes, int64_t begin, int64_t end, int64_t at,
                        int depth) {
        each_eight_rows<kLanes>(
            begin, end, [&](int64_t n) BQ_INLINE_LAMBDA { return row_at(w, row_bytes, n, at); },
            [&](const uint8_t*(&rows)[8], int lane) BQ_INLINE_LAMBDA {
                for (int element = 0; element < depth; element += 256) fill_eight(rows, element, lane);
            });
        finish(depth);
    }

    // One super-block of eight rows.
    BQ_NOINLINE void fill_eight(const uint8_t* (&rows)[8], int element, int lane) {
        S::template repeat<8>([&](int j) BQ_INLINE_LAMBDA {
            typename S::Bytes c[8];
            for (int i = 0; i < 8; ++i) {
                c[i] = F::chunk(rows[i], j);
                if constexpr (F::kOffset != 0) c[i] = S::sub(c[i], S::splat(F::kOffset));
            }
            S::transpose(c, bytes(q + (element + 32 * j) * kLanes + 4 * lane), 4 * kLanes, 8);
        });
        if constexpr (!kUnitScale) {
            typename S::Words run_scales[8];
            for (int i = 0; i < 8; ++i) run_scales[i] = Block::scales(rows[i]);
            for (int half = 0; half < (kRun == 16 ? 2 : 1); ++half) {
                typename S::Bytes twice[8];
                for (int i = 0; i < 8; ++i)
                    twice[i] = kRun == 16 ? S::eight_words_twice(run_scales[i], half) : run_scales[i];
                S::transpose(twice, bytes(scales + 2 * (element / kRun + 8 * half) * kLanes + 2 * lane),
                             4 * kLanes, 8);
            }
        }
        if constexpr (kMinima) minima.fill(rows, element, lane);
        for (int i = 0; i < 8; ++i) {
            d[element / 256 * kLanes + lane + i] = Block::d(rows[i]);
            rows[i] += Form::bytes;
        }
    }

    // What the sums of super-blocks start from: activations of 0 are to give 0, but are stored as 128, or
    // flipped to -1.
    BQ_NOINLINE void finish(int depth) {
        if constexpr (kSigned) {
            alignas(64) int8_t zeros[kRun];
            memset(zeros, kRaised ? 128 : 0, kRun);
            for (int block = 0; block < depth / 256; ++block) {
                typename T::Ints sum[1] = {T::splat_ints(0)};
                for (int i = 0; i < kRuns; ++i) add_run(zeros, block * kRuns + i, sum);
                T::store_ints(start + block * kLanes, T::sub_ints(T::splat_ints(0), sum[0]));
            }
        }
    }

    // The products of run `index` with kCount activation rows, times its scales, onto `sum`.
    template <int kCount>
    BQ_INLINE void add_run(const int8_t* p, int index, typename T::Ints (&sum)[kCount]) const {
        typename T::Ints scale;
        if constexpr (kUnitScale)
            scale = T::splat_word_pairs(1);
        else
            scale = T::load_words(scales + 2 * index * kLanes);
        const uint8_t* const u = bytes(q + index * kRun * kLanes);
        if constexpr (kFlips)
            T::template add_scaled_signed_dots<kRun / 4>(u, p, scale, sum);
        else
            T::template add_scaled_dots<kPairs, kRun / 4, kRaised>(u, p, scale, sum);
    }

    // One panel, elements at to at + depth - 1, against the tile of kCount rows from `first` on, onto `out`
    // or, with the first elements, into it.
    template <int kCount>
    BQ_INLINE void multiply(const PackedRows& x, int64_t first, int64_t at, int depth,
                            float (*out)[kLanes]) const {
        using Floats = typename T::Floats;
        const int8_t* p = x.q + first * x.k + at * kCount;
        const float* const unit = x.scales + first * (x.k / 256) + at / 256 * kCount;
        for (int block = 0; block < depth / 256; ++block) {
            typename T::Ints whole[kCount];
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                if constexpr (kSigned)
                    whole[r] = T::load_ints(start + block * kLanes);
                else
                    whole[r] = T::splat_ints(0);
            });
            for (int i = 0; i < kRuns; ++i, p += kRun * kCount) add_run(p, block * kRuns + i, whole);
            const Floats scale = T::load(d + block * kLanes);
            Floats part[kCount];
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA { part[r] = T::mul(T::to_floats(whole[r]), scale); });
            if constexpr (kMinima)
                minima.template subtract<kCount>(x.sums + (first * x.k + at * kCount) / (2 * kRun), block,
                                                 part);
            unroll<kCount>([&](auto r) BQ_INLINE_LAMBDA {
                const Floats a = T::splat(unit[block * kCount + r]);
                T::store(out[r], at == 0 && block == 0 ? T::mul(part[r], a)
                                                       : T::mul_add(part[r], a, T::load(out[r])));
            });
        }
    }

  private:
    static BQ_INLINE uint8_t* bytes(void* p) { return static_cast<uint8_t*>(p); }
    static BQ_INLINE const uint8_t* bytes(const void* p) { return static_cast<const uint8_t*>(p); }
};

}  // namespace
}  // namespace bq
