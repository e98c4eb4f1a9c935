// The encoders of ternary.cpp, low_bit.cpp and microscaling.cpp: one pass, in element order but for the sums
// of Q1_0, which run one block per lane.
#pragma once

#include "encode/lanes_extremes.hpp"
#include "formats/low_bit.hpp"
#include "formats/microscaling.hpp"
#include "formats/ternary.hpp"

namespace bq {
namespace {

// 0, 1 or 2.
template <class V>
BQ_INLINE typename V::Int trit_of(typename V::Float value) {
    const auto half = V::splat(0.5f), minus_half = V::splat(-0.5f);
    const auto at_least_zero = V::increment(V::less(minus_half, value), V::splat_int(0));
    return V::increment(V::less_equal(half, value), at_least_zero);
}

// The bytes of an element of a TQ1_0 block whose five trits, `stride` elements apart, make the number with
// those digits to base 3: as a fraction of 3^5, in 256ths, rounded up. (13 n + 242) / 243 rounds 13 n / 243
// up, and the product is that quotient.
constexpr int kQuotientBy243 = 4316;
constexpr bool quotient_is_exact() {
    for (int number = 0; number < 243; ++number)
        if (number + ((13 * number + 242) * kQuotientBy243 >> 20) != (256 * number + 242) / 243) return false;
    return true;
}
static_assert(quotient_is_exact());

template <class V, int stride>
BQ_INLINE typename V::Int five_trits(const float* x, typename V::Float inverse) {
    auto number = V::splat_int(0);
    for (int t = 0; t < 5; ++t) {
        const auto trit = trit_of<V>(V::mul(V::load(x + t * stride), inverse));
        number = V::add(V::add(number, V::template shift_left<1>(number)), trit);
    }
    const auto thirteen = V::mul(number, V::splat_int(13 * kQuotientBy243));
    return V::add(number, V::template shift_right<20>(V::add(thirteen, V::splat_int(242 * kQuotientBy243))));
}

template <class V>
void encode_tq1_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockTQ1_0* blocks = reinterpret_cast<BlockTQ1_0*>(out);
    for (int64_t n = 0; n < k / 256; ++n, x += 256) {
        const float scale = largest_magnitude<V, 256>(x);
        const auto inverse = V::splat(finite_inverse(scale));
        blocks[n].d = V::half_of(scale);
        fill_levels<V, 32>(blocks[n].qs,
                           [&](int i) BQ_INLINE_LAMBDA { return five_trits<V, 32>(x + i, inverse); });
        fill_levels<V, 16>(blocks[n].qs + 32,
                           [&](int i) BQ_INLINE_LAMBDA { return five_trits<V, 16>(x + 160 + i, inverse); });
        uint8_t last[16];  // four trits to a byte, the fifth 0
        fill_levels<V, 16>(
            last, [&](int i) BQ_INLINE_LAMBDA { return trit_of<V>(V::mul(V::load(x + 240 + i), inverse)); });
        for (int i = 0; i < 4; ++i) {
            const int number = last[i] * 81 + last[i + 4] * 27 + last[i + 8] * 9 + last[i + 12] * 3;
            blocks[n].qh[i] = static_cast<uint8_t>(number + ((13 * number + 242) * kQuotientBy243 >> 20));
        }
    }
}

template <class V>
void encode_tq2_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockTQ2_0* blocks = reinterpret_cast<BlockTQ2_0*>(out);
    for (int64_t n = 0; n < k / 256; ++n, x += 256) {
        const float scale = largest_magnitude<V, 256>(x);
        const auto inverse = V::splat(finite_inverse(scale));
        blocks[n].d = V::half_of(scale);
        for (int half = 0; half < 2; ++half)
            fill_levels<V, 32>(blocks[n].qs + 32 * half, [&](int i) BQ_INLINE_LAMBDA {
                const float* from = x + 128 * half + i;
                const auto trit = [&](int part) BQ_INLINE_LAMBDA {
                    return trit_of<V>(V::mul(V::load(from + 32 * part), inverse));
                };
                const auto low = V::bit_or(trit(0), V::template shift_left<2>(trit(1)));
                const auto high = V::bit_or(trit(2), V::template shift_left<2>(trit(3)));
                return V::bit_or(low, V::template shift_left<4>(high));
            });
    }
}

