// How the products of few rows go through the blocks of strips (strips.hpp), one strip after the other.
#pragma once

#include "matmul/strips.hpp"
#include "simd/strip_formats.hpp"
#include "targets/kernels.hpp"

namespace bq {
namespace {

template <class Vocabulary, FormatId id>
struct StripStream {
    using V = Vocabulary;
    using F = Strip<V, id>;
    using Form = CommonForm<id>;

    // Bytes of a block of all rows.
    static constexpr int kHeaders = V::kLanes * strip_header_bytes(id);
    static constexpr int kBlock = V::kLanes * Form::bytes, kWords = kBlock - kHeaders;
    // Whether super_block asks for what is to come.
    static constexpr bool kAsks = !V::kSumsWords;

    // Whether all bytes of strips, words and then headers, are asked for in the order of memory: more than
    // one stream of requests disturbs the CPU (measured on Zen 3). Otherwise block by block, words with
    // headers.
    static constexpr bool kInOrder = V::kSumsWords;
    static constexpr int kAhead = F::kSuper ? 16384 : 8192;

    // The block that is asked for while another one is multiplied. It goes from strip to strip as the
    // products do.
    struct Ahead {
        const uint8_t *words, *headers;
        int64_t left, blocks;
        BQ_INLINE Ahead(const uint8_t* strips, int64_t n)
            : words(strips), headers(strips + kWords * n), left(n), blocks(n) {
            constexpr int kBlocks = (kAhead + kWords - 1) / kWords;
            for (int64_t b = 0; b < kBlocks; ++b) advance();
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
};

// Strips that a few activation rows meet side by side, a block of each by turns: memory gives more to several
// streams of loads than to one, which matters where little is to be unpacked (measured on Zen 3).
constexpr int streams_of_strips(FormatId id, int rows) {
    using enum FormatId;
    if (rows == 1) {
        if (id == Q4_0 || id == Q4_1 || id == Q8_0) return 4;
        if (id == Q5_0 || id == Q5_1 || id == IQ4_NL) return 2;
    }
    return rows == 2 && (id == Q4_0 || id == Q4_1 || id == Q8_0) ? 2 : 1;
}

// Adds the sum of a super-block and what minima or offsets take off, both without d or dmin, for an
// activation row with this scale.
template <class V, class F, int kOffset>
BQ_INLINE void add_scaled(const typename F::Open& o, typename V::Ints total, typename V::Ints less,
                          float scale, typename V::Floats& acc) {
    const auto unit = V::splat(scale);
    if constexpr (kOffset != 0) total = V::sub(total, V::mul(less, V::splat_ints(kOffset)));
    acc = V::mul_add(V::to_floats(total), V::mul(F::d(o), unit), acc);
    if constexpr (F::kMinima) acc = V::mul_sub_from(V::to_floats(less), V::mul(F::dmin(o), unit), acc);
}

// The activation rows that meet a strip, and their sums.
template <class V, FormatId id, int kRows>
struct StripRows : StripStream<V, id> {
    const int8_t* q[kRows];
    const float *scales[kRows], *sums[kRows];
    const int16_t* whole_sums[kRows];
    static constexpr int kSideBySide = StripStream<V, id>::kInOrder ? streams_of_strips(id, kRows) : 1;
    static constexpr int kSums = kRows;
    typename V::Floats acc[kSums];  // 0 at first

    BQ_INLINE StripRows(const Activations& x, int64_t first_row) {
        for (int r = 0; r < kRows; ++r) {
            q[r] = x.q + (first_row + r) * x.k;
            scales[r] = x.scales + (first_row + r) * (x.k / x.run);
            sums[r] = x.sums + (first_row + r) * (x.k / 16);
            whole_sums[r] = x.whole_sums + (first_row + r) * (x.k / 16);
            acc[r] = V::zero();
        }
    }

