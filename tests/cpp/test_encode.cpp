// The scalar encoders: ggml's bytes by hash, and what must hold without looking at ggml.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "encode/encode.hpp"
#include "formats/common_form.hpp"
#include "kernel_tables.hpp"
#include "rng.hpp"

namespace {

using namespace bq;

// The rows whose encoded bytes encode_hashes.inc holds; the same inputs are made in tests/make_hashes.py.
constexpr int kRows = 12, kColumns = 512;

float element(Rng& rng, int row, int i) {
    const float u = rng.uniform();
    const uint64_t odd = rng.next();
    const float zero = odd & 16 ? -0.0f : 0.0f;
    switch (row) {
        case 0:
            return u;
        case 1:
            return u * u * u;
        case 2:
            return odd % 16 == 0 ? u : zero;
        case 3:
            return std::fabs(u);
        case 4:
            return std::ldexp(u, i / 16 * 7 % 60 - 40);
        case 5:
            return zero;
        case 6:
            return -0.75f;
        case 7:
            return i % 97 == 5 ? 1.5f : zero;
        case 8:
            return std::ldexp(u, 127);
        case 9:
            return std::ldexp(u, -130);
        case 10:
            return 5.0f + std::ldexp(u, -6);
        default:
            return std::bit_cast<float>(static_cast<uint32_t>(odd) & 0xbfffffffu);  // any finite bits
    }
}

struct Inputs {
    std::vector<float> x = std::vector<float>(kRows * kColumns), imatrix = std::vector<float>(kColumns);
    Inputs() {
        Rng rng(2024);
        for (int row = 0; row < kRows; ++row)
            for (int i = 0; i < kColumns; ++i) x[row * kColumns + i] = element(rng, row, i);
        for (int i = 0; i < kColumns; ++i) {
            const float u = rng.uniform();
            imatrix[i] = i % 11 == 3 ? 0.0f : u * u * 8.0f;
        }
    }
};

std::vector<uint8_t> encode_by(EncodeRow encode_row, const FormatInfo& f, const std::vector<float>& x,
                               int64_t k, const float* imatrix) {
    const int64_t rows = static_cast<int64_t>(x.size()) / k, row_bytes = f.row_bytes(k);
    std::vector<uint8_t> out(static_cast<size_t>(rows * row_bytes));
    for (int64_t r = 0; r < rows; ++r) encode_row(x.data() + r * k, out.data() + r * row_bytes, k, imatrix);
    return out;
}

// By the scalar reference.
std::vector<uint8_t> encode(const FormatInfo& f, const std::vector<float>& x, int64_t k,
                            const float* imatrix) {
    return encode_by(reference_encoder(f.id), f, x, k, imatrix);
}

uint64_t fnv1a(const std::vector<uint8_t>& bytes) {
    uint64_t h = 0xcbf29ce484222325u;
    for (uint8_t byte : bytes) h = (h ^ byte) * 0x100000001b3u;
    return h;
}

// The formats of a grid: ggml stops the program when a search in it overflows.
bool has_grid(FormatId id) {
    using enum FormatId;
    return id == IQ1_S || id == IQ1_M || id == IQ2_XXS || id == IQ2_XS || id == IQ2_S || id == IQ3_XXS ||
           id == IQ3_S;
}

// The inputs without the rows in which anything overflows.
std::vector<float> without_overflow(const std::vector<float>& x) {
    std::vector<float> rest;
    for (int row = 0; row < kRows; ++row)
        if (row != 8 && row != 11)
            rest.insert(rest.end(), x.begin() + row * kColumns, x.begin() + (row + 1) * kColumns);
    return rest;
}

// Calls body.operator()<id>() for every format of a grid.
template <class Body>
void each_grid(Body body) {
    body.template operator()<FormatId::IQ1_S>();
    body.template operator()<FormatId::IQ1_M>();
    body.template operator()<FormatId::IQ2_XXS>();
    body.template operator()<FormatId::IQ2_XS>();
    body.template operator()<FormatId::IQ2_S>();
    body.template operator()<FormatId::IQ3_XXS>();
    body.template operator()<FormatId::IQ3_S>();
}

// Calls body.operator()<id>() for every other quantized format.
template <class Body>
void each_quantized(Body body) {
    body.template operator()<FormatId::Q4_0>();
    body.template operator()<FormatId::Q4_1>();
    body.template operator()<FormatId::Q5_0>();
    body.template operator()<FormatId::Q5_1>();
    body.template operator()<FormatId::Q8_0>();
    body.template operator()<FormatId::Q2_K>();
    body.template operator()<FormatId::Q3_K>();
    body.template operator()<FormatId::Q4_K>();
    body.template operator()<FormatId::Q5_K>();
    body.template operator()<FormatId::Q6_K>();
    body.template operator()<FormatId::IQ4_NL>();
    body.template operator()<FormatId::IQ4_XS>();
    body.template operator()<FormatId::TQ1_0>();
    body.template operator()<FormatId::TQ2_0>();
    body.template operator()<FormatId::MXFP4>();
    body.template operator()<FormatId::NVFP4>();
    body.template operator()<FormatId::Q1_0>();
    body.template operator()<FormatId::Q2_0>();
}

std::vector<int> from_to(int low, int high) {
    std::vector<int> levels;
    for (int level = low; level <= high; ++level) levels.push_back(level);
    return levels;
}

// The integers of the format.
std::vector<int> levels_of(FormatId id) {
    switch (id) {
        case FormatId::Q4_0:
            return from_to(-8, 7);
        case FormatId::Q5_0:
            return from_to(-16, 15);
        case FormatId::Q8_0:
            return from_to(-127, 127);
        case FormatId::Q2_K:
            return from_to(0, 3);
        case FormatId::Q3_K:
            return from_to(-4, 3);
        case FormatId::Q6_K:
            return from_to(-32, 31);
        case FormatId::Q4_1:
        case FormatId::Q4_K:
            return from_to(0, 15);
        case FormatId::Q5_1:
        case FormatId::Q5_K:
            return from_to(0, 31);
        case FormatId::TQ1_0:
        case FormatId::TQ2_0:
            return from_to(-1, 1);
        case FormatId::Q1_0:
            return {-1, 1};
        case FormatId::Q2_0:
            return from_to(-1, 2);
        case FormatId::MXFP4:
        case FormatId::NVFP4:
            return {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
        case FormatId::IQ4_NL:
        case FormatId::IQ4_XS:
            return {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        default:
            throw "a format whose integers the tests do not know";
    }
}

// Whether integers are chosen for the scale as stored; else for the one before it is rounded to f16.
bool chosen_for_stored_scale(FormatId id) {
    using enum FormatId;
    return id == Q2_K || id == Q3_K || id == Q4_K || id == Q5_K || id == Q6_K || id == MXFP4 || id == NVFP4;
}

// How far one element among zeros may be from itself, as a share of it, and the zeros from zero.
struct LoneError {
    float peak, zeros;
};
LoneError lone_error(FormatId id) {
    switch (id) {
        case FormatId::MXFP4:  // the scale is a power of two: from 4 to 6 and from 6 to 8 there is nothing
            return {0.25f, 0.0f};
        case FormatId::NVFP4:  // the scale has three bits of mantissa
            return {0x1p-4f, 0.0f};
        case FormatId::IQ4_NL:  // there is no level for zero: the nearest is 1 of at least 113
        case FormatId::IQ4_XS:
            return {0x1p-9f, 1.0f / 112};
        default:  // a few f16 roundings; zeros are exact where there is no minimum to add
            return {0x1p-9f, format_info(id).has_minima ? 0x1p-9f : 0.0f};
    }
}

}  // namespace

// Every format on every instruction set that runs here (AVX-512 by emulation if need be, NEON under qemu),
// plain and with an imatrix: a format without a hash fails.
TEST_CASE("bytes are ggml's, on every kind of row") {
    struct Hashes {
        FormatId id;
        uint64_t plain, imatrix;
    };
    constexpr Hashes kHashes[] = {
#include "encode_hashes.inc"
    };
    const Inputs inputs;
    for (const FormatInfo& f : all_formats()) {
        CAPTURE(std::string(f.name));
        const auto* h = std::find_if(std::begin(kHashes), std::end(kHashes),
                                     [&](const Hashes& hashes) { return hashes.id == f.id; });
        REQUIRE(h != std::end(kHashes));
        const std::vector<float> x = has_grid(f.id) ? without_overflow(inputs.x) : inputs.x;
        const auto check = [&](const char* isa, EncodeRow row) {
            CAPTURE(std::string(isa));
            if (!f.needs_imatrix) CHECK(fnv1a(encode_by(row, f, x, kColumns, nullptr)) == h->plain);
            CHECK(fnv1a(encode_by(row, f, x, kColumns, inputs.imatrix.data())) == h->imatrix);
        };
        check("reference", reference_encoder(f.id));
        for (const KernelTable* table : test::encoder_kernels(f.id)) check(table->isa, (*table)[f.id].encode);
    }
}

TEST_CASE("every format has an encoder") {
    for (const FormatInfo& f : all_formats()) {
        CAPTURE(std::string(f.name));
        const bool has_encoder = reference_encoder(f.id) != nullptr;
        CHECK(has_encoder);
    }
}

TEST_CASE("a row's bytes depend on the row alone, and nothing beside them is written") {
    const Inputs inputs;
    for (const FormatInfo& f : all_formats()) {
        CAPTURE(std::string(f.name));
        for (const float* imatrix : {static_cast<const float*>(nullptr), inputs.imatrix.data()}) {
            const int64_t row_bytes = f.row_bytes(kColumns);
            const std::vector<uint8_t> all = encode(f, inputs.x, kColumns, imatrix);
            for (int row = kRows - 1; row >= 0; --row) {
                std::vector<float> x(inputs.x.begin() + row * kColumns,
                                     inputs.x.begin() + (row + 1) * kColumns);
                const std::vector<float> before = x;
                std::vector<uint8_t> out(static_cast<size_t>(row_bytes) + 3, 0xa5);  // at an odd address
                reference_encoder(f.id)(x.data(), out.data() + 1, kColumns, imatrix);
                CHECK(std::memcmp(out.data() + 1, all.data() + row * row_bytes,
                                  static_cast<size_t>(row_bytes)) == 0);
                CHECK(out.front() == 0xa5);
                CHECK(out[static_cast<size_t>(row_bytes) + 1] == 0xa5);
                CHECK(std::memcmp(x.data(), before.data(), sizeof(float) * kColumns) == 0);
            }
        }
    }
}

TEST_CASE("every bit of a block is written, whatever was there") {
    const Inputs inputs;
    for (const FormatInfo& f : all_formats()) {
        CAPTURE(std::string(f.name));
        const std::vector<uint8_t> expected = encode(f, inputs.x, kColumns, nullptr);
        std::vector<uint8_t> out(expected.size(), 0xff);
        for (int row = 0; row < kRows; ++row)
            reference_encoder(f.id)(inputs.x.data() + row * kColumns,
                                    out.data() + row * f.row_bytes(kColumns), kColumns, nullptr);
        CHECK(out == expected);
    }
}

TEST_CASE("zeros of either sign decode to zero, with and without an imatrix") {
    const std::vector<float> ones(256, 1.0f);
    const auto check = [&]<FormatId id>() {
        CAPTURE(std::string(format_info(id).name));
        for (float zero : {0.0f, -0.0f})
            for (const float* imatrix : {static_cast<const float*>(nullptr), ones.data()}) {
                const std::vector<float> x(256, zero);
                const std::vector<uint8_t> bytes = encode(format_info(id), x, 256, imatrix);
                float out[256];
                decode_row<id>(bytes.data(), out, 256);
                CHECK(std::all_of(out, out + 256, [](float v) { return v == 0.0f; }));
            }
    };
    each_quantized(check);
    each_grid(check);
}

TEST_CASE("one element among zeros survives, and the zeros stay zero") {
    each_quantized([&]<FormatId id>() {
        if (id == FormatId::Q1_0) return;  // which has no zero: the next test
        CAPTURE(std::string(format_info(id).name));
        for (int at : {0, 15, 16, 31, 100, 255})
            for (float value : {1.0f, -1.0f, 640.0f, -8.0f}) {
                std::vector<float> x(256, 0.0f);
                x[at] = value;
                const std::vector<uint8_t> bytes = encode(format_info(id), x, 256, nullptr);
                float out[256];
                decode_row<id>(bytes.data(), out, 256);
                const auto [peak, zeros] = lone_error(id);
                for (int i = 0; i < 256; ++i)
                    CHECK(std::fabs(out[i] - x[i]) <= (i == at ? peak : zeros) * std::fabs(value));
            }
    });
}

// A grid has no zero: beside an element of magnitude 1 the others decode to the lowest of its levels, or to
// one that the nearest point has. In IQ3_S runs of zeros before it displace the element (see
// grid_formats.hpp).
TEST_CASE("one element among zeros survives in a grid, and the zeros stay small") {
    const std::vector<float> ones(256, 1.0f);
    each_grid([&]<FormatId id>() {
        CAPTURE(std::string(format_info(id).name));
        for (int at : {0, 15, 31, 100, 255})
            for (float value : {1.0f, -1.0f, 640.0f, -8.0f}) {
                if (id == FormatId::IQ3_S && at >= 32) continue;
                std::vector<float> x(256, 0.0f);
                x[at] = value;
                const std::vector<uint8_t> bytes = encode(format_info(id), x, 256, ones.data());
                float out[256];
                decode_row<id>(bytes.data(), out, 256);
                CAPTURE(out[at]);
                CHECK(std::fabs(out[at] - value) <= 0.25f * std::fabs(value));
                for (int i = 0; i < 256; ++i)
                    if (i != at) CHECK(std::fabs(out[i]) <= 0.25f * std::fabs(value));
            }
    });
}

TEST_CASE("Q1_0 keeps signs and the mean magnitude of a block") {
    Rng rng(17);
    std::vector<float> x(256);
    for (float& v : x) v = rng.uniform();
    x[3] = 0.0f;
    x[4] = -0.0f;
    const std::vector<uint8_t> bytes = encode(format_info(FormatId::Q1_0), x, 256, nullptr);
    float out[256];
    decode_row<FormatId::Q1_0>(bytes.data(), out, 256);
    for (int block = 0; block < 2; ++block) {
        double sum = 0;
        for (int i = block * 128; i < (block + 1) * 128; ++i) sum += std::fabs(x[i]);
        for (int i = block * 128; i < (block + 1) * 128; ++i) {
            CHECK(std::fabs(out[i]) == doctest::Approx(sum / 128).epsilon(0x1p-10));
            CHECK(std::signbit(out[i]) == (x[i] < 0));  // zeros of either sign count as positive
        }
    }
}

// The floored logarithm that fixes MXFP4's exponent is taken of a float32: just below a power of two it
// rounds up.
TEST_CASE("MXFP4 and NVFP4 scales at the edges of their ranges") {
    std::vector<float> x(64, 0.0f);
    const auto first_byte = [&](FormatId id, float peak) {
        x[5] = peak;
        return static_cast<int>(encode(format_info(id), x, 64, nullptr)[0]);
    };
    const auto e8m0 = [&](float peak) { return first_byte(FormatId::MXFP4, peak); };
    CHECK(e8m0(1.0f) == 125);
    CHECK(e8m0(-4.0f) == 127);
    CHECK(e8m0(std::nextafter(1.0f, 0.0f)) == 124);     // logarithms near 0 are fine
    CHECK(e8m0(std::nextafter(0x1p40f, 0.0f)) == 165);  // rounds to 40
    CHECK(e8m0(0x1p40f - 22 * 0x1p16f) == 165);         // 22 units of 24 bits below still do
    CHECK(e8m0(0x1p40f - 23 * 0x1p16f) == 164);         // 23 no more
    CHECK(e8m0(std::numeric_limits<float>::max()) == 253);
    CHECK(e8m0(0x1p-125f) == 0);
    CHECK(e8m0(0x1p-126f) == 255);  // wraps, as in ggml
    CHECK(e8m0(0.0f) == 0);
    const auto ue4m3 = [&](float peak) { return first_byte(FormatId::NVFP4, peak); };
    CHECK(ue4m3(6.0f) == 0x38);
    CHECK(ue4m3(6.0f * 1.0625f) == 0x39);  // halves up
    CHECK(ue4m3(6.0f * 1.9375f) == 0x40);  // with a carry
    CHECK(ue4m3(6.0f * 240.0f) == 0x77);
    CHECK(ue4m3(6.0f * 256.0f) == 0x7e);  // 448
    CHECK(ue4m3(1e30f) == 0x7e);
    CHECK(ue4m3(6.0f * 0x1p-9f) == 1);
    CHECK(ue4m3(6.0f * 0x1p-10f) == 1);
    CHECK(ue4m3(5.9f * 0x1p-10f) == 0);
    CHECK(ue4m3(6.0f * 0x1p-6f) == 8);
    CHECK(ue4m3(6.0f * 7.9f * 0x1p-9f) == 7);  // the subnormals do not round up into the normal numbers
}

// For the scale and minimum as stored, no other integer would have been closer, or only by what the rounding
// of the scale to f16 can move where integers are chosen before it.
TEST_CASE("each integer is the nearest that the stored scale allows") {
    Rng rng(99);
    std::vector<float> x(8 * 256);
    for (size_t i = 0; i < x.size(); ++i) {
        const float u = rng.uniform();
        x[i] = std::ldexp(u * rng.uniform(), static_cast<int>(i / 256) * 3 - 12);
    }
    each_quantized([&]<FormatId id>() {
        using Form = CommonForm<id>;
        CAPTURE(std::string(format_info(id).name));
        const std::vector<uint8_t> bytes = encode(format_info(id), x, 256, nullptr);
        const auto k = static_cast<int64_t>(x.size());
        std::vector<int8_t> q(x.size());
        std::vector<float> scales(x.size() / Form::run), minima(x.size() / Form::run, 0.0f), out(x.size());
        unpack_row<id>(bytes.data(), q.data(), scales.data(), minima.data(), k);
        decode_row<id>(bytes.data(), out.data(), k);
        const std::vector<int> levels = levels_of(id);
        const float finest = id == FormatId::IQ4_XS ? 32 * 0x1p-25f : 0x1p-25f;  // scales are multiples
        const bool chosen_after_rounding = chosen_for_stored_scale(id);
        for (size_t i = 0; i < x.size(); ++i) {
            const float scale = scales[i / Form::run], minimum = minima[i / Form::run];
            CHECK(std::find(levels.begin(), levels.end(), q[i]) != levels.end());
            if (scale == 0) continue;
            float best = INFINITY;
            for (int level : levels)
                best = std::min(best, std::fabs(x[i] - (scale * static_cast<float>(level) - minimum)));
            const float f16_error = std::max(std::fabs(scale) * 0x1p-11f, finest);
            const float slack =
                chosen_after_rounding
                    ? 1e-5f * (std::fabs(x[i]) + std::fabs(minimum))
                    : 2 * (static_cast<float>(std::max(-levels.front(), levels.back())) * f16_error +
                           std::fabs(minimum) * 0x1p-11f);
            CHECK(std::fabs(x[i] - out[i]) <= best + slack);
        }
    });
}

TEST_CASE("error shrinks with the bits") {
    Rng rng(5);
    std::vector<float> x(16 * 256);
    for (float& v : x) v = rng.uniform() + rng.uniform() + rng.uniform();
    const std::vector<float> ones(256, 1.0f);
    const auto relative_rmse = [&]<FormatId id>() {
        const float* imatrix = format_info(id).needs_imatrix ? ones.data() : nullptr;
        const std::vector<uint8_t> bytes = encode(format_info(id), x, 256, imatrix);
        std::vector<float> out(x.size());
        decode_row<id>(bytes.data(), out.data(), static_cast<int64_t>(x.size()));
        double error = 0, power = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            error += std::pow(double{x[i]} - out[i], 2);
            power += std::pow(double{x[i]}, 2);
        }
        return std::sqrt(error / power);
    };
    CHECK(relative_rmse.operator()<FormatId::Q8_0>() < 0.006);
    CHECK(relative_rmse.operator()<FormatId::Q6_K>() < 0.02);
    CHECK(relative_rmse.operator()<FormatId::Q5_K>() < 0.04);
    CHECK(relative_rmse.operator()<FormatId::Q5_1>() < 0.04);
    CHECK(relative_rmse.operator()<FormatId::Q5_0>() < 0.05);
    CHECK(relative_rmse.operator()<FormatId::Q4_K>() < 0.08);
    CHECK(relative_rmse.operator()<FormatId::Q4_1>() < 0.08);
    CHECK(relative_rmse.operator()<FormatId::Q4_0>() < 0.1);
    CHECK(relative_rmse.operator()<FormatId::Q3_K>() < 0.16);
    CHECK(relative_rmse.operator()<FormatId::Q2_K>() < 0.33);
    CHECK(relative_rmse.operator()<FormatId::IQ4_NL>() < 0.09);
    CHECK(relative_rmse.operator()<FormatId::IQ4_XS>() < 0.09);
    CHECK(relative_rmse.operator()<FormatId::IQ3_S>() < 0.16);
    CHECK(relative_rmse.operator()<FormatId::IQ3_XXS>() < 0.22);
    CHECK(relative_rmse.operator()<FormatId::IQ2_S>() < 0.3);
    CHECK(relative_rmse.operator()<FormatId::IQ2_XS>() < 0.32);
    CHECK(relative_rmse.operator()<FormatId::IQ2_XXS>() < 0.36);
    CHECK(relative_rmse.operator()<FormatId::IQ1_M>() < 0.6);
    CHECK(relative_rmse.operator()<FormatId::IQ1_S>() < 0.55);
    CHECK(relative_rmse.operator()<FormatId::NVFP4>() < 0.11);
    CHECK(relative_rmse.operator()<FormatId::MXFP4>() < 0.15);
    CHECK(relative_rmse.operator()<FormatId::Q1_0>() < 0.65);
}

// Under UBSan this is the test that no conversion or shift is undefined for any finite input.
TEST_CASE("any finite bits encode, with any finite weights") {
    Rng rng(31);
    std::vector<float> x(256), imatrix(256);
    for (int round = 0; round < 300; ++round) {
        const int base = static_cast<int>(rng.next() % 250);  // of the exponents in this row, when narrow
        for (int i = 0; i < 256; ++i) {
            const auto wide = static_cast<uint32_t>(rng.next());
            const uint32_t exponent = static_cast<uint32_t>(base) + (wide >> 8) % 4;
            const uint32_t narrow = (wide & 0x807fffffu) | exponent << 23;
            const uint32_t bits = round % 2 ? narrow : (wide >> 23 & 255) == 255 ? wide & 0x807fffffu : wide;
            x[i] = std::bit_cast<float>(bits);
            const uint64_t w = rng.next();
            imatrix[i] = round % 3 == 0 || w % 8 == 0 ? 0.0f
                         : (w >> 23 & 255) == 255
                             ? 1.0f
                             : std::bit_cast<float>(static_cast<uint32_t>(w) & 0x7fffffffu);
        }
        const float* const choices[] = {nullptr, imatrix.data()};
        for (const FormatInfo& f : all_formats()) {
            for (const float* weights : choices)  // twice: nothing uninitialized decides a byte
                CHECK(encode(f, x, 256, weights) == encode(f, x, 256, weights));
        }
    }
}
