// Every instruction set's encoders against the scalar reference, byte for byte.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "encode/encode.hpp"
#include "kernel_tables.hpp"

namespace {

using namespace bq;
using namespace bq::test;

float gaussian(Rng& rng) {
    float sum = 0;
    for (int i = 0; i < 6; ++i) sum += rng.uniform();
    return sum;
}

float random_sign(Rng& rng) {
    return rng.next() & 32 ? -1.0f : 1.0f;
}

float any_finite(Rng& rng) {
    for (;;) {
        const auto value = std::bit_cast<float>(static_cast<uint32_t>(rng.next() >> 16));
        if (std::isfinite(value)) return value;
    }
}

// A row of k elements of a kind that some part of a search finds hard.
constexpr int kKinds = 30;
std::vector<float> row_of(int kind, int64_t k, Rng& rng) {
    std::vector<float> x(static_cast<size_t>(k));
    const float constant = gaussian(rng);
    int exponent = 0;  // of a run
    for (int64_t i = 0; i < k; ++i) {
        const float g = gaussian(rng);
        const auto odd = static_cast<int>(rng.next() >> 20 & 1023);
        if (i % 16 == 0) exponent = static_cast<int>(rng.next() >> 30 & 255) - 150;
        const float zero = odd & 1 ? -0.0f : 0.0f;
        float& v = x[static_cast<size_t>(i)];
        switch (kind) {
            case 0:
                v = g;
                break;
            case 1:
                v = g * g * g * g * g;
                break;  // heavy tails
            case 2:
                v = constant;
                break;
            case 3:
                v = zero;
                break;
            case 4:
                v = odd % 16 == 0 ? g : zero;
                break;  // sparse
            case 5:
                v = i / 16 % 3 == 0 ? constant : g;
                break;  // runs of equal values
            case 6:
                v = i / 16 % 3 == 0 ? zero : g;
                break;
            case 7:
                v = std::fabs(g);
                break;
            case 8:
                v = -std::fabs(g);
                break;
            case 9:
                v = 5.0f + std::ldexp(g, -7);
                break;
            case 10:
                v = -5.0f + std::ldexp(g, -7);
                break;
            case 11:
                v = std::round(g * 3);
                break;  // many ties
            case 12:
                v = random_sign(rng) * 0.25f;
                break;
            case 13:
                v = i % 64 == 7 ? random_sign(rng) * 100.0f : std::ldexp(g, -8);
                break;  // outliers
            case 14:
                v = std::ldexp(g, exponent);
                break;  // any magnitude a run
            case 15:
                v = std::ldexp(g, exponent / 8 + 60);
                break;  // squares overflow
            case 16:
                v = std::ldexp(g, 62);
                break;
            case 17:
                v = std::ldexp(g, 100);
                break;
            case 18:
                v = random_sign(rng) * 3.4028235e38f;
                break;
            case 19:
                v = 3.4028235e38f;
                break;
            case 20:
                v = std::ldexp(g, -45);
                break;  // around 1e-15
            case 21:
                v = std::ldexp(g, -52);
                break;
            case 22:
                v = std::ldexp(g, -125);
                break;
            case 23:
                v = std::ldexp(g, -140);
                break;  // subnormal
            case 24:
                v = any_finite(rng);
                break;
            case 25:
                v = std::ldexp(g, odd % 40 - 20);
                break;
            case 26:
                v = i % 32 == odd % 32 ? g : zero;
                break;  // one or none a run
            case 27:
                v = std::ldexp(g, -20);
                break;  // scales subnormal in f16
            case 28:
                v = odd % 8 ? 1.0f : -1.0f + std::ldexp(g, -20);
                break;
            default:
                v = odd == 5 ? std::ldexp(g, 90) : g;
                break;  // lone huge elements
        }
    }
    return x;
}

constexpr int kWeightKinds = 10;
std::vector<float> weights_of(int kind, int64_t k, Rng& rng) {
    std::vector<float> w(static_cast<size_t>(k));
    for (size_t i = 0; i < w.size(); ++i) {
        const float u = std::fabs(rng.uniform());
        const auto odd = rng.next() >> 20;
        switch (kind) {
            case 0:
                w[i] = u * u * 8;
                break;
            case 1:
                w[i] = odd & 1 ? u : 0.0f;
                break;
            case 2:
                w[i] = i / 16 % 2 ? u : 0.0f;
                break;  // runs without weight
            case 3:
                w[i] = 0;
                break;
            case 4:
                w[i] = 1;
                break;
            case 5:
                w[i] = u * 1e30f;
                break;
            case 6:
                w[i] = 3e38f;
                break;
            case 7:
                w[i] = u * 1e-38f;
                break;
            case 8:
                w[i] = std::ldexp(u, static_cast<int>(odd & 255) - 130);
                break;
            default:
                w[i] = odd % 16 ? 1e-6f : 1e6f;
                break;  // almost only weightless elements
        }
    }
    return w;
}

std::string hex(const uint8_t* bytes, int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) {
        const char* digits = "0123456789abcdef";
        text += {digits[bytes[i] >> 4], digits[bytes[i] & 15]};
    }
    return text;
}

