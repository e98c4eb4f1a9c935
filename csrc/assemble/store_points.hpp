// The integers of the grid formats into their bits: points of a codebook, found in its ascending words, and
// signs. Overloads of store_points write nothing but those bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "assemble/assemble.hpp"
#include "formats/codebooks/grids.hpp"
#include "formats/common_form.hpp"

namespace bq::assemble {

// The position of a word among ascending ones, or -1.
template <size_t kCount>
int find_word(const uint16_t (&grid)[kCount], int word) {
    const auto* found = std::lower_bound(grid, grid + kCount, word);
    return found != grid + kCount && *found == word ? static_cast<int>(found - grid) : -1;
}

// The index of the point of these magnitudes, or -1.
template <size_t kCount, size_t kLevelCount>
int find_point(const uint16_t (&grid)[kCount], const int8_t (&levels)[kLevelCount], const int8_t* q) {
    constexpr int elements = kLevelCount == 8 ? 4 : 8, bits = kLevelCount == 8 ? 3 : 2;
    int word = 0;
    for (int i = 0; i < elements; ++i) {
        const auto* level = std::find(levels, levels + kLevelCount, std::abs(q[i]));
        if (level == levels + kLevelCount) return -1;
        word |= static_cast<int>(level - levels) << bits * i;
    }
    return find_word(grid, word);
}

// Bit i is set where element i of eight is negative.
static inline uint8_t signs_of(const int8_t* q) {
    int signs = 0;
    for (int i = 0; i < 8; ++i) signs |= (q[i] < 0) << i;
    return static_cast<uint8_t>(signs);
}
static inline bool even(uint8_t signs) {
    return codebooks::even_signs(signs & 127) == signs;
}

static inline BlockFit store_points(const int8_t* q, BlockIQ2_XXS& b) {
    using namespace codebooks::iq2_xxs;
    for (int j = 0; j < 8; ++j) {
        uint32_t all_signs = 0;
        for (int l = 0; l < 4; ++l) {
            const int at = 32 * j + 8 * l, point = find_point(kGrid, kLevels, q + at);
            if (point < 0) return {Misfit::group, at, 8};
            const uint8_t signs = signs_of(q + at);
            if (!even(signs)) return {Misfit::signs, at, 8};
            b.runs[j].qs[l] = static_cast<uint8_t>(point);
            all_signs |= (signs & 127u) << 7 * l;
        }
        b.runs[j].signs_scale = (b.runs[j].signs_scale & 0xf0000000u) | all_signs;
    }
    return {};
}

static inline BlockFit store_points(const int8_t* q, BlockIQ2_XS& b) {
    using namespace codebooks::iq2_xs;
    for (int l = 0; l < 32; ++l) {
        const int point = find_point(kGrid, kLevels, q + 8 * l);
        if (point < 0) return {Misfit::group, 8 * l, 8};
        const uint8_t signs = signs_of(q + 8 * l);
        if (!even(signs)) return {Misfit::signs, 8 * l, 8};
        b.qs[l] = static_cast<uint16_t>(point | (signs & 127) << 9);
    }
    return {};
}

static inline BlockFit store_points(const int8_t* q, BlockIQ2_S& b) {
    using namespace codebooks::iq2_s;
    for (uint8_t& high : b.qh) high = 0;
    for (int l = 0; l < 32; ++l) {
        const int point = find_point(kGrid, kLevels, q + 8 * l);
        if (point < 0) return {Misfit::group, 8 * l, 8};
        b.qs[l] = static_cast<uint8_t>(point);
        b.qh[l / 4] = static_cast<uint8_t>(b.qh[l / 4] | point >> 8 << 2 * (l % 4));
        b.signs[l] = signs_of(q + 8 * l);
    }
    return {};
}

static inline BlockFit store_points(const int8_t* q, BlockIQ3_XXS& b) {
    using namespace codebooks::iq3_xxs;
    for (int j = 0; j < 8; ++j) {
        uint32_t all_signs = 0;
        for (int l = 0; l < 8; ++l) {
            const int at = 32 * j + 4 * l, point = find_point(kGrid, kLevels, q + at);
            if (point < 0) return {Misfit::group, at, 4};
            b.qs[8 * j + l] = static_cast<uint8_t>(point);
        }
        for (int l = 0; l < 4; ++l) {
            const uint8_t signs = signs_of(q + 32 * j + 8 * l);
            if (!even(signs)) return {Misfit::signs, 32 * j + 8 * l, 8};
            all_signs |= (signs & 127u) << 7 * l;
        }
        b.signs_scale[j] = (b.signs_scale[j] & 0xf0000000u) | all_signs;
    }
    return {};
}

static inline BlockFit store_points(const int8_t* q, BlockIQ3_S& b) {
    using namespace codebooks::iq3_s;
    for (uint8_t& high : b.qh) high = 0;
    for (int l = 0; l < 64; ++l) {
        const int point = find_point(kGrid, kLevels, q + 4 * l);
        if (point < 0) return {Misfit::group, 4 * l, 4};
        b.qs[l] = static_cast<uint8_t>(point);
        b.qh[l / 8] = static_cast<uint8_t>(b.qh[l / 8] | point >> 8 << l % 8);
    }
    for (int l = 0; l < 32; ++l) b.signs[l] = signs_of(q + 8 * l);
    return {};
}

// The index of a ternary point given in eighths and moved by one (down: -1, else 1), or -1.
static inline int find_ternary(const int8_t* q, bool down) {
    int word = 0;
    for (int i = 0; i < 8; ++i) {
        const int eighths = q[i] + (down ? 1 : -1);
        if (eighths % 8 != 0 || eighths < -8 || eighths > 8) return -1;
        word |= (eighths / 8 + 1) << 2 * i;
    }
    return find_word(codebooks::iq1_s::kGrid, word);
}
static inline bool is_down(const int8_t* q) {  // -9, -1 or 7 rather than -7, 1 or 9
    return (q[0] & 7) == 7;
}

static inline BlockFit store_points(const int8_t* q, BlockIQ1_S& b) {
    for (int j = 0; j < 8; ++j) {
        const bool down = is_down(q + 32 * j);
        int high = down << 15;
        for (int l = 0; l < 4; ++l) {
            const int at = 32 * j + 8 * l, point = find_ternary(q + at, down);
            if (point < 0) return {Misfit::group, at, 8};
            b.qs[4 * j + l] = static_cast<uint8_t>(point);
            high |= point >> 8 << 3 * l;
        }
        b.qh[j] = static_cast<uint16_t>((b.qh[j] & 0x7000) | high);
    }
    return {};
}

static inline BlockFit store_points(const int8_t* q, BlockIQ1_M& b) {
    for (uint8_t& high : b.qh) high = 0;
    for (int l = 0; l < 32; ++l) {
        const bool down = is_down(q + 8 * l);
        const int point = find_ternary(q + 8 * l, down);
        if (point < 0) return {Misfit::group, 8 * l, 8};
        b.qs[l] = static_cast<uint8_t>(point);
        b.qh[l / 2] = static_cast<uint8_t>(b.qh[l / 2] | (point >> 8 | down << 3) << 4 * (l % 2));
    }
    return {};
}

}  // namespace bq::assemble
