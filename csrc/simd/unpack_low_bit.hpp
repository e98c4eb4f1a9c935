// The ternary formats and those of one and two bits in vectors: see unpack.hpp. One scale of a block goes to
// each of its chunks.
#pragma once

#include "simd/unpack.hpp"

namespace bq {
namespace {

template <class S>
struct Unpack<S, FormatId::TQ1_0> {
    static constexpr int kRun = 32, kOffset = 1;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        constexpr size_t qs = offsetof(BlockTQ1_0, qs), qh = offsetof(BlockTQ1_0, qh);
        if (j < 5) return S::trits(S::load(b + qs), S::splat(ternary::kPowers[j]));
        // Two trits of the last 16 bytes, or in the last chunk one of them and four of the bytes of qh.
        uint8_t bytes[32];
        memcpy(bytes, b + qs + 32, 16);
        memcpy(bytes + 16, b + qs + 32, 16);
        if (j == 7)
            for (int n = 0; n < 4; ++n) memcpy(bytes + 16 + 4 * n, b + qh, 4);
        return S::trits(S::load(bytes), S::load(kLastPowers[j - 5]));
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        scale[0] = S::splat8(S::f16(b + offsetof(BlockTQ1_0, d)));
    }

  private:
    // Powers of 3 for the trits of the chunks 5, 6 and 7.
    static constexpr uint8_t kLastPowers[3][32] = {
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3},
        {9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,
         27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27, 27},
        {81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81, 81,
         1,  1,  1,  1,  3,  3,  3,  3,  9,  9,  9,  9,  27, 27, 27, 27}};
};

template <class S>
struct Unpack<S, FormatId::TQ2_0> {
    static constexpr int kRun = 32, kOffset = 1;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::field(S::load(b + offsetof(BlockTQ2_0, qs) + j / 4 * 32), 2 * (j % 4), 2, 0);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        scale[0] = S::splat8(S::f16(b + offsetof(BlockTQ2_0, d)));
    }
};

template <class S>
struct Unpack<S, FormatId::Q1_0> {
    static constexpr int kRun = 32, kOffset = 1;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::bits(load_as<uint32_t>(b + offsetof(BlockQ1_0, qs) + 4 * j), 2);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        float d[2] = {};
        for (int i = 0; i < kBlocks; ++i) d[i] = S::f16(b + i * sizeof(BlockQ1_0) + offsetof(BlockQ1_0, d));
        scale[0] = S::load_pair(d);
    }
};

template <class S>
struct Unpack<S, FormatId::Q2_0> {
    static constexpr int kRun = 32, kOffset = 1;
    static constexpr bool kSigned = false;
    static BQ_INLINE typename S::Bytes chunk(const uint8_t* b, int j) {
        return S::load_pairs(b + offsetof(BlockQ2_0, qs) + 8 * j);
    }
    template <int kBlocks>
    static BQ_INLINE void scales(const uint8_t* b, typename S::Floats* scale, typename S::Floats*) {
        const auto d = S::template gather_f16<kBlocks>(b + offsetof(BlockQ2_0, d), sizeof(BlockQ2_0));
        scale[0] = S::double_low(d);
    }
};

}  // namespace
}  // namespace bq