// The bytes of one row from every encoder, at an odd address and between guards, against the reference.
void check_row(const FormatInfo& f, const std::vector<float>& x, const float* imatrix) {
    const auto k = static_cast<int64_t>(x.size());
    const int64_t row_bytes = f.row_bytes(k);
    std::vector<uint8_t> expected(static_cast<size_t>(row_bytes));
    reference_encoder(f.id)(x.data(), expected.data(), k, imatrix);
    for (const KernelTable* table : encoder_kernels(f.id)) {
        std::vector<uint8_t> out(static_cast<size_t>(row_bytes) + 2, 0xa5);
        (*table)[f.id].encode(x.data(), out.data() + 1, k, imatrix);
        CHECK(out.front() == 0xa5);
        CHECK(out.back() == 0xa5);
        if (std::memcmp(out.data() + 1, expected.data(), expected.size()) == 0) continue;
        CAPTURE(std::string(table->isa));
        int64_t block = 0;
        const int64_t size = f.type_size;
        while (std::memcmp(out.data() + 1 + block * size, expected.data() + block * size,
                           static_cast<size_t>(size)) == 0)
            ++block;
        CAPTURE(block);
        CHECK(hex(out.data() + 1 + block * size, size) == hex(expected.data() + block * size, size));
    }
}

std::vector<FormatId> encoded_formats() {
    std::vector<FormatId> ids;
    for (const FormatInfo& f : all_formats())
        if (reference_encoder(f.id) != nullptr) ids.push_back(f.id);
    return ids;
}

}  // namespace

TEST_CASE("encoders of every instruction set give the reference's bytes on every kind of row") {
    for (FormatId id : encoded_formats()) {
        const FormatInfo& f = format_info(id);
        CAPTURE(std::string(f.name));
        const int64_t k = 2048;
        Rng rng(static_cast<uint64_t>(id) + 77);
        for (int kind = 0; kind < kKinds; ++kind) {
            CAPTURE(kind);
            for (int weights = f.needs_imatrix ? 0 : -1; weights < kWeightKinds; ++weights) {
                CAPTURE(weights);
                const std::vector<float> x = row_of(kind, k, rng);
                std::vector<float> imatrix;
                if (weights >= 0) imatrix = weights_of(weights, k, rng);
                check_row(f, x, weights >= 0 ? imatrix.data() : nullptr);
            }
        }
    }
}

TEST_CASE("rows of any number of blocks, within their bounds") {
    for (FormatId id : encoded_formats()) {
        const FormatInfo& f = format_info(id);
        CAPTURE(std::string(f.name));
        const auto tables = encoder_kernels(id);
        Rng rng(static_cast<uint64_t>(id) + 5);
        // Floats of every length up to two vectors; blocks up to more than any group of lanes.
        const int most = f.block_size == 1 ? 70 : f.block_size < 256 ? 70 : 36;
        for (int blocks = 1; blocks <= most; ++blocks) {
            CAPTURE(blocks);
            const int64_t k = static_cast<int64_t>(blocks) * f.block_size;
            const std::vector<float> values = row_of(blocks % 2 ? 0 : 6, k, rng);
            const std::vector<float> importance = weights_of(0, k, rng);
            // Inputs that end where no memory is.
            const auto bytes_of = [](const std::vector<float>& v) {
                std::vector<uint8_t> bytes(v.size() * sizeof(float));
                std::memcpy(bytes.data(), v.data(), bytes.size());
                return bytes;
            };
            const GuardedBytes x(bytes_of(values)), w(bytes_of(importance));
            std::vector<uint8_t> expected(static_cast<size_t>(f.row_bytes(k)));
            for (const bool weighted : {false, true}) {
                if (f.needs_imatrix && !weighted) continue;
                reference_encoder(id)(values.data(), expected.data(), k,
                                      weighted ? importance.data() : nullptr);
                for (const KernelTable* table : tables) {
                    CAPTURE(std::string(table->isa));
                    GuardedBytes out(std::vector<uint8_t>(expected.size(), 0x5a));
                    (*table)[id].encode(reinterpret_cast<const float*>(x.data()), out.data(), k,
                                        weighted ? reinterpret_cast<const float*>(w.data()) : nullptr);
                    CHECK(std::memcmp(out.data(), expected.data(), expected.size()) == 0);
                }
            }
        }
    }
}

