#include "formats/codebooks/points.hpp"

#include "formats/codebooks/grids.hpp"

namespace bq::codebooks {
namespace {

template <int kElements, int kCount, int kLevelCount>
constexpr Points<kCount, kElements> points_of(const uint16_t (&grid)[kCount],
                                              const int8_t (&levels)[kLevelCount], int factor = 1,
                                              int offset = 0) {
    constexpr int bits = kElements == 8 ? 2 : 3;
    Points<kCount, kElements> points{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < kElements; ++i)
            points.at[p][i] =
                static_cast<int8_t>(factor * levels[grid[p] >> bits * i & ((1 << bits) - 1)] + offset);
    return points;
}

constexpr Points<128, 8> even_sign_masks() {
    Points<128, 8> masks{};
    for (int stored = 0; stored < 128; ++stored)
        for (int i = 0; i < 8; ++i) masks.at[stored][i] = static_cast<int8_t>(-(even_signs(stored) >> i & 1));
    return masks;
}

}  // namespace

constexpr Points<128, 8> kEvenSignMasks = even_sign_masks();
constexpr Points<2048, 8> iq1_s::kPoints = points_of<8>(kGrid, kLevels, 8);
constexpr Points<2048, 8> iq1_s::kRaisedPoints = points_of<8>(kGrid, kLevels, 8, 8);
constexpr Points<256, 8> iq2_xxs::kPoints = points_of<8>(kGrid, kLevels);
constexpr Points<512, 8> iq2_xs::kPoints = points_of<8>(kGrid, kLevels);
constexpr Points<1024, 8> iq2_s::kPoints = points_of<8>(kGrid, kLevels);
constexpr Points<256, 4> iq3_xxs::kPoints = points_of<4>(kGrid, kLevels);
constexpr Points<512, 4> iq3_s::kPoints = points_of<4>(kGrid, kLevels);

}  // namespace bq::codebooks
