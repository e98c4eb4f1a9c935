// The searches of search.hpp in lanes: one run per lane, every float operation in the same order, so that
// each lane gets the scalar bits. Branches are masks: what a lane has not chosen is computed and dropped.
//
// Where a level's value is known to stay within 2^22, it is rounded and clamped as a float (round_small);
// where sums may have overflowed, through the bits that round_to_int defines for every float.
#pragma once

#include "encode/walks.hpp"
#include "simd/lanes.hpp"

namespace bq {
namespace {

using search::AffineWalk;

// n elements of kLanes runs: element i of run l at i * kLanes + l.
template <class S, int n>
struct Columns {
    alignas(64) float values[n * S::kLanes];
};

template <class S, int n>
BQ_INLINE typename S::Float column(const Columns<S, n>& c, int i) {
    return S::load(c.values + i * S::kLanes);
}

// runs[l] points at n floats.
template <class S, int n>
BQ_INLINE void load_columns(const float* const* runs, Columns<S, n>& out) {
    for (int at = 0; at < n; at += S::kTile) S::transpose_tile(runs, at, out.values + at * S::kLanes);
}

// Pointers to `count` runs that are `stride` floats apart; the lanes beyond repeat the last.
template <class S>
BQ_INLINE void point_at_runs(const float* first, int64_t stride, int64_t count, const float** runs) {
    for (int l = 0; l < S::kLanes; ++l) runs[l] = first + stride * (l < count ? l : count - 1);
}

template <class S, int n>
BQ_INLINE void load_runs(const float* x, int64_t stride, int64_t count, Columns<S, n>& out) {
    const float* runs[S::kLanes];
    point_at_runs<S>(x, stride, count, runs);
    load_columns<S>(runs, out);
}

// The element of largest magnitude (the first of equals), with its sign.
template <class S, int n>
BQ_INLINE typename S::Float peak_of(const Columns<S, n>& x) {
    auto peak = S::splat(0), magnitude = peak;
    for (int i = 0; i < n; ++i) {
        const auto v = column<S>(x, i), a = S::abs(v);
        const auto larger = S::less(magnitude, a);
        peak = S::select(larger, v, peak);
        magnitude = S::select(larger, a, magnitude);
    }
    return peak;
}

template <class S, int n>
BQ_INLINE typename S::Float sum_of(const Columns<S, n>& x) {
    auto sum = S::splat(0);
    for (int i = 0; i < n; ++i) sum = S::add(sum, column<S>(x, i));
    return sum;
}

template <class S, int n>
BQ_INLINE typename S::Float sum_of_squares(const Columns<S, n>& x) {
    auto sum = S::splat(0);
    for (int i = 0; i < n; ++i) {
        const auto v = column<S>(x, i);
        sum = S::add(sum, S::mul(v, v));
    }
    return sum;
}

// weights[i] = importance[i] * sqrt(mean_square + x[i]^2); weights holds the importance before.
template <class S, int n>
BQ_INLINE void importance_weights(const Columns<S, n>& x, typename S::Float mean_square,
                                  Columns<S, n>& weights) {
    for (int i = 0; i < n; ++i) {
        const auto v = column<S>(x, i);
        const auto root = S::sqrt(S::add(mean_square, S::mul(v, v)));
        S::store(weights.values + i * S::kLanes, S::mul(column<S>(weights, i), root));
    }
}

// What a search over a run found. The levels of an element follow from inverse (and low).
template <class S>
struct SymmetricScale {
    // level = clamp(round(inverse * x), -limit, limit - 1), stored as level + limit; but 0 is stored for a
    // run that counts as zero, whose inverse is given as 0.
    typename S::Float scale, inverse;
    typename S::Mask is_zero;
};
template <class S>
struct AffineScale {
    // level = clamp(round(inverse * (x - low)), 0, top), clamped before rounding too if the walk says so
    typename S::Float scale, minimum, inverse, low;
};

template <class S>
BQ_INLINE typename S::Float symmetric_level(typename S::Float value, int limit, bool finite) {
    const float low = static_cast<float>(-limit), high = static_cast<float>(limit - 1);
    if (finite) return clamp<S>(round_small<S>(value), low, high);
    return S::to_float(clamp<S>(round_to_int<S>(value), -limit, limit - 1));
}

// search::symmetric_scale. weights is nullptr for x^2. finite: x is, so that with the peak at -limit all
// levels are small.
template <class S, int n>
BQ_INLINE SymmetricScale<S> symmetric_scale(const Columns<S, n>& x, const Columns<S, n>* weights, int limit,
                                            bool finite) {
    using Float = typename S::Float;
    constexpr int kAtOnce = 3;  // attempts that share the loads of a pass over the run
    static_assert((search::kSymmetricAttempts - 1) % kAtOnce == 0);
    const Float peak = peak_of<S>(x), zero = S::splat(0);
    const auto is_zero = S::less(S::abs(peak), S::splat(search::kZeroRun));

    Float scale = zero, gain = zero, chosen = zero;
    const auto fit = [&](int first, auto count) BQ_INLINE_LAMBDA {
        constexpr int kCount = decltype(count)::value;
        Float inverse[kCount], x_level[kCount], level_level[kCount];
        unroll<kCount>([&](auto a) BQ_INLINE_LAMBDA {
            const auto tenths = static_cast<float>(search::symmetric_tenths(first + a));
            inverse[a] = S::div(S::splat(-(static_cast<float>(limit) + 0.1f * tenths)), peak);
            x_level[a] = level_level[a] = zero;
        });
        for (int i = 0; i < n; ++i) {
            const Float v = column<S>(x, i);
            const Float w = weights ? column<S>(*weights, i) : S::mul(v, v);
            const Float wx = S::mul(w, v);
            unroll<kCount>([&](auto a) BQ_INLINE_LAMBDA {
                const Float level = symmetric_level<S>(S::mul(inverse[a], v), limit, finite);
                x_level[a] = S::add(x_level[a], S::mul(wx, level));
                level_level[a] = S::add(level_level[a], S::mul(S::mul(w, level), level));
            });
        }
        unroll<kCount>([&](auto a) BQ_INLINE_LAMBDA {
            const Float ratio = S::div(x_level[a], level_level[a]);
            if (kCount == 1) {  // attempt 0
                const auto none = S::equal(level_level[a], zero);
                scale = S::select(none, zero, ratio);
                gain = S::mul(scale, x_level[a]);
                chosen = inverse[a];
            } else {
                const auto better =
                    S::both(S::less(zero, level_level[a]),
                            S::less(S::mul(gain, level_level[a]), S::mul(x_level[a], x_level[a])));
                scale = S::select(better, ratio, scale);
                gain = S::select(better, S::mul(ratio, x_level[a]), gain);
                chosen = S::select(better, inverse[a], chosen);
            }
        });
    };
    fit(0, Index<1>{});
    for (int first = 1; first < search::kSymmetricAttempts; first += kAtOnce) fit(first, Index<kAtOnce>{});
    return {S::select(is_zero, zero, scale), S::select(is_zero, zero, chosen), is_zero};
}

// The state that search::symmetric_scale_by_descent starts from, with the share that each element has in the
// sums.
template <class S, int n>
struct Descent {
    Columns<S, n> level, share_xl, share_ll;
    typename S::Float x_level, level_level;
};

template <class S, int n>
BQ_INLINE void start_descent(const Columns<S, n>& x, typename S::Float inverse, int limit, Descent<S, n>& d) {
    auto x_level = S::splat(0), level_level = x_level;
    for (int i = 0; i < n; ++i) {
        const auto v = column<S>(x, i), w = S::mul(v, v);
        const auto level = symmetric_level<S>(S::mul(inverse, v), limit, true);
        const auto share_xl = S::mul(S::mul(w, v), level), share_ll = S::mul(S::mul(w, level), level);
        S::store(d.level.values + i * S::kLanes, level);
        S::store(d.share_xl.values + i * S::kLanes, share_xl);
        S::store(d.share_ll.values + i * S::kLanes, share_ll);
        x_level = S::add(x_level, share_xl);
        level_level = S::add(level_level, share_ll);
    }
    d.x_level = x_level;
    d.level_level = level_level;
}

template <class S, int n>
BQ_INLINE typename S::Float scale_of(const Descent<S, n>& d) {
    const auto zero = S::splat(0);
    return S::select(S::less(zero, d.level_level), S::div(d.x_level, d.level_level), zero);
}

// Most runs stay where the descent starts, which can be seen without moving: then settled is set, and scale
// and inverse are the result. Where it is not set, the run has to be descended.
template <class S>
struct SettledScale {
    typename S::Float scale, inverse;
    typename S::Mask settled;
};

template <class S, int n>
BQ_INLINE SettledScale<S> try_start_of_descent(const Columns<S, n>& x, int limit) {
    using Float = typename S::Float;
    const Float peak = peak_of<S>(x), zero = S::splat(0), half = S::splat(0.5f);
    const auto is_zero = S::less(S::abs(peak), S::splat(search::kZeroRun));
    const Float inverse = S::div(S::splat(-static_cast<float>(limit)), peak);
    Descent<S, n> d;
    start_descent<S>(x, inverse, limit, d);
    // No element may want another level, as seen from the others.
    auto settled = S::equal(zero, zero);
    Float least = S::splat(__builtin_inff()), most = negative<S>(least);
    for (int i = 0; i < n; ++i) {
        const Float others_xl = S::sub(d.x_level, column<S>(d.share_xl, i));
        const Float others_ll = S::sub(d.level_level, column<S>(d.share_ll, i));
        const Float value = S::div(S::mul(column<S>(x, i), others_ll), others_xl);
        const Float wanted = clamp<S>(value, static_cast<float>(-limit), static_cast<float>(limit - 1));
        const Float distance = S::abs(S::sub(wanted, column<S>(d.level, i)));
        settled = S::both(settled, S::less(distance, half));
        least = S::min(others_xl, least);
        most = S::max(others_xl, most);
    }
    // With a positive peak all levels have the other sign than their elements, and nothing moves. Else no
    // value may have come near 2^22, where rounding would wrap.
    const Float largest = S::mul(S::mul(S::abs(peak), d.level_level), S::splat(0x1p-20f));
    settled = S::both(settled, S::less(largest, least));
    settled = S::either(settled, S::less_equal(most, zero));
    return {S::select(is_zero, zero, scale_of<S>(d)), S::select(is_zero, zero, inverse),
            S::either(settled, is_zero)};
}

// One element of one round: the level that the others' sums want, if it improves the whole. Gives back where
// it did.
template <class S, int n>
BQ_INLINE typename S::Mask descend_element(const Columns<S, n>& x, int i, int limit, Descent<S, n>& d,
                                           typename S::Float& x_level, typename S::Float& level_level) {
    const auto zero = S::splat(0);
    const auto v = column<S>(x, i), w = S::mul(v, v);
    const auto old = column<S>(d.level, i), old_xl = column<S>(d.share_xl, i);
    const auto old_ll = column<S>(d.share_ll, i);
    const auto others_xl = S::sub(x_level, old_xl), others_ll = S::sub(level_level, old_ll);
    const auto value = S::div(S::mul(v, others_ll), others_xl);
    const auto wanted = symmetric_level<S>(value, limit, false);
    const auto wanted_xl = S::mul(S::mul(w, v), wanted), wanted_ll = S::mul(S::mul(w, wanted), wanted);
    const auto moved_xl = S::add(others_xl, wanted_xl), moved_ll = S::add(others_ll, wanted_ll);
    auto better = S::both(S::less(zero, others_xl), S::less(zero, moved_ll));
    better = S::but_not(better, S::equal(wanted, old));
    better = S::both(better, S::less(S::mul(S::mul(x_level, x_level), moved_ll),
                                     S::mul(S::mul(moved_xl, moved_xl), level_level)));
    S::store(d.level.values + i * S::kLanes, S::select(better, wanted, old));
    S::store(d.share_xl.values + i * S::kLanes, S::select(better, wanted_xl, old_xl));
    S::store(d.share_ll.values + i * S::kLanes, S::select(better, wanted_ll, old_ll));
    x_level = S::select(better, moved_xl, x_level);
    level_level = S::select(better, moved_ll, level_level);
    return better;
}

// search::symmetric_scale_by_descent, of runs that do not count as zero, for some groups of them side by
// side: each step waits for the one before. levels is nullptr, or receives the integers that are stored:
// element i of run l of a group at i * kLanes + l.
template <class S, int n, int groups>
BQ_INLINE void symmetric_scale_by_descent(const Columns<S, n> (&x)[groups], int limit, float* scales,
                                          uint8_t* levels) {
    Descent<S, n> d[groups];
    typename S::Float x_level[groups], level_level[groups];
    for (int g = 0; g < groups; ++g) {
        start_descent<S>(x[g], S::div(S::splat(-static_cast<float>(limit)), peak_of<S>(x[g])), limit, d[g]);
        x_level[g] = d[g].x_level;
        level_level[g] = d[g].level_level;
    }
    // A run that did not change in a round would not in the next: no need to leave it out of that.
    auto changed = S::equal(S::splat(0), S::splat(0));
    for (int round = 0; round < 5 && S::any(changed); ++round) {
        changed = S::less(S::splat(0), S::splat(0));
        for (int i = 0; i < n; ++i)
            unroll<groups>([&](auto g) BQ_INLINE_LAMBDA {
                changed =
                    S::either(changed, descend_element<S>(x[g], i, limit, d[g], x_level[g], level_level[g]));
            });
    }
    for (int g = 0; g < groups; ++g) {
        d[g].x_level = x_level[g];
        d[g].level_level = level_level[g];
        S::store(scales + g * S::kLanes, scale_of<S>(d[g]));
        if (!levels) continue;
        const auto offset = S::splat(static_cast<float>(limit));
        for (int i = 0; i < n; ++i)
            S::store_bytes(levels + (g * n + i) * S::kLanes,
                           S::truncate_to_int(S::add(column<S>(d[g].level, i), offset)));
    }
}

// search::affine_scale, of finite x.
template <class S, int n>
BQ_INLINE AffineScale<S> affine_scale(const Columns<S, n>& x, const Columns<S, n>& weights,
                                      const AffineWalk& walk) {
    using Float = typename S::Float;
    using Mask = typename S::Mask;
    const Float zero = S::splat(0), one = S::splat(1);
    const auto top = static_cast<float>(walk.top);
    Float low = column<S>(x, 0), high = low;
    Float sum_w = column<S>(weights, 0), sum_x = S::mul(sum_w, low);
    for (int i = 1; i < n; ++i) {
        const Float v = column<S>(x, i), w = column<S>(weights, i);
        low = S::min(v, low);
        high = S::max(v, high);
        sum_w = S::add(sum_w, w);
        sum_x = S::add(sum_x, S::mul(w, v));
    }
    const Float lowest = low;
    low = S::select(S::less(zero, low), zero, low);
    const Mask constant = S::less_equal(high, low);

    Columns<S, n> level;
    // Clamped first: as floats. The order of min and max makes 0 of a NaN, as the scalar comparison does.
    const auto set_levels_clamped = [&](Float inverse) BQ_INLINE_LAMBDA {
        for (int i = 0; i < n; ++i) {
            const Float value = S::mul(inverse, S::sub(column<S>(x, i), low));
            S::store(level.values + i * S::kLanes, round_small<S>(clamp<S>(value, 0, top)));
        }
    };
    const auto set_levels_wrapping = [&](Float inverse) BQ_INLINE_LAMBDA {
        for (int i = 0; i < n; ++i) {
            const Float value = S::mul(inverse, S::sub(column<S>(x, i), low));
            S::store(level.values + i * S::kLanes,
                     S::to_float(clamp<S>(round_to_int<S>(value), 0, walk.top)));
        }
    };
    const auto error_of = [&](Float scale, Float offset) BQ_INLINE_LAMBDA {
        Float total = zero;
        for (int i = 0; i < n; ++i) {
            const Float line = S::add(S::mul(scale, column<S>(level, i)), offset);
            const Float difference = S::sub(line, column<S>(x, i));
            const Float size = walk.absolute ? S::abs(difference) : S::mul(difference, difference);
            total = S::add(total, S::mul(column<S>(weights, i), size));
        }
        return total;
    };

    // Of a range too small for a finite inverse, all levels are 0, as they are for an inverse of 0.
    const Float first_inverse = S::div(S::splat(top), S::sub(high, low));
    const Mask usable = S::less(first_inverse, S::splat(__builtin_inff()));
    Float scale = S::div(one, first_inverse);
    Float chosen_inverse = S::select(S::but_not(usable, constant), first_inverse, zero);
    Float chosen_low = low;
    set_levels_clamped(chosen_inverse);
    Float best_error = error_of(scale, low);

    for (int s = 0; s <= walk.last; ++s) {
        const float levels = walk.first + walk.step * static_cast<float>(s) + top;
        const Float range = S::sub(high, low);
        const Float inverse = S::div(S::splat(levels), range);
        if (walk.clamp_first) {
            set_levels_clamped(inverse);
        } else {
            // While the run's ends stay within 2^22 all elements do, and clamping may come first.
            const Float limit = S::splat(0x1p22f);
            const Float at_lowest = S::abs(S::mul(inverse, S::sub(lowest, low)));
            const Float at_high = S::abs(S::mul(inverse, range));
            const Mask small = S::both(S::less(at_lowest, limit), S::less(at_high, limit));
            if (S::any(S::negate(S::either(small, constant)))) {
                set_levels_wrapping(inverse);
            } else {
                set_levels_clamped(inverse);
            }
        }
        Float sum_l = zero, sum_ll = zero, sum_xl = zero;
        for (int i = 0; i < n; ++i) {
            const Float l = column<S>(level, i);
            const Float weighted = S::mul(column<S>(weights, i), l);
            sum_l = S::add(sum_l, weighted);
            sum_ll = S::add(sum_ll, S::mul(weighted, l));
            sum_xl = S::add(sum_xl, S::mul(weighted, column<S>(x, i)));
        }
        const Float determinant = S::sub(S::mul(sum_w, sum_ll), S::mul(sum_l, sum_l));
        Float trial_scale = S::div(S::sub(S::mul(sum_w, sum_xl), S::mul(sum_x, sum_l)), determinant);
        Float trial_low = S::div(S::sub(S::mul(sum_ll, sum_x), S::mul(sum_l, sum_xl)), determinant);
        const Mask above = S::less(zero, trial_low);
        trial_low = S::select(above, zero, trial_low);
        trial_scale = S::select(above, S::div(sum_xl, sum_ll), trial_scale);
        const Float error = error_of(trial_scale, trial_low);
        const Mask better = S::both(S::less(zero, determinant), S::less(error, best_error));
        best_error = S::select(better, error, best_error);
        scale = S::select(better, trial_scale, scale);
        chosen_inverse = S::select(better, inverse, chosen_inverse);
        chosen_low = S::select(better, low, chosen_low);
        low = S::select(better, trial_low, low);
    }
    // A constant run has scale 0 and the lower end it began with.
    const Float first_low = S::select(S::less(zero, lowest), zero, lowest);
    return {S::select(constant, zero, scale), negative<S>(S::select(constant, first_low, low)),
            S::select(constant, zero, chosen_inverse), S::select(constant, zero, chosen_low)};
}

// levels[i] = level_of(i), a vector of them at a time, for n elements in element order.
template <class V, int n, class LevelOf>
BQ_INLINE void fill_levels(uint8_t* levels, LevelOf level_of) {
    for (int at = 0; at < n; at += 16) {
        typename V::Int v[16 / V::kLanes];
        for (int part = 0; part < 16 / V::kLanes; ++part) v[part] = level_of(at + part * V::kLanes);
        V::store_bytes_of_16(levels + at, v);
    }
}

// The integers of a run for the inverse that a search chose.
template <class V, int n>
BQ_INLINE void keep_symmetric(const float* x, float inverse, int limit, uint8_t* levels) {
    fill_levels<V, n>(levels, [&](int i) BQ_INLINE_LAMBDA {
        const auto value = V::mul(V::splat(inverse), V::load(x + i));
        const auto level = clamp<V>(round_to_int<V>(value), -limit, limit - 1);
        return inverse != 0 ? V::add(level, V::splat_int(limit)) : V::splat_int(0);
    });
}
template <class V, int n>
BQ_INLINE void keep_affine(const float* x, float inverse, float low, const AffineWalk& walk,
                           uint8_t* levels) {
    fill_levels<V, n>(levels, [&](int i) BQ_INLINE_LAMBDA {
        auto value = V::mul(V::splat(inverse), V::sub(V::load(x + i), V::splat(low)));
        if (walk.clamp_first) value = clamp<V>(value, 0.0f, static_cast<float>(walk.top));
        return clamp<V>(round_to_int<V>(value), 0, walk.top);
    });
}

}  // namespace
}  // namespace bq
