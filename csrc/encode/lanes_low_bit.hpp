// The encoders of ternary.cpp, low_bit.cpp and microscaling.cpp: one pass, in element order but for the sums
// of Q1_0, which run one block per lane.
#pragma once

#include "encode/lanes_extremes.hpp"
#include "formats/low_bit.hpp"
#include "formats/microscaling.hpp"
#include "formats/ternary.hpp"

namespace bq {
namespace {

// Twice the inverse of a scale, with which elements from half the scale on reach 1, and none reaches 3. For a
// scale too small for its inverse to be finite, elements are infinite or NaN.
struct TwiceInverse {
    float value;
    // The inverse is finite, twice is not: elements are to be doubled afterwards.
    bool halved;
};
BQ_INLINE TwiceInverse twice_inverse(float scale) {
    const float inverse = 1.0f / scale;
    const bool halved = inverse < __builtin_inff() && !(2 * inverse < __builtin_inff());
    return {halved ? inverse : 2 * inverse, halved};
}

// The elements from x on and those from x + next on as -1, 0 or 1 in words; NaNs and infinities as -1.
template <class V, bool halved, int next = V::kLanes>
BQ_INLINE typename V::Int signs_of(const float* x, typename V::Float twice) {
    const auto whole = [&](const float* from) BQ_INLINE_LAMBDA {
        auto value = V::mul(V::load(from), twice);
        if (halved) value = V::add(value, value);
        return V::truncate_to_int(value);
    };
    const auto w = V::narrow(whole(x), whole(x + next));
    return V::min_word(V::max_word(w, V::splat_word(-1)), V::splat_word(1));
}

// Stores bytes as words(i) gives them for the 2 kLanes from i on, n of them and what fills up 4 kLanes.
template <class V, int n, class Words>
BQ_INLINE void store_words_as_bytes(uint8_t* out, Words words) {
    constexpr int kWords = 2 * V::kLanes;
    for (int i = 0; i < n; i += 2 * kWords)
        V::store_narrowed(out + i, words(i), words(i + kWords < n ? i + kWords : i));
}

// The byte of an element of a TQ1_0 block for five trits that make a number to base 3: as a fraction of 3^5,
// in 256ths, rounded up. That is the number and 13 / 243 of it, rounded up, which for all but 0 is one more
// than rounded down.
constexpr int kThirteenBy243 = 3506;  // in 65536ths
constexpr int byte_of_trits(int number) {
    return number + (number * kThirteenBy243 >> 16) + (number > 0);
}
constexpr bool bytes_of_trits_are_exact() {
    for (int number = 0; number < 243; ++number)
        if (byte_of_trits(number) != (256 * number + 242) / 243) return false;
    return true;
}
static_assert(bytes_of_trits_are_exact());
struct BytesOfTrits {
    uint8_t v[256];
    constexpr BytesOfTrits() : v() {
        for (int number = 0; number < 243; ++number) v[number] = static_cast<uint8_t>(byte_of_trits(number));
    }
};
constexpr BytesOfTrits kBytesOfTrits;

template <class V, bool halved>
BQ_INLINE void store_trits(const float* x, typename V::Float twice, BlockTQ1_0& block) {
    // The number of five trits that are `stride` elements apart.
    const auto number = [&](const float* from, auto stride) BQ_INLINE_LAMBDA {
        constexpr int kStride = decltype(stride)::value, kNext = V::kLanes < kStride ? V::kLanes : 0;
        auto sum = signs_of<V, halved, kNext>(from, twice);
        for (int t = 1; t < 5; ++t) {
            const auto three = V::add_word(V::add_word(sum, sum), sum);
            sum = V::add_word(three, signs_of<V, halved, kNext>(from + t * kStride, twice));
        }
        return V::add_word(sum, V::splat_word(121));  // five trits are 0, 1 or 2
    };
    alignas(64) uint8_t bytes[64], last[64];
    store_words_as_bytes<V, 48>(bytes, [&](int i) BQ_INLINE_LAMBDA {
        const auto n = i < 32 ? number(x + i, Index<32>{}) : number(x + 160 + i - 32, Index<16>{});
        const auto more =
            V::add_word(V::template times_word<kThirteenBy243>(n), V::min_word(n, V::splat_word(1)));
        return V::add_word(n, more);
    });
    memcpy(block.qs, bytes, sizeof block.qs);
    store_words_as_bytes<V, 16>(last, [&](int i) BQ_INLINE_LAMBDA {
        constexpr int kNext = V::kLanes < 16 ? V::kLanes : 0;
        return V::add_word(signs_of<V, halved, kNext>(x + 240 + i, twice), V::splat_word(1));
    });
    // Four trits to a byte, the fifth 0; four bytes at once, which do not reach 256.
    const auto trits = [&](int t) BQ_INLINE_LAMBDA { return load_as<uint32_t>(last + 4 * t); };
    const uint32_t numbers = trits(0) * 81 + trits(1) * 27 + trits(2) * 9 + trits(3) * 3;
    for (int i = 0; i < 4; ++i) block.qh[i] = kBytesOfTrits.v[numbers >> 8 * i & 255];
}

template <class V, bool halved>
BQ_INLINE void store_trits(const float* x, typename V::Float twice, BlockTQ2_0& block) {
    store_words_as_bytes<V, 64>(block.qs, [&](int i) BQ_INLINE_LAMBDA {
        const float* from = x + i / 32 * 128 + i % 32;
        auto sum = signs_of<V, halved>(from + 96, twice);
        for (int part = 2; part >= 0; --part)
            sum = V::add_word(V::template shift_left_word<2>(sum),
                              signs_of<V, halved>(from + 32 * part, twice));
        return V::add_word(sum, V::splat_word(1 + 4 + 16 + 64));  // 0, 1 or 2 in each place
    });
}

template <class V, class Block>
bool encode_ternary_blocks(const float* x, uint8_t* out, int64_t k) {
    constexpr int kBlock = 256;
    constexpr int kBlocks = 4;  // whose scales are found ahead: they take long chains of operations
    Watch<V> watch;
    Block* blocks = reinterpret_cast<Block*>(out);
    for (int64_t left = k / kBlock; left > 0; left -= kBlocks) {
        const int count = left < kBlocks ? static_cast<int>(left) : kBlocks;
        float scales[kBlocks];
        for (int b = 0; b < count; ++b) {
            const auto largest = V::from_bits(largest_bits<V, kBlock>(x + kBlock * b));
            watch.magnitudes(largest);
            scales[b] = V::max_across(largest);
        }
        for (int b = 0; b < count; ++b, ++blocks, x += kBlock) {
            blocks->d = V::half_of(scales[b]);
            // Elements count as 0 if the inverse is infinite.
            const TwiceInverse twice = twice_inverse(scales[b]);
            if (twice.halved)
                store_trits<V, true>(x, V::splat(twice.value), *blocks);
            else
                store_trits<V, false>(x, V::splat(twice.value < __builtin_inff() ? twice.value : 0), *blocks);
        }
    }
    return watch.all_finite();
}

template <class V>
bool encode_q1_0(const float* x, uint8_t* out, int64_t k) {
    Watch<V> watch;
    BlockQ1_0* blocks = reinterpret_cast<BlockQ1_0*>(out);
    for (int64_t n = 0; n < k / 128; n += V::kLanes) {
        const int64_t left = k / 128 - n, count = left < V::kLanes ? left : V::kLanes;
        const float* runs[V::kLanes];
        point_at_runs<V>(x + 128 * n, 128, count, runs);
        // Signs first: memory is read in order.
        for (int64_t b = 0; b < count; ++b)
            for (int word = 0; word < 4; ++word) {
                const float* from = runs[b] + 32 * word;
                const uint32_t bits = bits_of_32<V>([&](int p) BQ_INLINE_LAMBDA {
                    return V::less_equal(V::splat(0), V::load(from + p * V::kLanes));
                });
                for (int byte = 0; byte < 4; ++byte)
                    blocks[n + b].qs[4 * word + byte] = static_cast<uint8_t>(bits >> 8 * byte);
            }
        auto magnitudes = V::splat(0);
        for (int at = 0; at < 128; at += 4 * V::kTile) {
            Columns<V, 4 * V::kTile> tiles;
            // Memory would have nothing to do meanwhile. With fewer lanes, asking ahead gains nothing.
            if constexpr (V::kLanes == 16) {
                constexpr int kFloats = 4 * V::kTile * V::kLanes, kAhead = 4096;
                const float* ahead = x + 128 * n + at * V::kLanes + kAhead;
                prefetch<4 * kFloats>(reinterpret_cast<const uint8_t*>(ahead));
            }
            for (int tile = 0; tile < 4; ++tile)
                V::transpose_tile(runs, at + tile * V::kTile, tiles.values + tile * V::kTile * V::kLanes);
            for (int i = 0; i < 4 * V::kTile; ++i)
                magnitudes = V::add(magnitudes, V::abs(column<V>(tiles, i)));
        }
        watch.magnitudes(magnitudes);  // of NaNs and infinities neither are sums finite
        uint16_t scales[V::kLanes];
        store_scales_f16<V>(scales, V::div(magnitudes, V::splat(128)));
        for (int64_t b = 0; b < count; ++b) blocks[n + b].d = scales[b];
    }
    return watch.all_finite();
}

template <class V>
bool encode_q2_0(const float* x, uint8_t* out, int64_t k) {
    BlockQ2_0* blocks = reinterpret_cast<BlockQ2_0*>(out);
    Watch<V> watch;
    float twice[kStep<V>];
    uint16_t d[kStep<V>];
    uint64_t halved = 0;  // blocks of the step: see TwiceInverse
    static_assert(kStep<V> <= 64);
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const auto magnitude = magnitudes_of_runs<V, 64>(from);
        watch.magnitudes(magnitude);
        V::store_halves(d + at, magnitude);
        const auto inverse = inverse_or_zero<V>(magnitude), more = V::add(inverse, inverse);
        const auto infinity = V::splat(__builtin_inff());
        const auto is_halved = V::but_not(V::less(inverse, infinity), V::less(more, infinity));
        V::store(twice + at, V::select(is_halved, inverse, more));
        if (at == 0) halved = 0;
        halved |= static_cast<uint64_t>(V::mask_bits(is_halved)) << at;
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        constexpr int kWords = 2 * V::kLanes;
        // A scale too small for its inverse to be finite makes every element -1.
        const auto store = [&](auto is_halved) BQ_INLINE_LAMBDA {
            typename V::Int signs[64 / kWords];
            for (int i = 0; i < 64 / kWords; ++i)
                signs[i] =
                    signs_of<V, decltype(is_halved)::value != 0>(from + i * kWords, V::splat(twice[at]));
            V::store_quads(blocks[b].qs, signs);
        };
        blocks[b].d = d[at];
        if (halved >> at & 1)
            store(Index<1>{});
        else
            store(Index<0>{});
    };
    each_step<V, 64>(x, k / 64, prepare, encode);
    return watch.all_finite();
}

// The sign of a value in the place that it has in a code.
template <class V>
BQ_INLINE typename V::Int sign_of_code(typename V::Float v) {
    return V::bit_and(V::template shift_right<28>(V::bits_of(v)), V::splat_int(8));
}

// The nearest of the doubled E2M1 values 0 1 2 3 4 6 8 12 times the scale, for any magnitude and scale: the
// first of the values at the smallest distance, as it rounds.
template <class V>
BQ_INLINE typename V::Int nearest_code_by_distance(typename V::Float v, float scale) {
    const auto magnitude = V::abs(v);
    auto code = V::splat_int(0);
    auto distance = magnitude;
    for (int i = 1; i < 8; ++i) {
        const auto value = V::splat(static_cast<float>(fp4::kDoubled[i]) * scale);
        const auto error = V::abs(V::sub(value, magnitude));
        const auto nearer = V::less(error, distance);
        code = V::select(nearer, V::bit_or(sign_of_code<V>(v), V::splat_int(i)), code);
        distance = V::select(nearer, error, distance);
    }
    return code;
}

// As e8m0_for in microscaling.cpp. The float32 nearest to a logarithm just below p is p itself if the
// magnitude is 2^p (1 - j / 2^24) with j up to the half distance of the floats below p times 2^24 ln 2.
BQ_INLINE uint8_t e8m0_of(float largest) {
    if (!(largest > 0)) return 0;
    int shift = 0;
    if (largest < 0x1p-126f) {
        largest *= 0x1p24f;
        shift = 24;
    }
    const uint32_t bits = bits_as<uint32_t>(largest);
    int power = static_cast<int>(bits >> 23) - 127 - shift;
    const auto below_next = static_cast<int>(0x800000 - (bits & 0x7fffff));  // j
    if (below_next < 100) {
        const int above = power + 1;
        const int size =
            above > 0 ? above - 1 : -above;  // floats are as far apart as below this power of two
        int reach = 0;
        for (int at = 2; at <= size; at *= 2) reach = static_cast<int>(static_cast<float>(at) * 0.69314718f);
        power += below_next <= reach;
    }
    return static_cast<uint8_t>(power - 2 + 127);
}

// The nearest of the E2M1 values to magnitudes by their first bits: four steps of the first two bits of the
// mantissa are an octave. Entry 0 is for what is at most a quarter, 1 to 4 for what is up to a half, and so
// on.
constexpr Codes kNearestInOctaves({0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5,
                                   6, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7});
// The upper half of a float, of which the first two bits of the mantissa are to count in steps from the entry
// 0 of the table on: what is to be taken from it, if a quarter has the field `exponent`.
constexpr int first_step(int exponent) {
    return (exponent << 7) - 32;
}
// A lane's two codes, from the words of two values.
template <class V>
BQ_INLINE typename V::Int nearest_codes(typename V::Int values, typename V::Int first_steps) {
    const auto magnitudes = V::bit_and(values, V::splat_int(0x7fff7fff));
    const auto steps = V::template shift_right_word<5>(V::sub_word(magnitudes, first_steps));
    const auto codes = V::signed_lookup(kNearestInOctaves, steps, values);
    return V::dot_words(codes, V::splat_int(0x00100001));
}
// What is added to the bits of a float so that its upper half is that of a magnitude not below its own.
constexpr int kUpwards = 0xffff;

template <class V>
bool encode_mxfp4(const float* x, uint8_t* out, int64_t k) {
    Watch<V> watch;
    BlockMXFP4* blocks = reinterpret_cast<BlockMXFP4*>(out);
    uint8_t stored[kStep<V>];
    int32_t first_steps[kStep<V>];
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const auto magnitudes = magnitudes_of_runs<V, 32>(from);
        watch.magnitudes(magnitudes);
        const auto bits = V::bits_of(magnitudes);
        // All but the smallest numbers and those just below a power of two.
        const auto e = V::sub(V::template shift_right<23>(bits), V::splat_int(2));
        const auto mantissa = V::bit_and(bits, V::splat_int(0x7fffff));
        // A magnitude above a bound of the table by less than its upper half tells is one step on already.
        const auto first = V::add(V::template shift_left<7>(e), V::splat_int(first_step(-2) + 1));
        V::store_bytes(stored + at, e);
        V::store_int(first_steps + at, V::bit_or(first, V::template shift_left<16>(first)));
        if (V::any(V::either(V::less(V::splat_int(0x7fffff - 100), mantissa),
                             V::less(bits, V::splat_int(0x800000))))) {
            float largest[V::kLanes];
            V::store(largest, magnitudes);
            for (int l = 0; l < V::kLanes; ++l) {
                stored[at + l] = e8m0_of(largest[l]);
                first_steps[at + l] = (first_step(stored[at + l] - 2) + 1) * 0x10001;
            }
        }
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        constexpr int kHalf = 16 / V::kLanes;
        const uint8_t e = stored[at];
        blocks[b].e = e;
        if (e < 3 || e >= 253) {  // a quarter of the scale is subnormal, or the largest values overflow
            typename V::Int codes[2 * kHalf];
            for (int p = 0; p < 2 * kHalf; ++p)
                codes[p] = nearest_code_by_distance<V>(V::load(from + p * V::kLanes), fp4::half_of_e8m0(e));
            return store_nibbles_32<V>(codes, blocks[b].qs);
        }
        typename V::Int bytes[kHalf];
        for (int p = 0; p < kHalf; ++p) {
            const auto upwards = [&](int i) BQ_INLINE_LAMBDA {
                return V::add(V::bits_of(V::load(from + i * V::kLanes)), V::splat_int(kUpwards));
            };
            bytes[p] = nearest_codes<V>(V::pair_upper(upwards(p), upwards(p + kHalf)),
                                        V::splat_int(first_steps[at]));
        }
        V::store_bytes_of_16(blocks[b].qs, bytes);
    };
    each_step<V, 32>(x, k / 32, prepare, encode);
    return watch.all_finite();
}