    BQ_INLINE void store(float* y, int64_t ldy) const {
        for (int r = 0; r < kRows; ++r) V::store(y + r * ldy, acc[r]);
    }
};

// The elements of block b, not in a super-block.
template <class Dot>
BQ_INLINE void add_groups(Dot& dot, const typename Dot::F::Open& o, int64_t b) {
    constexpr int kGroups = Dot::Form::elements / 32;
    unroll<kGroups>([&](auto g)
                        BQ_INLINE_LAMBDA { dot.template group<decltype(g)::value>(o, b * kGroups + g); });
}

// A strip against the activation rows of `dot`, whose sums go to y, ldy from row to row.
template <class Dot>
BQ_INLINE void walk_strip(Dot& dot, const uint8_t* words, int64_t blocks, typename Dot::Ahead& ahead,
                          float* y, int64_t ldy) {
    using F = typename Dot::F;
    const uint8_t* headers = words + Dot::kWords * blocks;
    for (int64_t b = 0; b < blocks; ++b, words += Dot::kWords, headers += Dot::kHeaders, ahead.advance()) {
        if constexpr (!F::kSuper) {
            Dot::template ask_for<Dot::kWords>(ahead.words);
            if constexpr (Dot::kHeaders > 0) Dot::template ask_for<Dot::kHeaders>(ahead.headers);
        }
        const typename F::Open o(words, headers);
        if constexpr (F::kSuper) {
            if constexpr (Dot::kHeaders > 0) Dot::template ask_for<1>(ahead.headers);
            dot.super_block(ahead.words, o, b);
        } else {
            add_groups(dot, o, b);
        }
    }
    dot.store(y, ldy);
}

// How many strips of this size Dot meets side by side: of long ones at most two.
template <class Dot>
constexpr int strips_together(int64_t bytes) {
    return Dot::kSideBySide > 2 && bytes > 35840 ? 2 : Dot::kSideBySide;
}

template <class Floats, int kCount>
BQ_INLINE void copy_sums(Floats (&to)[kCount], const Floats (&from)[kCount]) {
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
}

// `count` strips from `strips` on, whose sums go to y and on, at most strips_together(their bytes).
template <class Dot>
BQ_INLINE void walk_in_order(Dot& dot, const uint8_t* strips, int count, int64_t blocks, float* y,
                             int64_t ldy) {
    using Floats = typename Dot::V::Floats;
    constexpr int kBlock = Dot::kBlock, kStrips = Dot::kSideBySide;
    constexpr int64_t kMostAhead = kStrips > 1 ? 98304 : 131072;  // of all strips
    const int64_t bytes = kBlock * blocks, together = strips_together<Dot>(bytes);
    // All bytes of a strip, so that the headers of the next one, which are its last bytes, are there in time.
    // Of strips side by side that are too long for that, as much as serves the words.
    const int64_t most = bytes * together <= kMostAhead ? bytes : kStrips > 1 ? Dot::kAhead : kMostAhead;
    const int64_t ahead = most < Dot::kAhead ? Dot::kAhead : most;
    // Of the activation rows that meet several strips, while others have their turn.
    [[maybe_unused]] Floats sums[kStrips][Dot::kSums];
    if constexpr (kStrips > 1)
        for (auto& of_strip : sums) copy_sums(of_strip, dot.acc);
    for (int64_t b = 0; b < blocks; ++b) {
        // Of the strips that follow those side by side, where these end.
        const int64_t at = kBlock * b + ahead, later = at < bytes ? at : at + (together - 1) * bytes;
        for (int j = 0; j < count; ++j) {
            const uint8_t* const strip = strips + j * bytes;
            if constexpr (!Dot::kAsks) Dot::template ask_for<kBlock>(strip + later);
            const typename Dot::F::Open o(strip + Dot::kWords * b,
                                          strip + Dot::kWords * blocks + Dot::kHeaders * b);
            if constexpr (kStrips > 1) copy_sums(dot.acc, sums[j]);
            if constexpr (Dot::kAsks)
                dot.super_block(strip + later, o, b);
            else if constexpr (Dot::F::kSuper)
                dot.super_block(o, b);
            else
                add_groups(dot, o, b);
            if constexpr (kStrips > 1) copy_sums(sums[j], dot.acc);
        }
    }
    for (int j = 0; j < count; ++j) {
        if constexpr (kStrips > 1) copy_sums(dot.acc, sums[j]);
        dot.store(y + j * Dot::V::kLanes, ldy);
    }
}

}  // namespace
}  // namespace bq