// The exponent comes from a logarithm rounded to float32, which just below a power of two is that power.
TEST_CASE("MXFP4 exponents around every power of two") {
    for (int power = -149; power <= 127; ++power) {
        CAPTURE(power);
        std::vector<float> x;
        for (int below = 0; below < 100; ++below)
            for (int i = 0; i < 32; ++i)
                x.push_back(i == below % 32 ? std::ldexp(1.0f - static_cast<float>(below) * 0x1p-24f, power)
                                            : 0.0f);
        check_row(format_info(FormatId::MXFP4), x, nullptr);
    }
}

TEST_CASE("float formats convert NaNs and infinities as the reference does") {
    std::vector<float> x;
    for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffbfffffu,
                                0x7fffffffu, 0x477fefffu, 0x477ff000u, 0x33000000u, 0x33000001u, 0x387fffffu})
        for (int copies = 0; copies < 3; ++copies) x.push_back(std::bit_cast<float>(bits));
    for (const FormatId id : {FormatId::F16, FormatId::BF16}) check_row(format_info(id), x, nullptr);
}

// Ends of the intervals of magnitudes that E2M1 rounds to one value, and the floats beside them, of both
// signs, in runs whose largest magnitude is six times the scale.
std::vector<float> around_bounds(float scale, int run) {
    std::vector<float> x;
    for (const float bound : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f})
        for (int step = -2; step <= 2; ++step)
            for (const float sign : {1.0f, -1.0f}) {
                if (x.size() % static_cast<size_t>(run) == 0) x.push_back(6 * scale);
                const uint32_t bits = std::bit_cast<uint32_t>(bound * scale);
                x.push_back(sign * std::bit_cast<float>(bits + static_cast<uint32_t>(step)));
            }
    while (x.size() % 64 != 0) x.push_back(0.0f);
    return x;
}

TEST_CASE("elements around the bounds between the values of MXFP4 and NVFP4, for every scale") {
    for (int power = -120; power <= 124; ++power) {
        CAPTURE(power);
        check_row(format_info(FormatId::MXFP4), around_bounds(std::ldexp(1.0f, power), 32), nullptr);
    }
    for (int code = 1; code < 127; ++code) {
        CAPTURE(code);
        const float scale = code < 8 ? std::ldexp(static_cast<float>(code), -9)
                                     : std::ldexp(8.0f + static_cast<float>(code % 8), code / 8 - 10);
        check_row(format_info(FormatId::NVFP4), around_bounds(scale, 16), nullptr);
    }
}

// Scales whose inverse is finite, infinite, and finite while twice the inverse is not.
TEST_CASE("scales around the smallest with an inverse") {
    Rng rng(9);
    for (const FormatId id :
         {FormatId::TQ1_0, FormatId::TQ2_0, FormatId::Q2_0, FormatId::Q8_0, FormatId::Q4_0})
        for (const float largest : {0x1p-125f, 0x1p-126f, 0x1.8p-127f, 0x1p-127f, 0x1.8p-128f,
                                    0x1.000008p-128f, 0x1p-128f, 0x1p-129f, 0x1p-149f}) {
            CAPTURE(largest);
            for (const float factor : {1.0f, 8.0f, 127.0f}) {
                std::vector<float> x(1024);
                for (float& v : x) {
                    const auto eighths = static_cast<float>(rng.next() >> 20 & 7);
                    v = random_sign(rng) * (largest * eighths / 8) * factor;
                }
                for (size_t i = 0; i < x.size(); i += 32) x[i] = largest * factor;
                check_row(format_info(id), x, nullptr);
            }
        }
}

TEST_CASE("encoders that look for NaNs and infinities themselves find them") {
    for (FormatId id : encoded_formats()) {
        const FormatInfo& f = format_info(id);
        CAPTURE(std::string(f.name));
        Rng rng(static_cast<uint64_t>(id) + 31);
        const int64_t k = 3 * 256;
        const std::vector<float> x = row_of(0, k, rng), zeros(x.size());
        std::vector<uint8_t> expected(static_cast<size_t>(f.row_bytes(k))), out(expected.size());
        reference_encoder(id)(x.data(), expected.data(), k, nullptr);
        for (const KernelTable* table : encoder_kernels(id)) {
            const EncodeIfFinite encode = (*table)[id].encode_if_finite;
            if (encode == nullptr) continue;
            CAPTURE(std::string(table->isa));
            CHECK(encode(x.data(), out.data(), k));
            CHECK(out == expected);
            CHECK(encode(zeros.data(), out.data(), k));
            int64_t missed = 0;
            for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u, 0x7f800001u,
                                        0xff800001u, 0x7fffffffu, 0xffffffffu})
                for (std::vector<float> with : {x, zeros})
                    for (float& value : with) {
                        const float finite = std::exchange(value, std::bit_cast<float>(bits));
                        missed += encode(with.data(), out.data(), k);
                        value = finite;
                    }
            CHECK(missed == 0);
        }
    }
}