template <class V>
void encode_q1_0(const float* x, uint8_t* out, int64_t k, const float*) {
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
            for (int tile = 0; tile < 4; ++tile)
                V::transpose_tile(runs, at + tile * V::kTile, tiles.values + tile * V::kTile * V::kLanes);
            for (int i = 0; i < 4 * V::kTile; ++i)
                magnitudes = V::add(magnitudes, V::abs(column<V>(tiles, i)));
        }
        uint16_t scales[V::kLanes];
        store_scales_f16<V>(scales, V::div(magnitudes, V::splat(128)));
        for (int64_t b = 0; b < count; ++b) blocks[n + b].d = scales[b];
    }
}

// Pairs of bits, one to a byte, to four in a byte each: of 64 levels sixteen bytes.
template <class V>
BQ_INLINE void store_pairs_of_64(const uint8_t* levels, uint8_t* qs) {
    typename V::Int bytes[16 / V::kLanes];
    for (int p = 0; p < 16 / V::kLanes; ++p) {
        const auto four = V::load_int(reinterpret_cast<const int32_t*>(levels + p * 4 * V::kLanes));
        const auto low = V::bit_or(four, V::template shift_right<6>(four));
        bytes[p] = V::bit_or(low, V::template shift_right<12>(low));
    }
    V::store_bytes_of_16(qs, bytes);
}

template <class V>
void encode_q2_0(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockQ2_0* blocks = reinterpret_cast<BlockQ2_0*>(out);
    float inverses[kStep<V>];
    uint16_t d[kStep<V>];
    uint8_t levels[64 * kStep<V>];  // packed after a step, when they have reached the cache
    const auto prepare = [&](const float* from, int count, int at) BQ_INLINE_LAMBDA {
        const auto scale = magnitude_of<V>(extremes_of_runs<V, 64>(from, count));
        V::store(inverses + at, inverse_or_zero<V>(scale));
        V::store_halves(d + at, scale);
    };
    const auto encode = [&](const float* from, int64_t, int at) BQ_INLINE_LAMBDA {
        // A scale too small for its inverse to be finite makes every element -1.
        const auto inverse = V::splat(inverses[at]);
        const auto offset = V::splat_int(inverses[at] < __builtin_inff() ? 1 : 0);
        fill_levels<V, 64>(levels + 64 * at, [&](int i) BQ_INLINE_LAMBDA {
            return V::add(round_half_away<V>(V::mul(V::load(from + i), inverse)), offset);
        });
    };
    for (int64_t left = k / 64; left > 0; left -= kStep<V>, x += 64 * kStep<V>, blocks += kStep<V>) {
        const int64_t count = left < kStep<V> ? left : kStep<V>;
        each_step<V, 64>(x, count, prepare, encode);
        for (int64_t b = 0; b < count; ++b) {
            blocks[b].d = d[b];
            store_pairs_of_64<V>(levels + 64 * b, blocks[b].qs);
        }
    }
}

// The sign of a value in the place that it has in a code.
template <class V>
BQ_INLINE typename V::Int sign_of_code(typename V::Float v) {
    return V::bit_and(V::template shift_right<28>(V::bits_of(v)), V::splat_int(8));
}

// The nearest of the doubled E2M1 values 0 1 2 3 4 6 8 12 times the scale, of two equally near the smaller,
// for magnitudes not far beyond the largest: the bounds between the values are exact, and so are the
// distances near them.
template <class V>
BQ_INLINE typename V::Int nearest_code(typename V::Float v, const typename V::Float (&bounds)[7]) {
    const auto magnitude = V::abs(v);
    auto code = V::splat_int(0);
    for (int i = 0; i < 7; ++i) code = V::increment(V::less(bounds[i], magnitude), code);
    return V::bit_or(code, V::select(V::less(bounds[0], magnitude), sign_of_code<V>(v), V::splat_int(0)));
}

// The same for any magnitude and scale: the first of the values at the smallest distance, as it rounds.
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

// The bounds of a step's runs: those of run `at` are `at` floats on.
template <class V>
struct Bounds {
    float values[7][kStep<V>];
};

