#include "formats/codebooks/strip_tables.hpp"

#include "formats/codebooks/grids.hpp"
#include "formats/codebooks/iq1_halves.hpp"
#include "formats/codebooks/points.hpp"

namespace bq::codebooks {
namespace {

// Where the code of each element of a point of IQ2 is in its byte.
constexpr int kPlace[8] = {4, 6, 0, 4, 0, 2, 2, 6};

template <int kCount>
constexpr BytePairs<kCount> pairs_of_iq2(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> pairs{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 8; ++i) {
            const int level = grid[p] >> 2 * i & 3;
            pairs.at[i / 2 % 2][p] |= static_cast<uint8_t>(level << kPlace[i]);
        }
    return pairs;
}

// Three bits with a place for the sign between them, at bit `sign`.
constexpr int around_sign(int code, int sign) {
    const int below = code & ((1 << sign) - 1);
    return below | (code - below) << 1;
}

template <int kCount>
constexpr BytePairs<kCount> nibbles_of_iq3(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> nibbles{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 4; ++i)
            nibbles.at[i / 2][p] |=
                static_cast<uint8_t>(around_sign(grid[p] >> 3 * i & 7, i / 2) << 4 * (i % 2));
    return nibbles;
}

// Four elements of IQ1, two bits each.
constexpr uint8_t codes_of(int levels) {
    return static_cast<uint8_t>(levels);
}

constexpr StripLevels levels_of_iq3(const int (&magnitudes)[8], int above, int sign) {
    StripLevels levels{};
    for (int code = 0; code < 8; ++code)
        for (int negative = 0; negative < 2; ++negative)
            levels.at[around_sign(code, sign) | negative << sign] =
                static_cast<int8_t>(above + (negative ? -magnitudes[code] : magnitudes[code]));
    return levels;
}

// level(code, flag) of the two bits from bit `from` on and of bit `flag_at`.
template <class Level>
constexpr WideLevels wide(int from, int flag_at, Level level) {
    WideLevels levels{};
    for (int i = 0; i < 64; ++i)
        levels.at[i] = static_cast<int8_t>(level(i >> from & 3, (i >> flag_at & 1) != 0));
    return levels;
}
constexpr WideLevels levels_of_iq2(int from, int sign) {
    constexpr int kMagnitudes[] = {8, 25, 43, 0};
    return wide(from, sign, [&](int code, bool negative) {
        return 43 + (negative ? -kMagnitudes[code] : kMagnitudes[code]);
    });
}
constexpr WideLevels levels_of_iq1(int from) {
    return wide(from, 4, [](int code, bool down) { return 8 * code + 1 + (down ? -1 : 1); });
}
constexpr WideLevels code_field(int from) {
    return wide(from, 0, [](int code, bool) { return code; });
}

constexpr SignBytes even_first() {
    SignBytes signs{};
    for (int stored = 0; stored < 128; ++stored)
        for (int i = 0; i < 8; ++i)
            signs.at[stored] |= static_cast<uint8_t>((even_signs(stored) >> i & 1) << (i / 2 + i % 2 * 4));
    return signs;
}

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
constexpr StripLevels kIq3XxsLevels[2] = {levels_of_iq3(kIq3Xxs, 62, 0), levels_of_iq3(kIq3Xxs, 62, 1)};
constexpr StripLevels kIq3SLevels[2] = {levels_of_iq3(kIq3S, 16, 0), levels_of_iq3(kIq3S, 16, 1)};
constexpr WideLevels kIq2Levels[6] = {levels_of_iq2(0, 4), levels_of_iq2(2, 5), levels_of_iq2(2, 0),
                                      levels_of_iq2(4, 1), levels_of_iq2(0, 2), levels_of_iq2(4, 3)};
constexpr WideLevels kIq1Levels[2] = {levels_of_iq1(0), levels_of_iq1(2)};
constexpr WideLevels kCodeFields[2] = {code_field(2), code_field(4)};
constexpr SignBytes kEvenSignsEvenFirst = even_first();

}  // namespace bq::codebooks
