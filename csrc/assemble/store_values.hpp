// The integers of a block into its bits. Overloads of store_values write nothing but the integers' bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "assemble/assemble.hpp"
#include "formats/common_form.hpp"

namespace bq::assemble {

// The value of each code that the integers of a format are stored as.
template <int kCount>
using Levels = std::array<int8_t, kCount>;

template <int kCount>
constexpr Levels<kCount> levels_from(int lowest) {
    Levels<kCount> levels{};
    for (int code = 0; code < kCount; ++code) levels[code] = static_cast<int8_t>(lowest + code);
    return levels;
}
template <int kCount>
constexpr Levels<kCount> levels_of(const int8_t (&values)[kCount]) {
    Levels<kCount> levels{};
    for (int code = 0; code < kCount; ++code) levels[code] = values[code];
    return levels;
}

template <class Block>
inline constexpr auto kLevelsOf = nullptr;  // the formats below have their own
template <>
inline constexpr auto kLevelsOf<BlockQ4_0> = levels_from<16>(-8);
template <>
inline constexpr auto kLevelsOf<BlockQ4_1> = levels_from<16>(0);
template <>
inline constexpr auto kLevelsOf<BlockQ5_0> = levels_from<32>(-16);
template <>
inline constexpr auto kLevelsOf<BlockQ5_1> = levels_from<32>(0);
template <>
inline constexpr auto kLevelsOf<BlockQ8_0> = levels_from<256>(-128);
template <>
inline constexpr auto kLevelsOf<BlockQ2_K> = levels_from<4>(0);
template <>
inline constexpr auto kLevelsOf<BlockQ3_K> = levels_from<8>(-4);
template <>
inline constexpr auto kLevelsOf<BlockQ4_K> = levels_from<16>(0);
template <>
inline constexpr auto kLevelsOf<BlockQ5_K> = levels_from<32>(0);
template <>
inline constexpr auto kLevelsOf<BlockQ6_K> = levels_from<64>(-32);
template <>
inline constexpr auto kLevelsOf<BlockIQ4_NL> = levels_of(iq4::kLevels);
template <>
inline constexpr auto kLevelsOf<BlockIQ4_XS> = levels_of(iq4::kLevels);
template <>
inline constexpr auto kLevelsOf<BlockTQ1_0> = levels_from<3>(-1);
template <>
inline constexpr auto kLevelsOf<BlockTQ2_0> = levels_from<4>(-1);
template <>
inline constexpr auto kLevelsOf<BlockMXFP4> = levels_of(fp4::kDoubled);
template <>
inline constexpr auto kLevelsOf<BlockNVFP4> = levels_of(fp4::kDoubled);
template <>
inline constexpr auto kLevelsOf<BlockQ1_0> = levels_of({-1, 1});
template <>
inline constexpr auto kLevelsOf<BlockQ2_0> = levels_from<4>(-1);

// The first code of each value, or -1; indexed by the value's low eight bits.
template <size_t kCount>
constexpr std::array<int16_t, 256> codes_by_value(const std::array<int8_t, kCount>& levels) {
    std::array<int16_t, 256> codes{};
    for (int16_t& code : codes) code = -1;
    for (size_t code = kCount; code-- > 0;)
        codes[static_cast<uint8_t>(levels[code])] = static_cast<int16_t>(code);
    return codes;
}

template <FormatId id>
BlockFit store_values(const int8_t* q, typename CommonForm<id>::Block& b) {
    static constexpr auto codes = codes_by_value(kLevelsOf<typename CommonForm<id>::Block>);
    constexpr int n = CommonForm<id>::elements;
    uint8_t levels[n];
    int missing = 0;
    for (int i = 0; i < n; ++i) {
        const int code = codes[static_cast<uint8_t>(q[i])];
        levels[i] = static_cast<uint8_t>(code);
        missing |= code;
    }
    if (missing < 0)
        for (int i = 0; i < n; ++i)
            if (codes[static_cast<uint8_t>(q[i])] < 0) return {Misfit::value, i};
    store_levels(levels, b);
    return {};
}

// "0 to 15", or the levels one by one where they are uneven.
template <FormatId id>
std::string describe_values() {
    auto levels = kLevelsOf<typename CommonForm<id>::Block>;
    std::sort(levels.begin(), levels.end());
    const int lowest = levels.front(), highest = levels.back();
    if (highest - lowest == static_cast<int>(levels.size()) - 1)
        return std::to_string(lowest) + " to " + std::to_string(highest);
    std::string text;
    for (size_t i = 0; i < levels.size(); ++i)
        if (i == 0 || levels[i] != levels[i - 1]) text += (i ? ", " : "") + std::to_string(levels[i]);
    return text;
}

}  // namespace bq::assemble
