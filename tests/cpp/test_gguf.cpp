#include <doctest/doctest.h>

#include <cstring>
#include <memory>

#include "formats/iq_grids.hpp"
#include "formats/k_quants.hpp"
#include "gguf/byteswap.hpp"
#include "gguf_bytes.hpp"

using namespace bq::gguf;
using bq::test::gguf_sample;
using bq::test::GgufBytes;
using enum ValueType;

namespace {

// The message of the parser, "" for a good file. Parses an allocation of exactly this size, so that a
// sanitizer sees a read beyond it.
std::string parse_error(std::span<const uint8_t> bytes) {
    const auto exact = std::make_unique<uint8_t[]>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), exact.get());
    try {
        parse({exact.get(), bytes.size()});
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

std::string parse_error(const GgufBytes& f) {
    return parse_error(f.bytes());
}

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

GgufBytes one_tensor(std::span<const uint64_t> dims, uint32_t type, uint64_t offset, size_t data,
                     uint32_t alignment = 32) {
    GgufBytes f;
    f.header(1, 1).key("general.alignment", UInt32).u32(alignment);
    f.tensor("t", dims, type, offset);
    return f.pad(alignment).data(data);
}

}  // namespace

TEST_CASE("a file of either byte order and version is indexed") {
    for (const bool big : {false, true})
        for (const uint32_t version : {2u, 3u}) {
            const auto bytes = gguf_sample(big, version);
            const File f = parse(bytes);
            CHECK(f.version == version);
            CHECK(f.big_endian == big);
            CHECK(f.alignment == 64);
            REQUIRE(f.metadata.size() == 16);
            CHECK(f.metadata[0].key == "general.architecture");
            CHECK(f.metadata[0].value.size == 5);
            CHECK(std::memcmp(bytes.data() + f.metadata[0].value.offset, "llama", 5) == 0);
            const Value& strings = f.metadata[12].value;
            CHECK(strings.element == String);
            CHECK(strings.count == 3);
            CHECK(strings.size == 3 * 8 + 1 + 0 + 2);
            CHECK(f.metadata[14].value.count == 0);
            CHECK(f.metadata[15].value.element == Array);
            REQUIRE(f.tensors.size() == 3);
            CHECK(f.tensors[0].size == 288);
            CHECK(f.tensors[2].dims == std::array<uint64_t, 4>{32, 2, 3, 1});
            CHECK(f.tensors[2].offset == f.data_offset + 384);
            CHECK(f.data_offset % 64 == 0);
            CHECK(std::string_view(f.tensors[2].format) == "Q8_0");
        }
}

TEST_CASE("every truncation and every header is refused or parsed, with one line") {
    for (const bool big : {false, true}) {
        const auto bytes = gguf_sample(big);
        for (size_t n = 0; n < bytes.size(); ++n) {
            const std::string message = parse_error(std::span(bytes).first(n));
            CHECK_MESSAGE(message != "", n);
            CHECK(message.find('\n') == std::string::npos);
        }
        CHECK(parse_error(bytes) == "");
    }
}

TEST_CASE("any single byte may be wrong") {
    const auto good = gguf_sample();
    int refused = 0;
    for (size_t i = 0; i < good.size() - 588; ++i)
        for (const uint8_t flip : {0x01, 0x40, 0x80, 0xff}) {
            auto bytes = good;
            bytes[i] ^= flip;
            refused += parse_error(bytes) != "";
        }
    CHECK(refused > 1000);
}

