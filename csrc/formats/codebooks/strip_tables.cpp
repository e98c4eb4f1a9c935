#include "formats/codebooks/strip_tables.hpp"

#include "formats/codebooks/grids.hpp"
#include "formats/codebooks/iq1_halves.hpp"
#include "formats/codebooks/points.hpp"

namespace bq::codebooks {
namespace {

template <int kCount>
constexpr BytePairs<kCount> pairs_of_iq2(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> pairs{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 8; ++i) {
            const int level = grid[p] >> 2 * i & 3;
            pairs.at[i / 2 % 2][p] |= static_cast<uint8_t>(level << (2 * (i % 2) + 4 * (i / 4)));
        }
    return pairs;
}

template <int kCount>
constexpr BytePairs<kCount> nibbles_of_iq3(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> nibbles{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 4; ++i)
            nibbles.at[i / 2][p] |= static_cast<uint8_t>((grid[p] >> 3 * i & 7) << 4 * (i % 2));
    return nibbles;
}

// Four elements of IQ1, two bits each.
constexpr uint8_t codes_of(int levels) {
    return static_cast<uint8_t>(levels);
}

template <int kCount>
constexpr StripLevels signed_levels(const int (&magnitudes)[kCount], int sign_bit, int above) {
    StripLevels levels{};
    for (int i = 0; i < 16; ++i) {
        const int magnitude = magnitudes[i & (sign_bit - 1)];
        levels.at[i] = static_cast<int8_t>(above + (i & sign_bit ? -magnitude : magnitude));
    }
    return levels;
}

constexpr StripLevels iq1_levels() {
    StripLevels levels{};
    for (int i = 0; i < 16; ++i) levels.at[i] = static_cast<int8_t>(8 * (i & 3) + 1 + (i & 4 ? -1 : 1));
    return levels;
}

constexpr SignBytes even_first() {
    SignBytes signs{};
    for (int stored = 0; stored < 128; ++stored)
        for (int i = 0; i < 8; ++i)
            signs.at[stored] |= static_cast<uint8_t>((even_signs(stored) >> i & 1) << (i / 2 + i % 2 * 4));
    return signs;
}

constexpr int kIq2[] = {8, 25, 43, 0};
constexpr int kIq3Xxs[] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr int kIq3S[] = {1, 3, 5, 7, 9, 11, 13, 15};

}  // namespace

constexpr BytePairs<256> iq2_xxs::kStrip = pairs_of_iq2(kGrid);
constexpr BytePairs<512> iq2_xs::kStrip = pairs_of_iq2(kGrid);
constexpr BytePairs<1024> iq2_s::kStrip = pairs_of_iq2(kGrid);
constexpr BytePairs<256> iq3_xxs::kStrip = nibbles_of_iq3(kGrid);
constexpr BytePairs<512> iq3_s::kStrip = nibbles_of_iq3(kGrid);
constexpr iq1_s::LowerHalves iq1_s::kLowerCodes = lower_halves_of(codes_of);
constexpr iq1_s::UpperHalves iq1_s::kUpperCodes = upper_halves_of(codes_of);
constexpr StripLevels kIq2Levels = signed_levels(kIq2, 4, 43);
constexpr StripLevels kIq3XxsLevels = signed_levels(kIq3Xxs, 8, 62);
constexpr StripLevels kIq3SLevels = signed_levels(kIq3S, 8, 16);
constexpr StripLevels kIq1Levels = iq1_levels();
constexpr SignBytes kEvenSignsEvenFirst = even_first();

}  // namespace bq::codebooks
