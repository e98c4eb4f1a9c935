// Super-blocks of 256 as integers, for products that stay in integers over a super-block: value = d * scale *
// chunk - dmin * minimum, with d and dmin floats and scale and minimum integers of each 16 elements
// (Unpack::scales gives the products d * scale). Formats that Unpack stores with an offset have the offset in
// the chunk here too.
//
//   scales      16 words, in order; runs of 32 twice
//   minima      the same, if the format has minima
//   minima_once   those of runs of 32 once, followed by zeros
//   d, dmin
//   kUnitScale  all scales are 1
#pragma once

#include "simd/unpack.hpp"
#include "simd/unpack_iq.hpp"
#include "simd/unpack_lookup.hpp"
#include "simd/unpack_low_bit.hpp"

namespace bq {
namespace {

template <class S, FormatId id>
struct SuperBlock {
    static constexpr bool kKnown = false;
};

struct ScaledRuns {
    static constexpr bool kKnown = true, kUnitScale = false;
};

template <class S>
struct SuperBlock<S, FormatId::Q2_K> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) { return pick(b, 0); }
    static BQ_INLINE typename S::Words minima(const uint8_t* b) { return pick(b, 4); }
    static BQ_INLINE typename S::Words minima_once(const uint8_t* b) { return minima(b); }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockQ2_K, d)); }
    static BQ_INLINE float dmin(const uint8_t* b) { return S::f16(b + offsetof(BlockQ2_K, dmin)); }

  private:
    static BQ_INLINE typename S::Words pick(const uint8_t* b, int shift) {
        constexpr uint64_t nibbles = 0x0f0f0f0f0f0f0f0full;
        const uint8_t* packed = b + offsetof(BlockQ2_K, scales);
        return S::words(load_as<uint64_t>(packed) >> shift & nibbles,
                        load_as<uint64_t>(packed + 8) >> shift & nibbles);
    }
};

template <class S>
struct SuperBlock<S, FormatId::Q3_K> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        uint64_t stored[2];
        q3_k_scales(b, stored);
        return S::sub_words(S::words(stored[0], stored[1]), S::splat_words(32));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockQ3_K, d)); }
};

// Q4_K and Q5_K.
template <class S, class Block>
struct SixBitSuperBlock : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        const SixBits six = six_bits(b + offsetof(Block, scales));
        return S::words_twice(six.scales);
    }
    static BQ_INLINE typename S::Words minima(const uint8_t* b) {
        const SixBits six = six_bits(b + offsetof(Block, scales));
        return S::words_twice(six.minima);
    }
    static BQ_INLINE typename S::Words minima_once(const uint8_t* b) {
        return S::words(six_bits(b + offsetof(Block, scales)).minima, 0);
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(Block, d)); }
    static BQ_INLINE float dmin(const uint8_t* b) { return S::f16(b + offsetof(Block, dmin)); }
};
template <class S>
struct SuperBlock<S, FormatId::Q4_K> : SixBitSuperBlock<S, BlockQ4_K> {};
template <class S>
struct SuperBlock<S, FormatId::Q5_K> : SixBitSuperBlock<S, BlockQ5_K> {};

template <class S>
struct SuperBlock<S, FormatId::Q6_K> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        const uint8_t* stored = b + offsetof(BlockQ6_K, scales);
        return S::words(load_as<uint64_t>(stored), load_as<uint64_t>(stored + 8));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockQ6_K, d)); }
};

template <class S>
struct SuperBlock<S, FormatId::IQ4_XS> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return S::sub_words(S::words_twice(iq4_xs_scales(b)), S::splat_words(32));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ4_XS, d)); }
};

// The scales of the grid formats are odd: twice what is stored, plus one.
template <class S>
static BQ_INLINE typename S::Words odd_scales_twice(uint64_t stored) {
    return S::words_twice(stored << 1 | kOneInEachByte);
}
// Of sixteen runs, four bits each.
template <class S>
static BQ_INLINE typename S::Words odd_nibbles(const uint8_t* packed) {
    return S::words(spread_nibbles(load_as<uint32_t>(packed)) << 1 | kOneInEachByte,
                    spread_nibbles(load_as<uint32_t>(packed + 4)) << 1 | kOneInEachByte);
}

template <class S>
struct SuperBlock<S, FormatId::IQ2_XXS> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_scales_twice<S>(top_nibbles(b + offsetof(BlockIQ2_XXS, runs) + 4, 8));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ2_XXS, d)) * 0.125f; }
};

template <class S>
struct SuperBlock<S, FormatId::IQ2_XS> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_nibbles<S>(b + offsetof(BlockIQ2_XS, scales));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ2_XS, d)) * 0.125f; }
};

template <class S>
struct SuperBlock<S, FormatId::IQ2_S> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_nibbles<S>(b + offsetof(BlockIQ2_S, scales));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ2_S, d)) * 0.125f; }
};

template <class S>
struct SuperBlock<S, FormatId::IQ3_XXS> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_scales_twice<S>(top_nibbles(b + offsetof(BlockIQ3_XXS, signs_scale), 4));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ3_XXS, d)) * 0.25f; }
};

template <class S>
struct SuperBlock<S, FormatId::IQ3_S> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_scales_twice<S>(spread_nibbles(load_as<uint32_t>(b + offsetof(BlockIQ3_S, scales))));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ3_S, d)); }
};

// In eighths, as Unpack has them.
template <class S>
struct SuperBlock<S, FormatId::IQ1_S> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        return odd_scales_twice<S>(iq1_s_scales(b));
    }
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockIQ1_S, d)) * 0.125f; }
};

template <class S>
struct SuperBlock<S, FormatId::IQ1_M> : ScaledRuns {
    static BQ_INLINE typename S::Words scales(const uint8_t* b) {
        uint64_t stored[2];
        iq1_m_scales(b, stored);
        return S::words(stored[0] << 1 | kOneInEachByte, stored[1] << 1 | kOneInEachByte);
    }
    static BQ_INLINE float d(const uint8_t* b) { return iq1_m_unit<S>(b) * 0.125f; }
};

template <class S>
struct SuperBlock<S, FormatId::TQ1_0> {
    static constexpr bool kKnown = true, kUnitScale = true;
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockTQ1_0, d)); }
};
template <class S>
struct SuperBlock<S, FormatId::TQ2_0> {
    static constexpr bool kKnown = true, kUnitScale = true;
    static BQ_INLINE float d(const uint8_t* b) { return S::f16(b + offsetof(BlockTQ2_0, d)); }
};

}  // namespace
}  // namespace bq