template <class V>
BQ_INLINE void set_bounds(typename V::Float scale, Bounds<V>& bounds, int at) {
    constexpr float kBounds[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    for (int i = 0; i < 7; ++i) V::store(bounds.values[i] + at, V::mul(scale, V::splat(kBounds[i])));
}
template <class V>
BQ_INLINE void get_bounds(const Bounds<V>& all, int at, typename V::Float (&bounds)[7]) {
    for (int i = 0; i < 7; ++i) bounds[i] = V::splat(all.values[i][at]);
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

// The nearest code for a scale that is a power of two, by the first bits of the magnitude: e is the exponent
// field of an element that is the scale. Four steps of the first two bits of the mantissa, each up to its
// end, are an octave; the table starts above half the scale. Below it are 1 and, up to a quarter, 0.
constexpr int32_t kNearestInOctaves[16] = {1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7};
template <class V>
BQ_INLINE typename V::Int nearest_code_of_power(typename V::Float v, int e) {
    const auto magnitude = V::bits_of(V::abs(v));
    const auto steps = V::template shift_right<21>(V::add(magnitude, V::splat_int(0x1fffff)));
    const auto place = V::sub(steps, V::splat_int(4 * (e - 1) + 1));
    const auto code = V::lookup16(kNearestInOctaves, V::max(place, V::splat_int(0)));
    return V::select(V::less(place, V::splat_int(-4)), V::splat_int(0), V::bit_or(code, sign_of_code<V>(v)));
}

template <class V>
void encode_mxfp4(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockMXFP4* blocks = reinterpret_cast<BlockMXFP4*>(out);
    float magnitudes[kStep<V>];
    const auto prepare = [&](const float* from, int count, int at) BQ_INLINE_LAMBDA {
        V::store(magnitudes + at, magnitude_of<V>(extremes_of_runs<V, 32>(from, count)));
    };
    const auto encode = [&](const float* from, int64_t b, int at) BQ_INLINE_LAMBDA {
        const uint8_t e = e8m0_of(magnitudes[at]);
        typename V::Int codes[32 / V::kLanes];
        if (e < 3 || e >= 253) {  // a quarter of the scale is subnormal, or the largest values overflow
            for (int p = 0; p < 32 / V::kLanes; ++p)
                codes[p] = nearest_code_by_distance<V>(V::load(from + p * V::kLanes), fp4::half_of_e8m0(e));
        } else {
            for (int p = 0; p < 32 / V::kLanes; ++p)
                codes[p] = nearest_code_of_power<V>(V::load(from + p * V::kLanes), e);
        }
        blocks[b].e = e;
        store_nibbles_32<V>(codes, blocks[b].qs);
    };
    each_step<V, 32>(x, k / 32, prepare, encode);
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

template <class V>
void encode_nvfp4(const float* x, uint8_t* out, int64_t k, const float*) {
    BlockNVFP4* blocks = reinterpret_cast<BlockNVFP4*>(out);
    float run_scales[kStep<V>];
    uint8_t stored[kStep<V>];
    Bounds<V> bounds;
    const auto prepare = [&](const float* from, int count, int at) BQ_INLINE_LAMBDA {
        const auto magnitude = magnitude_of<V>(extremes_of_runs<V, 16>(from, count));
        const auto code = ue4m3_of<V>(V::div(magnitude, V::splat(6)));
        const auto scale = V::mul(V::from_bits(V::template shift_left<20>(code)), V::splat(0x1p119f));
        V::store(run_scales + at, scale);
        set_bounds<V>(scale, bounds, at);
        V::store_bytes(stored + at, code);
    };
    const auto encode = [&](const float* from, int64_t r, int at) BQ_INLINE_LAMBDA {
        BlockNVFP4& b = blocks[r / 4];
        uint8_t own[16];
        b.scales[r % 4] = stored[at];
        if (stored[at] == 0 || stored[at] == kLargestUe4m3) {  // perhaps too small
            fill_levels<V, 16>(own, [&](int i) BQ_INLINE_LAMBDA {
                return nearest_code_by_distance<V>(V::load(from + i), run_scales[at]);
            });
        } else {
            typename V::Float own_bounds[7];
            get_bounds<V>(bounds, at, own_bounds);
            fill_levels<V, 16>(
                own, [&](int i) BQ_INLINE_LAMBDA { return nearest_code<V>(V::load(from + i), own_bounds); });
        }
        // Elements i and i + 8 to byte i.
        const auto low = load_as<uint64_t>(own), high = load_as<uint64_t>(own + 8);
        const uint64_t bytes = low | high << 4;
        memcpy(b.qs + r % 4 * 8, &bytes, 8);
    };
    each_step<V, 16>(x, k / 16, prepare, encode);
}

}  // namespace
}  // namespace bq
