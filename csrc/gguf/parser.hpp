// The GGUF header: where each metadata value and each tensor lies in a file. Files are hostile: every offset,
// count and length is checked before it is used, and nothing is allocated that the file's own size does not
// justify. Values are located, not stored, so that a vocabulary of 150 000 strings costs one walk over their
// lengths.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bq::gguf {

// What is wrong, in one line of printable ASCII that ends with the offset in bytes.
class Error : public std::runtime_error {
  public:
    Error(const std::string& message, uint64_t offset);
    uint64_t offset() const { return offset_; }

  private:
    uint64_t offset_;
};

enum class ValueType : uint32_t {
    UInt8 = 0,
    Int8 = 1,
    UInt16 = 2,
    Int16 = 3,
    UInt32 = 4,
    Int32 = 5,
    Float32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    UInt64 = 10,
    Int64 = 11,
    Float64 = 12,
};
inline constexpr uint32_t kValueTypes = 13;

// Bytes of a value of fixed size; 0 for strings and arrays.
constexpr uint32_t scalar_size(ValueType type) {
    constexpr uint8_t sizes[kValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[static_cast<uint32_t>(type)];
}

inline constexpr uint64_t kMaxKeyBytes = 65535;                 // the specification's limit
inline constexpr uint64_t kMaxNameBytes = 1024;                 // tensor names; llama.cpp stops at 63
inline constexpr uint64_t kMaxStringBytes = uint64_t{1} << 30;  // llama.cpp's limits
inline constexpr uint64_t kMaxArrayElements = uint64_t{1} << 30;
inline constexpr int kMaxArrayDepth = 8;
inline constexpr uint64_t kDefaultAlignment = 32;

// One metadata value and where its bytes are. For a string the span is its text; for an array, its elements,
// which are `count` values of type `element` without headers of their own (nested arrays: element type and
// count before each).
struct Value {
    ValueType type;
    ValueType element;  // of an array, else equal to type
    uint64_t count;     // of an array, else 1
    uint64_t offset, size;
};

struct KeyValue {
    std::string_view key;
    Value value;
};

struct Tensor {
    std::string_view name;
    const char* format;
    int n_dims;                    // 0 to 4
    std::array<uint64_t, 4> dims;  // in the file's order: dims[0] is the row length; 1 beyond n_dims
    uint64_t offset;               // in the file
    uint64_t size;
};

// How a tensor type is stored: the registry's formats and the plain integers and doubles, which only files
// know.
struct TensorType {
    const char* name;
    int64_t id;
    uint32_t block_size, type_size;
};
std::span<const TensorType> plain_types();

// Keys and names are views of the parsed bytes.
struct File {
    uint32_t version = 0;
    bool big_endian = false;
    uint64_t alignment = kDefaultAlignment;
    uint64_t data_offset = 0;
    std::vector<KeyValue> metadata;
    std::vector<Tensor> tensors;
};

// `bytes` is the whole file. Throws Error.
File parse(std::span<const uint8_t> bytes);

// Reads forward through bytes of either order, never past the end.
class Cursor {
  public:
    Cursor(std::span<const uint8_t> bytes, bool big_endian, uint64_t position = 0)
        : bytes_(bytes), position_(position), big_endian_(big_endian) {}

    uint64_t position() const { return position_; }
    uint64_t remaining() const { return bytes_.size() - position_; }

    uint32_t u32(const char* what) { return static_cast<uint32_t>(integer(4, what)); }
    uint64_t u64(const char* what) { return integer(8, what); }
    std::string_view string(const char* what, uint64_t limit = kMaxStringBytes);
    ValueType value_type();
    // Moves past a value of this type and says where it was.
    Value value(ValueType type, int depth = 0);

    [[noreturn]] void fail(const std::string& message) const { throw Error(message, position_); }

  private:
    uint64_t integer(uint32_t size, const char* what);
    void skip(uint64_t size, const char* what);
    void check_bools(uint64_t count) const;

    std::span<const uint8_t> bytes_;
    uint64_t position_;
    bool big_endian_;
};

// A name for messages: printable ASCII, quoted, other bytes as \xNN, cut after 80.
std::string quoted(std::string_view text);

}  // namespace bq::gguf
