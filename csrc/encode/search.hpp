// The scale searches that the encoders share. The order of every floating point operation here decides bytes:
// it is ggml's, and must stay so (no reassociation, no fused multiply-add). Inputs are finite, but their
// products may overflow: infinities and NaNs travel through, and every conversion to an integer is defined
// for them.
#pragma once

#include <cmath>
#include <cstdint>

#include "encode/arithmetic.hpp"
#include "encode/walks.hpp"

namespace bq::search {

static inline float sum_of_squares(const float* x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return sum;
}

// weights[i] = importance[i] * sqrt(mean_square + x[i]^2): how much an error at i counts, given an imatrix.
static inline void importance_weights(const float* x, const float* importance, float mean_square, int n,
                                      float* weights) {
    for (int i = 0; i < n; ++i) weights[i] = importance[i] * std::sqrt(mean_square + x[i] * x[i]);
}

static inline float sum(const float* values, int n) {
    float total = 0;
    for (int i = 0; i < n; ++i) total += values[i];
    return total;
}

// The element of largest magnitude (the first of equals), with its sign.
static inline float peak_of(const float* x, int n) {
    float peak = 0;
    for (int i = 0; i < n; ++i)
        if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
    return peak;
}

// The weighted least-squares fit of scale * level to x is the ratio of these two sums.
struct Fit {
    float x_level = 0, level_level = 0;
    void add(float weight, float x, int level) {
        x_level += weight * x * as_float(level);
        level_level += weight * as_float(level) * as_float(level);
    }
};

// A scale for x ~ scale * level with levels in -limit .. limit-1: the peak is put at or near -limit in 19
// ways, the best weighted fit wins. Weights are x^2 when nullptr. levels[i] receives level + limit.
static inline float symmetric_scale(const float* x, const float* weights, int n, int limit, uint8_t* levels) {
    const float peak = peak_of(x, n);
    if (std::fabs(peak) < kZeroRun) {
        for (int i = 0; i < n; ++i) levels[i] = 0;
        return 0.0f;
    }
    const auto level_at = [&](float inverse, int i) {
        return clamp(round_to_int(inverse * x[i]), -limit, limit - 1);
    };
    float scale = 0, gain = 0, chosen = 0;
    for (int attempt = 0; attempt < kSymmetricAttempts; ++attempt) {
        const float inverse = -(as_float(limit) + 0.1f * as_float(symmetric_tenths(attempt))) / peak;
        Fit fit;
        for (int i = 0; i < n; ++i) fit.add(weights ? weights[i] : x[i] * x[i], x[i], level_at(inverse, i));
        if (attempt == 0) {
            scale = fit.level_level != 0 ? fit.x_level / fit.level_level : 0.0f;
        } else if (fit.level_level > 0 && fit.x_level * fit.x_level > gain * fit.level_level) {
            scale = fit.x_level / fit.level_level;
        } else {
            continue;
        }
        gain = scale * fit.x_level;
        chosen = inverse;
    }
    for (int i = 0; i < n; ++i) levels[i] = static_cast<uint8_t>(level_at(chosen, i) + limit);
    return scale;
}

// The same problem with weights x^2, solved by descent: from the peak at -limit, each level in turn moves to
// where the fit of the others wants it if that improves the whole, for at most five rounds.
static inline float symmetric_scale_by_descent(const float* x, int n, int limit, uint8_t* levels) {
    const float peak = peak_of(x, n);
    if (std::fabs(peak) < kZeroRun) {
        for (int i = 0; i < n; ++i) levels[i] = 0;
        return 0.0f;
    }
    const float inverse = -as_float(limit) / peak;
    int level[16];
    Fit fit;
    for (int i = 0; i < n; ++i) {
        level[i] = clamp(round_to_int(inverse * x[i]), -limit, limit - 1);
        fit.add(x[i] * x[i], x[i], level[i]);
    }
    bool changed = true;
    for (int round = 0; round < 5 && changed; ++round) {
        changed = false;
        for (int i = 0; i < n; ++i) {
            const float weight = x[i] * x[i];
            Fit moved;
            moved.x_level = fit.x_level - weight * x[i] * as_float(level[i]);
            if (!(moved.x_level > 0)) continue;
            moved.level_level = fit.level_level - weight * as_float(level[i]) * as_float(level[i]);
            const int wanted =
                clamp(round_to_int(x[i] * moved.level_level / moved.x_level), -limit, limit - 1);
            if (wanted == level[i]) continue;
            moved.add(weight, x[i], wanted);
            if (moved.level_level > 0 && moved.x_level * moved.x_level * fit.level_level >
                                             fit.x_level * fit.x_level * moved.level_level) {
                level[i] = wanted;
                fit = moved;
                changed = true;
            }
        }
    }
    for (int i = 0; i < n; ++i) levels[i] = static_cast<uint8_t>(level[i] + limit);
    return fit.level_level > 0 ? fit.x_level / fit.level_level : 0.0f;
}

// A scale and a minimum >= 0 for x ~ scale * level - minimum, levels in 0 .. walk.top, n <= 32: the weighted
// least-squares line through each attempt's levels, the smallest error wins.
static inline float affine_scale(const float* x, const float* weights, int n, const AffineWalk& walk,
                                 uint8_t* levels, float* minimum) {
    float low = x[0], high = x[0];
    float sum_w = weights[0];
    float sum_x = sum_w * x[0];
    for (int i = 1; i < n; ++i) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    if (low > 0) low = 0;
    if (high <= low) {
        for (int i = 0; i < n; ++i) levels[i] = 0;
        *minimum = -low;
        return 0.0f;
    }
    // Each attempt spreads the levels from the best line's lower end so far, not from the data's.
    const auto set_levels = [&](float inverse, bool clamp_first, uint8_t* out) {
        for (int i = 0; i < n; ++i) {
            float level = inverse * (x[i] - low);
            if (clamp_first)
                level = level > 0 ? (level < as_float(walk.top) ? level : as_float(walk.top)) : 0.0f;
            out[i] = static_cast<uint8_t>(clamp(round_to_int(level), 0, walk.top));
        }
    };
    const auto error_of = [&](float scale, float offset, const uint8_t* level) {
        float total = 0;
        for (int i = 0; i < n; ++i) {
            const float difference = scale * as_float(level[i]) + offset - x[i];
            total += weights[i] * (walk.absolute ? std::fabs(difference) : difference * difference);
        }
        return total;
    };

    float inverse = as_float(walk.top) / (high - low);
    float scale = 1 / inverse;
    set_levels(inverse, false, levels);
    float best_error = error_of(scale, low, levels);
    uint8_t trial[32];
    for (int s = 0; s <= walk.last; ++s) {
        inverse = (walk.first + walk.step * as_float(s) + as_float(walk.top)) / (high - low);
        set_levels(inverse, walk.clamp_first, trial);
        float sum_l = 0, sum_ll = 0, sum_xl = 0;
        for (int i = 0; i < n; ++i) {
            const float weighted = weights[i] * as_float(trial[i]);
            sum_l += weighted;
            sum_ll += weighted * as_float(trial[i]);
            sum_xl += weighted * x[i];
        }
        const float determinant = sum_w * sum_ll - sum_l * sum_l;
        if (!(determinant > 0)) continue;
        float trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        float trial_low = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        if (trial_low > 0) {
            trial_low = 0;
            trial_scale = sum_xl / sum_ll;
        }
        const float error = error_of(trial_scale, trial_low, trial);
        if (error < best_error) {
            for (int i = 0; i < n; ++i) levels[i] = trial[i];
            best_error = error;
            scale = trial_scale;
            low = trial_low;
        }
    }
    *minimum = -low;
    return scale;
}

// A scale for x ~ scale * level, x mostly >= 0, levels in 0 .. top: nine spreads by weighted squared error,
// then descent as above. Used on the scales of a super-block's runs, which may be negative or not finite when
// the data overflows; levels are then the low eight bits of what came out.
static inline float positive_scale(const float* x, const float* weights, int n, int top, uint8_t* levels) {
    float high = 0;
    for (int i = 0; i < n; ++i) high = high > x[i] ? high : x[i];  // takes a NaN, and drops it for the next
    if (high < kZeroRun) {
        for (int i = 0; i < n; ++i) levels[i] = 0;
        return 0.0f;
    }
    // The first attempt is not clamped, but wraps to eight bits.
    float chosen = as_float(top) / high;
    float best_error = 0;
    for (int i = 0; i < n; ++i) {
        const int level = static_cast<uint8_t>(round_to_int(chosen * x[i]));
        const float difference = x[i] - 1 / chosen * as_float(level);
        best_error += weights[i] * difference * difference;
    }
    const auto level_at = [&](float inverse, int i) {
        const int level = round_to_int(inverse * x[i]);
        return level < top ? level : top;
    };
    for (int tenths = -4; tenths <= 4; ++tenths) {
        if (tenths == 0) continue;
        const float inverse = (0.1f * as_float(tenths) + as_float(top)) / high;
        const float scale = 1 / inverse;
        float error = 0;
        for (int i = 0; i < n; ++i) {
            const float difference = x[i] - scale * as_float(level_at(inverse, i));
            error += weights[i] * difference * difference;
        }
        if (error < best_error) {
            best_error = error;
            chosen = inverse;
        }
    }
    Fit fit;
    for (int i = 0; i < n; ++i) {
        const int level = level_at(chosen, i);
        levels[i] = static_cast<uint8_t>(level);
        fit.add(weights[i], x[i], level);
    }
    bool changed = true;
    for (int round = 0; round < 5 && changed; ++round) {
        changed = false;
        for (int i = 0; i < n; ++i) {
            const float weight = weights[i];
            Fit moved;
            moved.x_level = fit.x_level - weight * x[i] * as_float(levels[i]);
            moved.level_level = fit.level_level - weight * as_float(levels[i]) * as_float(levels[i]);
            if (!(moved.x_level > 0 && moved.level_level > 0)) continue;
            int wanted = round_to_int(x[i] * moved.level_level / moved.x_level);
            if (wanted > top) wanted = top;
            if (wanted == levels[i]) continue;
            moved.add(weight, x[i], wanted);
            if (moved.x_level * moved.x_level * fit.level_level >
                fit.x_level * fit.x_level * moved.level_level) {
                levels[i] = static_cast<uint8_t>(wanted);
                fit = moved;
                changed = true;
            }
        }
    }
    return fit.level_level > 0 ? fit.x_level / fit.level_level : 0.0f;
}

}  // namespace bq::search
