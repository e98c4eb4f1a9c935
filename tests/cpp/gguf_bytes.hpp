// Builds GGUF files in memory, valid or not, for the tests of the parser and the seeds of its fuzzer.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/parser.hpp"

namespace bq::test {

class GgufBytes {
  public:
    explicit GgufBytes(bool big_endian = false) : big_(big_endian) {}

    GgufBytes& header(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
        raw("GGUF").u32(version).u64(tensors);
        return u64(entries);
    }
    GgufBytes& raw(std::string_view s) {
        for (const char c : s) bytes_.push_back(static_cast<uint8_t>(c));
        return *this;
    }
    GgufBytes& u8(uint8_t v) {
        bytes_.push_back(v);
        return *this;
    }
    GgufBytes& u32(uint32_t v) { return integer(v, 4); }
    GgufBytes& u64(uint64_t v) { return integer(v, 8); }
    GgufBytes& type(gguf::ValueType t) { return u32(static_cast<uint32_t>(t)); }
    GgufBytes& string(std::string_view s) { return u64(s.size()).raw(s); }
    GgufBytes& key(std::string_view name, gguf::ValueType t) { return string(name).type(t); }
    GgufBytes& array(gguf::ValueType element, uint64_t count) { return type(element).u64(count); }
    GgufBytes& tensor(std::string_view name, std::span<const uint64_t> dims, uint32_t type, uint64_t offset) {
        string(name).u32(static_cast<uint32_t>(dims.size()));
        for (const uint64_t d : dims) u64(d);
        return u32(type).u64(offset);
    }
    GgufBytes& pad(size_t alignment = 32) {
        while (bytes_.size() % alignment) bytes_.push_back(0);
        return *this;
    }
    GgufBytes& data(size_t size) {
        bytes_.resize(bytes_.size() + size, 0x5a);
        return *this;
    }
    const std::vector<uint8_t>& bytes() const { return bytes_; }

  private:
    GgufBytes& integer(uint64_t v, int size) {
        for (int i = 0; i < size; ++i)
            bytes_.push_back(static_cast<uint8_t>(v >> 8 * (big_ ? size - 1 - i : i)));
        return *this;
    }

    std::vector<uint8_t> bytes_;
    bool big_;
};

// A small file with every value type, nested arrays, and three tensors.
inline std::vector<uint8_t> gguf_sample(bool big_endian = false, uint32_t version = 3) {
    using enum gguf::ValueType;
    GgufBytes f(big_endian);
    f.header(3, 16, version);
    f.key("general.architecture", String).string("llama");
    f.key("general.alignment", UInt32).u32(64);
    f.key("v.u8", UInt8).u8(200);
    f.key("v.i8", Int8).u8(0xfe);
    f.key("v.u16", UInt16).u8(1).u8(2);
    f.key("v.i16", Int16).u8(1).u8(2);
    f.key("v.i32", Int32).u32(0xffffffff);
    f.key("v.f32", Float32).u32(std::bit_cast<uint32_t>(1.5f));
    f.key("v.bool", Bool).u8(1);
    f.key("v.u64", UInt64).u64(1ull << 40);
    f.key("v.i64", Int64).u64(~0ull);
    f.key("v.f64", Float64).u64(std::bit_cast<uint64_t>(2.5));
    f.key("a.strings", Array).array(String, 3).string("x").string("").string("\xff\x80");
    f.key("a.numbers", Array).array(UInt32, 2).u32(7).u32(8);
    f.key("a.empty", Array).array(Float32, 0);
    f.key("a.nested", Array).array(Array, 2).array(Bool, 2).u8(0).u8(1).array(String, 1).string("deep");
    const uint64_t matrix[] = {256, 2}, vector[] = {5}, cube[] = {32, 2, 3};
    f.tensor("q", matrix, 12, 0);    // Q4_K: 288 bytes
    f.tensor("v", vector, 0, 320);   // F32: 20 bytes
    f.tensor("cube", cube, 8, 384);  // Q8_0: 204 bytes
    return f.pad(64).data(384 + 204).bytes();
}

}  // namespace bq::test