// As ue4m3_of in microscaling.cpp, of numbers >= 0.
constexpr int kLargestUe4m3 = 0x7e;
template <class V>
BQ_INLINE typename V::Int ue4m3_of(typename V::Float scale) {
    const auto steps = V::truncate_to_int(V::add(V::mul(scale, V::splat(512)), V::splat(0.5f)));
    const auto carried = V::template shift_right<20>(V::add(V::bits_of(scale), V::splat_int(0x80000)));
    const auto code = V::sub(carried, V::splat_int((127 - 7) * 8));
    const auto largest = V::splat_int(kLargestUe4m3);
    const auto normal = V::select(V::less(code, V::splat_int(0x78)), code, largest);
    return V::select(V::less(scale, V::splat(0x1p-6f)), V::min(steps, V::splat_int(7)),
                     V::select(V::less(scale, V::splat(256)), normal, largest));
}

// Bounds between the values of NVFP4, times a scale, have seven bits at most and so are upper halves of
// floats; as magnitudes are, once rounded up, which leaves them on their side of each bound. Such numbers
// differ by a 256th at least, which is more than a quotient that is slightly too small errs by: these are the
// inverses of the scales for such quotients, twice as large as the values are.
struct InversesOfUe4m3 {
    float v[128];
    constexpr InversesOfUe4m3() : v() {
        for (uint8_t code = 1; code < kLargestUe4m3; ++code)
            v[code] = (1 - 0x1p-12f) / fp4::half_of_ue4m3(code);
    }
};
constexpr InversesOfUe4m3 kInversesOfUe4m3;

