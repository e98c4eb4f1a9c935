// Blocks from integers and scales: whatever unpacks must assemble again, exactly.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "assemble/assemble.hpp"
#include "assemble/scale_fit.hpp"
#include "formats/common_form.hpp"
#include "formats/half.hpp"
#include "rng.hpp"

namespace {

using namespace bq;

struct Unpacked {
    std::vector<int8_t> q;
    std::vector<float> scales, minima;
    BlockParts parts(const FormatInfo& f) const {
        return {q.data(), scales.data(), f.has_minima ? minima.data() : nullptr};
    }
};

Unpacked unpacked(const FormatInfo& f, const std::vector<uint8_t>& block) {
    const auto runs = static_cast<size_t>(f.block_size / f.run);
    Unpacked u{std::vector<int8_t>(static_cast<size_t>(f.block_size)), std::vector<float>(runs),
               std::vector<float>(runs)};
    row_unpacker(f.id)(block.data(), u.q.data(), u.scales.data(), f.has_minima ? u.minima.data() : nullptr,
                       f.block_size);
    return u;
}

bool same_value(float a, float b) {
    return a == b || (a != a && b != b);
}

template <class Body>
void each_random_block(Rng& rng, int blocks, Body body) {
    for (const FormatInfo& f : all_formats()) {
        if (f.is_float()) continue;
        CAPTURE(std::string(f.name));
        REQUIRE((block_assembler(f.id) && row_unpacker(f.id)));
        std::vector<uint8_t> bytes(static_cast<size_t>(f.type_size));
        for (int n = 0; n < blocks; ++n) {
            for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng.next() >> 32);
            body(f, bytes);
        }
    }
}

TEST_CASE("any block assembles from its parts, and with itself as a hint to the same bytes") {
    Rng rng(11);
    each_random_block(rng, 300, [](const FormatInfo& f, const std::vector<uint8_t>& bytes) {
        const Unpacked u = unpacked(f, bytes);
        std::vector<uint8_t> out(bytes.size());
        REQUIRE(block_assembler(f.id)(u.parts(f), Rounding::exact, bytes.data(), out.data()).misfit ==
                Misfit::none);
        CHECK(out == bytes);
        REQUIRE(block_assembler(f.id)(u.parts(f), Rounding::exact, nullptr, out.data()).misfit ==
                Misfit::none);
        const Unpacked again = unpacked(f, out);
        CHECK(again.q == u.q);
        for (size_t j = 0; j < u.scales.size(); ++j) {
            CHECK(same_value(again.scales[j], u.scales[j]));
            CHECK(same_value(again.minima[j], u.minima[j]));
        }
    });
}

TEST_CASE("a hint keeps the bytes of the scales under other integers") {
    Rng rng(12);
    each_random_block(rng, 20, [&](const FormatInfo& f, std::vector<uint8_t>& bytes) {
        std::vector<uint8_t> other(bytes.size()), out(bytes.size());
        for (uint8_t& byte : other) byte = static_cast<uint8_t>(rng.next() >> 32);
        const Unpacked u = unpacked(f, bytes), v = unpacked(f, other);
        const BlockParts mixed{v.q.data(), u.scales.data(), f.has_minima ? u.minima.data() : nullptr};
        REQUIRE(block_assembler(f.id)(mixed, Rounding::exact, bytes.data(), out.data()).misfit ==
                Misfit::none);
        const Unpacked got = unpacked(f, out);
        CHECK(got.q == v.q);
        CHECK(std::memcmp(got.scales.data(), u.scales.data(), sizeof(float) * u.scales.size()) == 0);
        CHECK(std::memcmp(got.minima.data(), u.minima.data(), sizeof(float) * u.minima.size()) == 0);
    });
}