TEST_CASE("counts and lengths beyond the file are refused before anything is allocated") {
    for (const uint64_t huge : {uint64_t{1000}, uint64_t{1} << 32, uint64_t{1} << 61, ~uint64_t{0}}) {
        CHECK(contains(parse_error(GgufBytes().header(huge, 0)), "room"));
        CHECK(contains(parse_error(GgufBytes().header(0, huge)), "room"));
        GgufBytes key, text, array, strings, nested;
        key.header(0, 1).u64(huge).data(14);
        CHECK(parse_error(key) != "");
        text.header(0, 1).key("k", String).u64(huge).data(20);
        CHECK(parse_error(text) != "");
        array.header(0, 1).key("k", Array).array(Float64, huge).data(64);
        CHECK(contains(parse_error(array), "room"));
        strings.header(0, 1).key("k", Array).array(String, huge).data(64);
        CHECK(contains(parse_error(strings), "room"));
        nested.header(0, 1).key("k", Array).array(Array, huge).data(64);
        CHECK(contains(parse_error(nested), "room"));
    }
}

TEST_CASE("what the header says wrongly is named") {
    CHECK(contains(parse_error(GgufBytes().raw("GGML")), "not a GGUF file"));
    CHECK(contains(parse_error(GgufBytes()), "not a GGUF file"));
    for (const uint32_t version : {0u, 1u, 4u, 0x10000u})
        CHECK(contains(parse_error(GgufBytes().header(0, 0, version)), "version"));

    GgufBytes twice, empty_key, unknown, boolean, deep;
    twice.header(0, 2).key("k", UInt8).u8(1).key("k", UInt8).u8(2);
    CHECK(contains(parse_error(twice), "'k' occurs twice"));
    empty_key.header(0, 1).key("", UInt32).u32(1);
    CHECK(contains(parse_error(empty_key), "empty"));
    unknown.header(0, 1).key("k", static_cast<ValueType>(13)).u32(1);
    CHECK(contains(parse_error(unknown), "value type 13"));
    boolean.header(0, 1).key("k", Bool).u8(2);
    CHECK(contains(parse_error(boolean), "bool"));
    deep.header(0, 1).key("k", Array);
    for (int i = 0; i < 100; ++i) deep.array(Array, 1);
    deep.array(UInt8, 0);
    CHECK(contains(parse_error(deep), "nested"));

    // The second of a million nameless tensors, each 24 zeros, ends the parse: 24 bytes of header and two
    // entries.
    const std::string nameless = parse_error(GgufBytes().header(1'000'000, 0).pad(25'000'000));
    CHECK(contains(nameless, "tensor name '' occurs twice"));
    CHECK(contains(nameless, "at byte 72"));

    GgufBytes wrong_type, not_power;
    wrong_type.header(0, 1).key("general.alignment", UInt64).u64(32);
    CHECK(contains(parse_error(wrong_type), "uint32"));
    for (const uint32_t alignment : {0u, 24u, 0xffffffffu}) {
        GgufBytes f;
        f.header(0, 1).key("general.alignment", UInt32).u32(alignment);
        CHECK(contains(parse_error(f), "power of two"));
    }
}