template <class V>
bool encode_nvfp4(const float* x, uint8_t* out, int64_t k) {
    Watch<V> watch;
    constexpr int kRuns = 4;
    BlockNVFP4* blocks = reinterpret_cast<BlockNVFP4*>(out);
    uint8_t stored[kStep<V>];
    uint64_t unusual = 0;  // runs of the step
    static_assert(kStep<V> <= 64);
    const auto prepare = [&](const float* from, int at) BQ_INLINE_LAMBDA {
        const auto magnitudes = magnitudes_of_runs<V, 16>(from);
        watch.magnitudes(magnitudes);
        const auto code = ue4m3_of<V>(V::div(magnitudes, V::splat(6)));
        V::store_bytes(stored + at, code);
        // Elements are perhaps too large for scales as small or as large as these.
        const auto ends =
            V::either(V::equal(code, V::splat_int(0)), V::equal(code, V::splat_int(kLargestUe4m3)));
        if (at == 0) unusual = 0;
        unusual |= static_cast<uint64_t>(V::mask_bits(ends)) << at;
    };
    const auto encode = [&](const float* from, int64_t r, int at) BQ_INLINE_LAMBDA {
        BlockNVFP4& b = blocks[r / kRuns];
        memcpy(b.scales, stored + at, kRuns);
        if (unusual >> at & 15) {
            for (int run = 0; run < kRuns; ++run, from += 16) {
                const float scale = fp4::half_of_ue4m3(stored[at + run]);
                uint8_t own[16];
                fill_levels<V, 16>(own, [&](int i) BQ_INLINE_LAMBDA {
                    return nearest_code_by_distance<V>(V::load(from + i), scale);
                });
                // Elements i and i + 8 to byte i.
                const auto low = load_as<uint64_t>(own), high = load_as<uint64_t>(own + 8);
                const uint64_t bytes = low | high << 4;
                memcpy(b.qs + run * 8, &bytes, 8);
            }
            return;
        }
        const auto quotients = [&](int run, int i) BQ_INLINE_LAMBDA {
            const auto bits = V::bits_of(V::load(from + 16 * run + i));
            const auto upwards = V::bit_and(V::add(bits, V::splat_int(kUpwards)), V::splat_int(~kUpwards));
            return V::bits_of(V::mul(V::from_bits(upwards), V::splat(kInversesOfUe4m3.v[stored[at + run]])));
        };
        const auto first_steps = V::splat_int(first_step(126) * 0x10001);  // the scale is half the real one
        for (int run = 0; run < kRuns; run += 2) {
            typename V::Int bytes[16 / V::kLanes];
            if constexpr (V::kLanes == 16) {
                bytes[0] = nearest_codes<V>(V::pair_upper_of_eights(quotients(run, 0), quotients(run + 1, 0)),
                                            first_steps);
            } else {
                constexpr int kParts = 8 / V::kLanes;
                for (int p = 0; p < 2 * kParts; ++p) {
                    const int own = run + p / kParts, i = p % kParts * V::kLanes;
                    bytes[p] = nearest_codes<V>(V::pair_upper(quotients(own, i), quotients(own, i + 8)),
                                                first_steps);
                }
            }
            V::store_bytes_of_16(b.qs + run * 8, bytes);
        }
    };
    each_step<V, 16, kRuns>(x, k / 16, prepare, encode);
    return watch.all_finite();
}

}  // namespace
}  // namespace bq
