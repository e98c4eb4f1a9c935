// How the searches walk: facts that the scalar encoders and those in lanes share.
#pragma once

namespace bq::search {

// Runs whose largest magnitude is below this count as zero.
inline constexpr float kZeroRun = 1e-15f;

// How affine_scale walks: attempt s spreads the range over top + first + step * s levels, s = 0 .. last.
struct AffineWalk {
    int top;  // the largest level
    float first, step;
    int last;
    bool absolute;  // minimize weighted |error| rather than its square
    // Bring attempts into 0..top before rounding, which cannot take 2^22 and more. Levels get there when a
    // better line raises the lower end close to the maximum and leaves elements without weight far below.
    // ggml does so since 0.26 in the walks for an imatrix, and only there; without it the rounded bits wrap.
    bool clamp_first;
};

static constexpr AffineWalk importance_walk(int top) {
    return {top, -0.9f, 0.05f, 36, false, true};
}

// Without an imatrix.
inline constexpr AffineWalk kWalkQ2_K = {3, -0.5f, 0.1f, 15, true, false};
inline constexpr AffineWalk kWalkQ4_K = {15, -1.0f, 0.1f, 20, false, false};
inline constexpr AffineWalk kWalkQ5_K = {31, -0.5f, 0.1f, 15, false, false};

// symmetric_scale puts the peak this many tenths beyond -limit: 0, -9..-1, 1..9.
inline constexpr int kSymmetricAttempts = 19;
static constexpr int symmetric_tenths(int attempt) {
    return attempt == 0 ? 0 : attempt <= 9 ? attempt - 10 : attempt - 9;
}

}  // namespace bq::search
