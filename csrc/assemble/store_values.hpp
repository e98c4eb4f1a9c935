// The integers of a block into its bits, and nothing else.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <type_traits>

#include "assemble/assemble.hpp"
#include "assemble/store_points.hpp"
#include "formats/common_form.hpp"

namespace bq::assemble {

template <FormatId id>
using BlockOfId = typename BlockOf<id>::type;

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
inline constexpr auto kLevelsOf = nullptr;  // of the grid formats (store_points.hpp)
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
inline constexpr bool kHasLevels =
    !std::is_null_pointer_v<std::remove_cv_t<decltype(kLevelsOf<BlockOfId<id>>)>>;

template <FormatId id>
BlockFit store_leveled(const int8_t* q, BlockOfId<id>& b) {
    static constexpr auto codes = codes_by_value(kLevelsOf<BlockOfId<id>>);
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

template <FormatId id>
BlockFit store_values(const int8_t* q, BlockOfId<id>& b) {
    if constexpr (kHasLevels<id>)
        return store_leveled<id>(q, b);
    else
        return store_points(q, b);
}

// "0 to 15", or the levels one by one where they are uneven.
template <size_t kCount>
std::string describe_levels(std::array<int8_t, kCount> levels) {
    std::sort(levels.begin(), levels.end());
    const int lowest = levels.front(), highest = levels.back();
    if (highest - lowest == static_cast<int>(levels.size()) - 1)
        return std::to_string(lowest) + " to " + std::to_string(highest);
    std::string text;
    for (size_t i = 0; i < levels.size(); ++i)
        if (i == 0 || levels[i] != levels[i - 1]) text += (i ? ", " : "") + std::to_string(levels[i]);
    return text;
}
template <size_t kCount, size_t kLevelCount>
std::string describe_grid(const uint16_t (&)[kCount], const int8_t (&levels)[kLevelCount]) {
    return std::to_string(kCount) + " points of " + (kLevelCount == 8 ? "4" : "8") + " magnitudes out of " +
           describe_levels(levels_of(levels));
}
template <FormatId id>
std::string describe_values() {
    using namespace codebooks;
    if constexpr (kHasLevels<id>) return describe_levels(kLevelsOf<BlockOfId<id>>);
    if constexpr (id == FormatId::IQ2_XXS) return describe_grid(iq2_xxs::kGrid, iq2_xxs::kLevels);
    if constexpr (id == FormatId::IQ2_XS) return describe_grid(iq2_xs::kGrid, iq2_xs::kLevels);
    if constexpr (id == FormatId::IQ2_S) return describe_grid(iq2_s::kGrid, iq2_s::kLevels);
    if constexpr (id == FormatId::IQ3_XXS) return describe_grid(iq3_xxs::kGrid, iq3_xxs::kLevels);
    if constexpr (id == FormatId::IQ3_S) return describe_grid(iq3_s::kGrid, iq3_s::kLevels);
    return "2048 points of 8 out of -7, 1, 9 or of -9, -1, 7" +
           std::string(id == FormatId::IQ1_S ? ", the same three in a run" : "");
}

}  // namespace bq::assemble