TEST_CASE("tensors must fit their format, the file and each other") {
    const uint64_t row[] = {64}, five[] = {1, 1, 1, 1, 1}, negative[] = {~uint64_t{0}},
                   overflow[] = {uint64_t{1} << 32, uint64_t{1} << 32},
                   hidden[] = {uint64_t{1} << 40, uint64_t{1} << 40, 0}, none[] = {4, 0},
                   many[] = {uint64_t{1} << 62};
    CHECK(parse_error(one_tensor(row, 0, 0, 256)) == "");
    CHECK(parse_error(one_tensor({}, 0, 0, 4)) == "");
    CHECK(parse_error(one_tensor(none, 0, 0, 0)) == "");
    CHECK(contains(parse_error(one_tensor(row, 0, 0, 255)), "truncated"));
    CHECK(contains(parse_error(one_tensor(five, 0, 0, 4)), "dimensions"));
    CHECK(contains(parse_error(one_tensor(negative, 0, 0, 4)), "64 bits"));
    CHECK(contains(parse_error(one_tensor(overflow, 0, 0, 4)), "64 bits"));
    const uint64_t shapeless[] = {0, uint64_t{1} << 60}, vast[] = {0, (uint64_t{1} << 60) - 1};
    CHECK(contains(parse_error(one_tensor(shapeless, 2, 0, 4)), "an address space"));
    CHECK(parse_error(one_tensor(vast, 2, 0, 4)) == "");
    CHECK(contains(parse_error(one_tensor(hidden, 0, 0, 4)), "64 bits"));
    CHECK(contains(parse_error(one_tensor(many, 0, 0, 4)), "64 bits"));
    CHECK(contains(parse_error(one_tensor(row, 12, 0, 256)), "256"));
    CHECK(contains(parse_error(one_tensor(row, 0, 16, 512)), "multiple of 32"));
    CHECK(contains(parse_error(one_tensor(row, 0, ~uint64_t{31}, 512)), "truncated"));
    CHECK(parse_error(one_tensor(row, 0, 16, 512, 1)) == "");
    CHECK(contains(parse_error(one_tensor(row, 0, 0, 64, 1 << 20)), "truncated"));
    for (const uint32_t id : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u})
        CHECK(contains(parse_error(one_tensor(row, id, 0, 512)), "removed"));
    for (const uint32_t id : {9u, 15u})
        CHECK(contains(parse_error(one_tensor(row, id, 0, 512)), "not stored"));
    for (const uint32_t id : {43u, 1000u, 0xffffffffu})
        CHECK(contains(parse_error(one_tensor(row, id, 0, 512)), "unknown"));

    GgufBytes twice, overlap, touching;
    twice.header(2, 0).tensor("t", row, 0, 0).tensor("t", row, 0, 256).pad().data(512);
    CHECK(contains(parse_error(twice), "'t' occurs twice"));
    overlap.header(2, 0).tensor("a", row, 0, 224).tensor("b", row, 0, 0).pad().data(512);
    CHECK(contains(parse_error(overlap), "'b' and 'a' overlap"));
    touching.header(2, 0).tensor("a", row, 0, 256).tensor("b", row, 0, 0).pad().data(512);
    CHECK(parse_error(touching) == "");
}

TEST_CASE("messages are one printable line whatever the names hold") {
    GgufBytes f;
    const std::string name = "evil\n\x1b[31m" + std::string(300, 'x');
    f.header(0, 2).key(name, UInt8).u8(1).key(name, UInt8).u8(2);
    const std::string message = parse_error(f);
    for (const char c : message) CHECK((c >= 0x20 && c < 0x7f));
    CHECK(message.size() < 200);
    CHECK(contains(message, "evil\\x0a"));
}

TEST_CASE("swapping the bytes of blocks moves the wide fields alone, and twice is nothing") {
    std::vector<uint8_t> original(2 * sizeof(bq::BlockQ4_K));
    for (size_t i = 0; i < original.size(); ++i) original[i] = static_cast<uint8_t>(i * 7);
    auto swapped = original;
    REQUIRE(swap_blocks("Q4_K", swapped.data(), swapped.size()));
    for (size_t block = 0; block < original.size(); block += sizeof(bq::BlockQ4_K)) {
        CHECK(swapped[block] == original[block + 1]);
        CHECK(swapped[block + 3] == original[block + 2]);
        for (size_t i = 4; i < sizeof(bq::BlockQ4_K); ++i) CHECK(swapped[block + i] == original[block + i]);
    }
    REQUIRE(swap_blocks("Q4_K", swapped.data(), swapped.size()));
    CHECK(swapped == original);
    CHECK_FALSE(swap_blocks("Q4_K", swapped.data(), swapped.size() - 1));
    CHECK_FALSE(swap_blocks("Q4_2", swapped.data(), 18));

    std::vector<uint8_t> words(original.begin(), original.begin() + sizeof(bq::BlockIQ1_M));
    swapped = words;
    REQUIRE(swap_blocks("IQ1_M", swapped.data(), swapped.size()));
    for (size_t i = 0; i < words.size(); ++i) CHECK(swapped[i] == words[i < 48 ? i : i ^ 1]);
}
