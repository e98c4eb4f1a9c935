// The scalar decode of every format against its formula, read element by element from the block's bytes.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/codebooks/grids.hpp"
#include "formats/common_form.hpp"
#include "rng.hpp"

namespace {

using namespace bq;

// Each formula addresses single bits from the element's index alone and shares no code with the unpackers.
struct Bytes {
    const uint8_t* p;
    int bits(int byte, int shift, int count) const { return p[byte] >> shift & ((1 << count) - 1); }
    float f16(int byte) const {  // by exponent arithmetic, not by bit tricks
        const int h = p[byte] | p[byte + 1] << 8;
        const int exponent = h >> 10 & 31, mantissa = h & 1023;
        double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
        return static_cast<float>(h >> 15 ? -magnitude : magnitude);
    }
};

float q4_0(Bytes b, int i) {
    return b.f16(0) * static_cast<float>(b.bits(2 + i % 16, i / 16 * 4, 4) - 8);
}
float q4_1(Bytes b, int i) {
    return b.f16(0) * static_cast<float>(b.bits(4 + i % 16, i / 16 * 4, 4)) + b.f16(2);
}
float q5_0(Bytes b, int i) {
    const int q = b.bits(6 + i % 16, i / 16 * 4, 4) + 16 * b.bits(2 + i / 8, i % 8, 1);
    return b.f16(0) * static_cast<float>(q - 16);
}
float q5_1(Bytes b, int i) {
    const int q = b.bits(8 + i % 16, i / 16 * 4, 4) + 16 * b.bits(4 + i / 8, i % 8, 1);
    return b.f16(0) * static_cast<float>(q) + b.f16(2);
}
float q8_0(Bytes b, int i) {
    const int byte = b.p[2 + i];
    return b.f16(0) * static_cast<float>(byte < 128 ? byte : byte - 256);
}
float q2_k(Bytes b, int i) {
    const int q = b.bits(16 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2);
    const float scale = b.f16(80) * static_cast<float>(b.bits(i / 16, 0, 4));
    const float minimum = b.f16(82) * static_cast<float>(b.bits(i / 16, 4, 4));
    const float product = scale * static_cast<float>(q);
    return product - minimum;
}
float q3_k(Bytes b, int i) {
    const int j = i / 16;
    const int scale = b.bits(96 + j % 8, j / 8 * 4, 4) + 16 * b.bits(104 + j % 4, j / 4 * 2, 2);
    const int q = b.bits(32 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) + 4 * b.bits(i % 32, i / 32, 1);
    return b.f16(108) * static_cast<float>(scale - 32) * static_cast<float>(q - 4);
}
// The 6-bit scale (which = 0) or minimum (which = 1) of run j of Q4_K and Q5_K.
int six_bits(Bytes b, int j, int which) {
    const int at = 4 + 4 * which;
    if (j < 4) return b.bits(at + j, 0, 6);
    return b.bits(12 + j - 4, 4 * which, 4) + 16 * b.bits(at + j - 4, 6, 2);
}
float q4_k(Bytes b, int i) {
    const int q = b.bits(16 + i / 64 * 32 + i % 32, i % 64 / 32 * 4, 4);
    const float scale = b.f16(0) * static_cast<float>(six_bits(b, i / 32, 0));
    const float minimum = b.f16(2) * static_cast<float>(six_bits(b, i / 32, 1));
    const float product = scale * static_cast<float>(q);
    return product - minimum;
}
float q5_k(Bytes b, int i) {
    const int q = b.bits(48 + i / 64 * 32 + i % 32, i % 64 / 32 * 4, 4) + 16 * b.bits(16 + i % 32, i / 32, 1);
    const float scale = b.f16(0) * static_cast<float>(six_bits(b, i / 32, 0));
    const float minimum = b.f16(2) * static_cast<float>(six_bits(b, i / 32, 1));
    const float product = scale * static_cast<float>(q);
    return product - minimum;
}
float q6_k(Bytes b, int i) {
    const int low = b.bits(i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4);
    const int high = b.bits(128 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2);
    const int byte = b.p[192 + i / 16];
    const float scale = b.f16(208) * static_cast<float>(byte < 128 ? byte : byte - 256);
    return scale * static_cast<float>(low + 16 * high - 32);
}

float tq1_0(Bytes b, int i) {
    const int byte = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4;
    const int trit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
    // Digit by digit: the byte is a fraction of 256, three times it carries the next digit over.
    int digit = 0;
    for (int n = 0, rest = b.p[byte]; n <= trit; ++n) {
        digit = 3 * rest / 256;
        rest = 3 * rest % 256;
    }
    return b.f16(52) * static_cast<float>(digit - 1);
}
float tq2_0(Bytes b, int i) {
    return b.f16(64) * static_cast<float>(b.bits(i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) - 1);
}
float q1_0(Bytes b, int i) {
    return b.bits(2 + i / 8, i % 8, 1) ? b.f16(0) : -b.f16(0);
}
float q2_0(Bytes b, int i) {
    return b.f16(0) * static_cast<float>(b.bits(2 + i / 4, 2 * (i % 4), 2) - 1);
}
// Sign, exponent and mantissa of the 4-bit floats; minus zero is zero.
double e2m1(int code) {
    const int exponent = code >> 1 & 3, mantissa = code & 1;
    const double magnitude = exponent ? std::ldexp(2 + mantissa, exponent - 2) : 0.5 * mantissa;
    return code >> 3 && magnitude != 0 ? -magnitude : magnitude;
}
float mxfp4(Bytes b, int i) {
    return static_cast<float>(std::ldexp(e2m1(b.bits(1 + i % 16, i / 16 * 4, 4)), b.p[0] - 127));
}
float nvfp4(Bytes b, int i) {
    const int code = b.bits(4 + i / 16 * 8 + i % 8, i % 16 / 8 * 4, 4);
    const int scale = b.p[i / 16], exponent = scale >> 3 & 15, mantissa = scale & 7;
    double value = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
    if (scale == 0x7f) value = 0;
    value *= e2m1(code);
    return static_cast<float>(value == 0 && code > 8 ? -0.0 : value);
}
constexpr int kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
float iq4_nl(Bytes b, int i) {
    return b.f16(0) * static_cast<float>(kIq4Levels[b.bits(2 + i % 16, i / 16 * 4, 4)]);
}
float iq4_xs(Bytes b, int i) {
    const int j = i / 32;
    const int scale = b.bits(4 + j / 2, j % 2 * 4, 4) + 16 * b.bits(2 + j / 4, j % 4 * 2, 2);
    const int level = kIq4Levels[b.bits(8 + j * 16 + i % 16, i % 32 / 16 * 4, 4)];
    return b.f16(0) * static_cast<float>(scale - 32) * static_cast<float>(level);
}
// The formats with codebooks, in the arithmetic of their definition. `bit` counts from the start of the
// block.
int field(Bytes b, int bit, int count) {
    int value = 0;
    for (int n = 0; n < count; ++n) value |= b.bits((bit + n) / 8, (bit + n) % 8, 1) << n;
    return value;
}
float level(const uint16_t* grid, const int8_t* levels, int point, int i, int bits) {
    return static_cast<float>(levels[grid[point] >> bits * i & ((1 << bits) - 1)]);
}
// Sign of element i of eight when seven are stored.
float even_sign(int stored, int i) {
    const int bit = i < 7 ? stored >> i & 1 : std::popcount(static_cast<unsigned>(stored)) % 2;
    return bit ? -1.0f : 1.0f;
}
float iq2_xxs(Bytes b, int i) {
    namespace book = codebooks::iq2_xxs;
    const int run = 16 + 64 * (i / 32), l = i % 32 / 8;
    const float scale = b.f16(0) * (0.5f + static_cast<float>(field(b, run + 60, 4))) * 0.25f;
    return scale * level(book::kGrid, book::kLevels, field(b, run + 8 * l, 8), i % 8, 2) *
           even_sign(field(b, run + 32 + 7 * l, 7), i % 8);
}
float iq2_xs(Bytes b, int i) {
    namespace book = codebooks::iq2_xs;
    const int at = 16 + 16 * (i / 8);
    const float scale = b.f16(0) * (0.5f + static_cast<float>(field(b, 8 * 66 + 4 * (i / 16), 4))) * 0.25f;
    return scale * level(book::kGrid, book::kLevels, field(b, at, 9), i % 8, 2) *
           even_sign(field(b, at + 9, 7), i % 8);
}
float iq2_s(Bytes b, int i) {
    namespace book = codebooks::iq2_s;
    const int l = i / 8, point = b.p[2 + l] + 256 * field(b, 8 * 66 + 2 * l, 2);
    const float scale = b.f16(0) * (0.5f + static_cast<float>(field(b, 8 * 74 + 4 * (i / 16), 4))) * 0.25f;
    return scale * level(book::kGrid, book::kLevels, point, i % 8, 2) *
           (field(b, 8 * 34 + i, 1) ? -1.0f : 1.0f);
}
float iq3_xxs(Bytes b, int i) {
    namespace book = codebooks::iq3_xxs;
    const int word = 8 * 66 + 32 * (i / 32);
    const float scale = b.f16(0) * (0.5f + static_cast<float>(field(b, word + 28, 4))) * 0.5f;
    return scale * level(book::kGrid, book::kLevels, b.p[2 + i / 4], i % 4, 3) *
           even_sign(field(b, word + 7 * (i % 32 / 8), 7), i % 8);
}
float iq3_s(Bytes b, int i) {
    namespace book = codebooks::iq3_s;
    const int point = b.p[2 + i / 4] + 256 * field(b, 8 * 66 + i / 4, 1);
    const float scale = b.f16(0) * static_cast<float>(1 + 2 * field(b, 8 * 106 + 4 * (i / 32), 4));
    return scale * level(book::kGrid, book::kLevels, point, i % 4, 3) *
           (field(b, 8 * 74 + i, 1) ? -1.0f : 1.0f);
}
float iq1_s(Bytes b, int i) {
    namespace book = codebooks::iq1_s;
    const int l = i / 8, qh = 8 * 34 + 16 * (i / 32),
              point = b.p[2 + l] + 256 * field(b, qh + 3 * (l % 4), 3);
    const float scale = b.f16(0) * static_cast<float>(2 * field(b, qh + 12, 3) + 1);
    return scale *
           (level(book::kGrid, book::kLevels, point, i % 8, 2) + (field(b, qh + 15, 1) ? -0.125f : 0.125f));
}
float iq1_m(Bytes b, int i) {
    namespace book = codebooks::iq1_s;
    const int l = i / 8, qh = 8 * 32 + 4 * l, point = b.p[l] + 256 * field(b, qh, 3);
    // The nibbles of d become a half in place of two bytes.
    const uint8_t d[2] = {static_cast<uint8_t>(field(b, 8 * 48 + 12, 4) | field(b, 8 * 50 + 12, 4) << 4),
                          static_cast<uint8_t>(field(b, 8 * 52 + 12, 4) | field(b, 8 * 54 + 12, 4) << 4)};
    const int run = i / 16;
    const float scale =
        Bytes{d}.f16(0) * static_cast<float>(2 * field(b, 8 * 48 + run / 4 * 16 + run % 4 * 3, 3) + 1);
    return scale *
           (level(book::kGrid, book::kLevels, point, i % 8, 2) + (field(b, qh + 3, 1) ? -0.125f : 0.125f));
}

bool same_bits_or_nan(float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// `halves`: byte offsets of the f16 fields, which also take every special value.
template <FormatId id>
void check_format(float (*formula)(Bytes, int), std::vector<int> halves) {
    using Form = CommonForm<id>;
    CAPTURE(std::string(format_info(id).name));
    constexpr uint16_t kSpecial[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0xfbff,
                                     0x7c00, 0xfc00, 0x7e00, 0xfd01, 0x3c00, 0xbc00};
    Rng rng(static_cast<uint64_t>(id) + 1);
    std::vector<uint8_t> storage(1 + Form::bytes);
    uint8_t* block = storage.data() + 1;  // an odd address, as a row of a mapped file may have
    int wrong = 0;
    for (int round = 0; round < 400; ++round) {
        for (int i = 0; i < Form::bytes; ++i) block[i] = static_cast<uint8_t>(rng.next());
        if (round >= 200)
            for (int at : halves) {
                const uint16_t h = kSpecial[rng.next() % std::size(kSpecial)];
                block[at] = static_cast<uint8_t>(h);
                block[at + 1] = static_cast<uint8_t>(h >> 8);
            }
        float out[Form::elements];
        decode_block<id>(block, out);
        for (int i = 0; i < Form::elements; ++i) wrong += !same_bits_or_nan(out[i], formula(Bytes{block}, i));
    }
    CHECK(wrong == 0);

    // The parts of the common form are what decode_block multiplies.
    int8_t q[Form::elements];
    float scales[Form::runs], minima[Form::runs] = {}, out[Form::elements];
    for (int at : halves) block[at + 1] = 0x35;
    if (id == FormatId::MXFP4) block[0] = 0x70;
    if (id == FormatId::IQ1_M) block[55] = 0x35;
    unpack_block<id>(block, q, scales, Form::has_minima ? minima : nullptr);
    decode_block<id>(block, out);
    for (int i = 0; i < Form::elements; ++i) {
        const float product = scales[i / Form::run] * static_cast<float>(q[i]);
        CHECK(out[i] == product - minima[i / Form::run]);
    }
}

}  // namespace

TEST_CASE("decode equals each format's formula, on random bytes and special scales") {
    check_format<FormatId::Q4_0>(q4_0, {0});
    check_format<FormatId::Q4_1>(q4_1, {0, 2});
    check_format<FormatId::Q5_0>(q5_0, {0});
    check_format<FormatId::Q5_1>(q5_1, {0, 2});
    check_format<FormatId::Q8_0>(q8_0, {0});
    check_format<FormatId::Q2_K>(q2_k, {80, 82});
    check_format<FormatId::Q3_K>(q3_k, {108});
    check_format<FormatId::Q4_K>(q4_k, {0, 2});
    check_format<FormatId::Q5_K>(q5_k, {0, 2});
    check_format<FormatId::Q6_K>(q6_k, {208});
    check_format<FormatId::TQ1_0>(tq1_0, {52});
    check_format<FormatId::TQ2_0>(tq2_0, {64});
    check_format<FormatId::Q1_0>(q1_0, {0});
    check_format<FormatId::Q2_0>(q2_0, {0});
    check_format<FormatId::MXFP4>(mxfp4, {});
    check_format<FormatId::NVFP4>(nvfp4, {});
    check_format<FormatId::IQ4_NL>(iq4_nl, {0});
    check_format<FormatId::IQ4_XS>(iq4_xs, {0});
    check_format<FormatId::IQ2_XXS>(iq2_xxs, {0});
    check_format<FormatId::IQ2_XS>(iq2_xs, {0});
    check_format<FormatId::IQ2_S>(iq2_s, {0});
    check_format<FormatId::IQ3_XXS>(iq3_xxs, {0});
    check_format<FormatId::IQ3_S>(iq3_s, {0});
    check_format<FormatId::IQ1_S>(iq1_s, {0});
    check_format<FormatId::IQ1_M>(iq1_m, {});
}

TEST_CASE("rows unpack and decode block after block") {
    constexpr int kBlocks = 3;
    using Form = CommonForm<FormatId::Q2_K>;
    uint8_t row[kBlocks * Form::bytes];
    Rng rng(7);
    for (uint8_t& byte : row) byte = static_cast<uint8_t>(rng.next() & 0x3f);  // finite scales
    int8_t q[kBlocks * Form::elements];
    float scales[kBlocks * Form::runs], minima[kBlocks * Form::runs], out[kBlocks * Form::elements];
    unpack_row<FormatId::Q2_K>(row, q, scales, minima, kBlocks * Form::elements);
    decode_row<FormatId::Q2_K>(row, out, kBlocks * Form::elements);
    for (int i = 0; i < kBlocks * Form::elements; ++i) {
        const float product = scales[i / Form::run] * static_cast<float>(q[i]);
        CHECK(out[i] == product - minima[i / Form::run]);
        CHECK(out[i] == q2_k(Bytes{row + i / 256 * Form::bytes}, i % 256));
    }
}

TEST_CASE("float rows decode by their bits") {
    const uint8_t f32[] = {0x00, 0x00, 0x80, 0xbf}, f16[] = {0x01, 0x80, 0x00, 0x3c}, bf16[] = {0x80, 0x3f};
    float out[2];
    decode_row<FormatId::F32>(f32, out, 1);
    CHECK(out[0] == -1.0f);
    decode_row<FormatId::F16>(f16, out, 2);
    CHECK(out[0] == -0x1p-24f);
    CHECK(out[1] == 1.0f);
    decode_row<FormatId::BF16>(bf16, out, 1);
    CHECK(out[0] == 1.0f);
}

TEST_CASE("every f16 becomes the float of its value, and comes back") {
    int wrong = 0;
    for (int h = 0; h < 65536; ++h) {
        const uint8_t bytes[2] = {static_cast<uint8_t>(h), static_cast<uint8_t>(h >> 8)};
        const float value = f16_to_f32(static_cast<uint16_t>(h));
        wrong += !same_bits_or_nan(value, Bytes{bytes}.f16(0));
        if (!std::isnan(value)) wrong += f32_to_f16(value) != h;
    }
    CHECK(wrong == 0);
}

TEST_CASE("floats round to the nearest 16-bit float, ties to even") {
    // Around the midpoint of each pair of neighbouring positive f16 values.
    int wrong = 0;
    for (uint16_t h = 0; h < 0x7bff; ++h) {
        const float low = f16_to_f32(h), high = f16_to_f32(static_cast<uint16_t>(h + 1));
        const float middle = (low + high) / 2;  // exact: one more bit than f16
        const uint16_t even = h & 1 ? static_cast<uint16_t>(h + 1) : h;
        wrong += f32_to_f16(middle) != even;
        wrong += f32_to_f16(std::nextafter(middle, 0.0f)) != h;
        wrong += f32_to_f16(std::nextafter(middle, 1e9f)) != h + 1;
        wrong += f32_to_f16(-middle) != (even | 0x8000);
    }
    CHECK(wrong == 0);
    CHECK(f32_to_f16(65519.996f) == 0x7bff);
    CHECK(f32_to_f16(65520.0f) == 0x7c00);
    CHECK(f32_to_f16(3e38f) == 0x7c00);
    CHECK(f32_to_f16(-INFINITY) == 0xfc00);
    CHECK((f32_to_f16(NAN) & 0x7fff) == 0x7e00);
    CHECK(f32_to_f16(0x1p-25f) == 0);
    CHECK(f32_to_bf16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);
    CHECK(f32_to_bf16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);
    CHECK(f32_to_bf16(std::bit_cast<float>(0x7f7fffffu)) == 0x7f80);
    CHECK(f32_to_bf16(std::bit_cast<float>(0x7f800001u)) == 0x7fc0);
}