TEST_CASE("what does not fit is found where it is") {
    for (const FormatInfo& f : all_formats()) {
        if (f.is_float()) continue;
        CAPTURE(std::string(f.name));
        std::vector<uint8_t> bytes(static_cast<size_t>(f.type_size), 0), out(bytes);
        const bool is_grid = std::string(f.name).starts_with("IQ") && !std::string(f.name).starts_with("IQ4");
        const int at = f.block_size - 3;
        Unpacked u = unpacked(f, bytes);
        const Unpacked good = u;
        u.q[static_cast<size_t>(at)] = 127;  // no level of any format but Q8_0
        BlockFit fit = block_assembler(f.id)(u.parts(f), Rounding::nearest, nullptr, out.data());
        if (f.id == FormatId::Q8_0) {
            CHECK(fit.misfit == Misfit::none);
        } else {
            CHECK(fit.misfit == (is_grid ? Misfit::group : Misfit::value));
            CHECK((fit.at <= at && at < fit.at + fit.count));
        }
        u = good;
        u.scales.back() =
            1.2345678f;  // no float16, no E4M3, no power of two; alone it would be a multiple of none
        fit = block_assembler(f.id)(u.parts(f), Rounding::exact, nullptr, out.data());
        CHECK(fit.misfit == Misfit::scale);
        CHECK(fit.at + fit.count == f.block_size / f.run);
        CHECK(block_assembler(f.id)(u.parts(f), Rounding::nearest, nullptr, out.data()).misfit ==
              Misfit::none);
        u.scales.back() = NAN;
        for (Rounding rounding : {Rounding::exact, Rounding::nearest}) {
            fit = block_assembler(f.id)(u.parts(f), rounding, nullptr, out.data());
            const bool one_half = f.block_size == f.run && f.id != FormatId::MXFP4;
            CHECK(fit.misfit == (one_half ? Misfit::none : Misfit::scale));  // a float16 can be a NaN
        }
        if (!f.has_minima) continue;
        u = good;
        u.minima.front() = 1.2345678f;
        fit = block_assembler(f.id)(u.parts(f), Rounding::exact, nullptr, out.data());
        CHECK(fit.misfit == Misfit::minimum);
    }
}

TEST_CASE("signs that the seven bits cannot hold") {
    for (FormatId id : {FormatId::IQ2_XXS, FormatId::IQ2_XS, FormatId::IQ3_XXS}) {
        const FormatInfo& f = format_info(id);
        std::vector<uint8_t> bytes(static_cast<size_t>(f.type_size), 0), out(bytes);
        Unpacked u = unpacked(f, bytes);
        u.q[17] = static_cast<int8_t>(-u.q[17]);
        const BlockFit fit = block_assembler(id)(u.parts(f), Rounding::exact, nullptr, out.data());
        CHECK(fit.misfit == Misfit::signs);
        CHECK(fit.at == 16);
        u.q[23] = static_cast<int8_t>(-u.q[23]);
        CHECK(block_assembler(id)(u.parts(f), Rounding::exact, nullptr, out.data()).misfit == Misfit::none);
    }
}

TEST_CASE("the nearest multiples are near") {
    Rng rng(13);
    const assemble::Multiples ranges[] = {{0, 63, 1, 1.0f}, {-128, 127, 1, 1.0f}, {1, 31, 2, 0.125f}};
    for (const assemble::Multiples& range : ranges)
        for (int n = 0; n < 200; ++n) {
            float scales[16], weights[16];
            for (int j = 0; j < 16; ++j) {
                const float u = rng.uniform();
                scales[j] = (range.low < 0 ? u : std::fabs(u)) * 0.1f;
                weights[j] = 1;
            }
            const assemble::Factors got = assemble::nearest_multiples(scales, weights, 16, range);
            const float step = range.unit * f16_to_f32(got.d);
            float peak = 0;
            for (float s : scales) peak = std::max(peak, std::fabs(s));
            // No worse than the plain choice of the peak at the end of the range, where steps are that wide.
            const float plain = peak / static_cast<float>(std::max(-range.low, range.high));
            double error = 0, bound = 0;
            for (int j = 0; j < 16; ++j) {
                CHECK((got.m[j] >= range.low && got.m[j] <= range.high));
                CHECK((got.m[j] - range.low) % range.step == 0);
                error += std::pow(double{scales[j]} - double{step} * got.m[j], 2);
                bound += std::pow(plain * static_cast<float>(range.step) * 0.51f + 0.001f * peak, 2);
            }
            CHECK(error <= bound);
        }
}

TEST_CASE("float16 that are exact, and the nearest") {
    for (int bits = 0; bits < 1 << 16; ++bits) {
        uint16_t got;
        REQUIRE(assemble::exact_f16(f16_to_f32(static_cast<uint16_t>(bits)), &got));
        REQUIRE(got == bits);
    }
    uint16_t got;
    CHECK_FALSE(assemble::exact_f16(0.1f, &got));
    CHECK_FALSE(assemble::exact_f16(65536.0f, &got));
    CHECK(assemble::nearest_f16(1e9f) == 0x7bff);
    CHECK(assemble::nearest_f16(-1e9f) == 0xfbff);
}

}  // namespace
