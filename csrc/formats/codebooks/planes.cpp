#include "formats/codebooks/planes.hpp"

#include "formats/codebooks/grids.hpp"
#include "formats/codebooks/iq1_halves.hpp"
#include "formats/codebooks/points.hpp"

namespace bq::codebooks {
namespace {

template <int kCount>
constexpr BytePairs<kCount> planes_of(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> planes{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 8; ++i) {
            const int level = grid[p] >> 2 * i & 3;
            planes.at[0][p] |= static_cast<uint8_t>((level >= 1) << i);
            planes.at[1][p] |= static_cast<uint8_t>((level == 2) << i);
        }
    return planes;
}

// Four elements of IQ1, two bits each.
constexpr uint8_t signs_of(int levels) {
    int signs = 0;
    for (int i = 0; i < 4; ++i) {
        const int level = levels >> 2 * i & 3;
        signs |= (level == 2) << i | (level == 0) << (4 + i);
    }
    return static_cast<uint8_t>(signs);
}

constexpr bool upper_halves_hold() {
    const iq1_s::UpperHalves halves = iq1_s::upper_halves_of(signs_of);
    for (int p = 0; p < 2048; ++p) {
        const int part = p / 16;
        const uint8_t found = p % 16 >= halves.change[part] ? halves.last[part] : halves.first[part];
        if (found != signs_of(iq1_s::kGrid[p] >> 8)) return false;
    }
    return true;
}
static_assert(upper_halves_hold());

template <int kCount>
constexpr BytePairs<kCount> codes_of(const uint16_t (&grid)[kCount]) {
    BytePairs<kCount> codes{};
    for (int p = 0; p < kCount; ++p)
        for (int i = 0; i < 2; ++i) codes.at[i][p] = static_cast<uint8_t>(grid[p] >> 6 * i & 63);
    return codes;
}

constexpr BytePairs<256> trits() {
    BytePairs<256> all{};
    for (int byte = 0; byte < 256; ++byte)
        for (int i = 0, rest = byte; i < 5; ++i, rest = rest * 3 & 255)
            all.at[i / 4][byte] |= static_cast<uint8_t>(rest * 3 >> 8 << 2 * (i % 4));
    return all;
}

constexpr SignBytes sign_bytes() {
    SignBytes signs{};
    for (int stored = 0; stored < 128; ++stored) signs.at[stored] = even_signs(stored);
    return signs;
}

}  // namespace

constexpr iq1_s::LowerHalves iq1_s::kLowerHalves = lower_halves_of(signs_of);
constexpr iq1_s::UpperHalves iq1_s::kUpperHalves = upper_halves_of(signs_of);
constexpr BytePairs<256> iq2_xxs::kPlanes = planes_of(kGrid);
constexpr BytePairs<512> iq2_xs::kPlanes = planes_of(kGrid);
constexpr BytePairs<1024> iq2_s::kPlanes = planes_of(kGrid);
constexpr BytePairs<256> iq3_xxs::kCodes = codes_of(kGrid);
constexpr BytePairs<512> iq3_s::kCodes = codes_of(kGrid);
constexpr BytePairs<256> kTrits = trits();
constexpr SignBytes kEvenSigns = sign_bytes();

}  // namespace bq::codebooks
