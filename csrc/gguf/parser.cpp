#include "gguf/parser.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "formats/format.hpp"

namespace bq::gguf {
namespace {

constexpr TensorType kPlainTypes[] = {
    {"I8", 24, 1, 1}, {"I16", 25, 1, 2}, {"I32", 26, 1, 4}, {"I64", 27, 1, 8}, {"F64", 28, 1, 8},
};

// The least a file can spend on an entry: key length, one byte of key, type, one byte of value; and name
// length, number of dimensions, type, offset.
constexpr uint64_t kMinKeyValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

// Types that ggml once had or keeps to itself, and what to say about them.
const char* reserved_type(uint32_t id) {
    switch (id) {
        case 4:
        case 5:
            return "Q4_2 and Q4_3 were removed from ggml";
        case 9:
        case 15:
            return "Q8_1 and Q8_K are formats of activations and are not stored in files";
        case 31:
        case 32:
        case 33:
            return "the interleaved Q4_0_N_M types were removed from ggml";
        case 36:
        case 37:
        case 38:
            return "the interleaved IQ4_NL_N_M types were removed from ggml";
        default:
            return nullptr;
    }
}

std::optional<TensorType> find_tensor_type(uint32_t id) {
    if (const FormatInfo* f = find_format(static_cast<int64_t>(id)))
        return TensorType{f->name, id, static_cast<uint32_t>(f->block_size),
                          static_cast<uint32_t>(f->type_size)};
    for (const TensorType& t : kPlainTypes)
        if (t.id == id) return t;
    return std::nullopt;
}

// Products and sums of numbers from the file; false when they do not fit.
bool multiply(uint64_t a, uint64_t b, uint64_t& out) {
    constexpr uint64_t limit = std::numeric_limits<int64_t>::max();
    if (b != 0 && a > limit / b) return false;
    out = a * b;
    return true;
}

std::string number(uint64_t n) {
    return std::to_string(n);
}

// Two entries with one name, by sorting: unlike hashing, no choice of names makes it slow.
template <class Entries, class Name>
std::optional<size_t> find_duplicate(const Entries& entries, Name name) {
    std::vector<uint32_t> order(entries.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        const int c = name(entries[a]).compare(name(entries[b]));
        return c != 0 ? c < 0 : a < b;
    });
    for (size_t i = 1; i < order.size(); ++i)
        if (name(entries[order[i - 1]]) == name(entries[order[i]])) return order[i];
    return std::nullopt;
}

uint64_t read_alignment(const File& file, std::span<const uint8_t> bytes) {
    for (const KeyValue& kv : file.metadata) {
        if (kv.key != "general.alignment") continue;
        if (kv.value.type != ValueType::UInt32)
            throw Error("general.alignment must be of type uint32", kv.value.offset);
        const uint64_t alignment = Cursor(bytes, file.big_endian, kv.value.offset).u32("the alignment");
        if (!std::has_single_bit(alignment))
            throw Error("general.alignment is " + number(alignment) + ", expected a power of two",
                        kv.value.offset);
        return alignment;
    }
    return kDefaultAlignment;
}

// The offset of the result is still relative to the data section.
Tensor read_tensor(Cursor& cursor) {
    Tensor tensor{};
    tensor.name = cursor.string("a tensor name", kMaxNameBytes);
    // Made when something is wrong: a file may have ten thousand tensors.
    const auto label = [&] { return "tensor " + quoted(tensor.name); };
    const uint32_t n_dims = cursor.u32("a number of dimensions");
    if (n_dims > 4) cursor.fail(label() + " has " + number(n_dims) + " dimensions, expected at most 4");
    tensor.n_dims = static_cast<int>(n_dims);
    tensor.dims.fill(1);
    uint64_t elements = 1;
    bool empty = false;
    for (uint32_t i = 0; i < n_dims; ++i) {
        tensor.dims[i] = cursor.u64("a dimension");
        empty |= tensor.dims[i] == 0;
        // A zero must not hide an overflow: llama.cpp multiplies strides as well.
        if (!multiply(elements, std::max<uint64_t>(tensor.dims[i], 1), elements))
            cursor.fail(label() + " has more elements than 64 bits can count");
    }
    // Even an empty tensor has a shape, and arrays of doubles of that shape must be possible.
    uint64_t as_doubles = 0;
    if (!multiply(elements, 8, as_doubles))
        cursor.fail(label() + " has more elements than an address space of 64 bits can hold");
    const uint32_t id = cursor.u32("a tensor type");
    const std::optional<TensorType> type = find_tensor_type(id);
    if (!type) {
        const char* why = reserved_type(id);
        cursor.fail(label() + " has ggml type " + number(id) + ": " +
                    (why ? why : "unknown, perhaps newer than this version of blockquant"));
    }
    tensor.format = type->name;
    if (tensor.dims[0] % type->block_size != 0)
        cursor.fail(label() + " has rows of " + number(tensor.dims[0]) + " elements, not a multiple of the " +
                    number(type->block_size) + " of a " + type->name + " block");
    if (!multiply(elements / type->block_size, type->type_size, tensor.size))
        cursor.fail(label() + " has more bytes than 64 bits can count");
    if (empty) tensor.size = 0;
    tensor.offset = cursor.u64("a tensor offset");
    return tensor;
}

void place_tensors(File& file, uint64_t header_end, uint64_t file_size) {
    const uint64_t mask = file.alignment - 1;
    file.data_offset = (header_end + mask) & ~mask;
    for (Tensor& t : file.tensors) {
        const auto label = [&] { return "tensor " + quoted(t.name); };
        if (t.offset & mask)
            throw Error(label() + " is at offset " + number(t.offset) + " of the data, not a multiple of " +
                            number(file.alignment),
                        file.data_offset);
        // Written so that no sum can wrap.
        const uint64_t available = file_size > file.data_offset ? file_size - file.data_offset : 0;
        if (t.offset > available || t.size > available - t.offset)
            throw Error(label() + " needs " + number(t.size) + " bytes at offset " + number(t.offset) +
                            " of the data, but the file has " + number(available) +
                            " bytes of data: it is truncated",
                        file.data_offset);
        t.offset += file.data_offset;
    }
    std::vector<uint32_t> order(file.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::erase_if(order, [&](uint32_t i) { return file.tensors[i].size == 0; });
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return file.tensors[a].offset < file.tensors[b].offset; });
    for (size_t i = 1; i < order.size(); ++i) {
        const Tensor &before = file.tensors[order[i - 1]], &after = file.tensors[order[i]];
        if (after.offset < before.offset + before.size)
            throw Error("tensors " + quoted(before.name) + " and " + quoted(after.name) + " overlap",
                        after.offset);
    }
}

}  // namespace

Error::Error(const std::string& message, uint64_t offset)
    : std::runtime_error(message + " (at byte " + std::to_string(offset) + ")"), offset_(offset) {}

std::string quoted(std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string out = "'";
    for (const char c : text.substr(0, 80)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f) {
            out += c;
        } else {
            out += "\\x";
            out += hex[byte >> 4];
            out += hex[byte & 15];
        }
    }
    out += text.size() > 80 ? "...'" : "'";
    return out;
}

std::span<const TensorType> plain_types() {
    return kPlainTypes;
}

uint64_t Cursor::integer(uint32_t size, const char* what) {
    if (remaining() < size) fail(std::string("the file ends inside ") + what);
    const uint8_t* p = bytes_.data() + position_;
    position_ += size;
    // Written out so that compilers make one load of it: opening a vocabulary is a walk over 300 000 lengths.
    uint64_t value = 0;
    if (size == 8 && !big_endian_) {
        for (uint32_t i = 0; i < 8; ++i) value |= uint64_t{p[i]} << 8 * i;
        return value;
    }
    for (uint32_t i = 0; i < size; ++i) value |= uint64_t{p[i]} << 8 * (big_endian_ ? size - 1 - i : i);
    return value;
}

void Cursor::skip(uint64_t size, const char* what) {
    if (remaining() < size) fail(std::string("the file ends inside ") + what);
    position_ += size;
}

std::string_view Cursor::string(const char* what, uint64_t limit) {
    const uint64_t size = u64(what);
    if (size > limit)
        fail(std::string(what) + " is " + number(size) + " bytes long, the limit is " + number(limit));
    const uint64_t start = position_;
    skip(size, what);
    return {reinterpret_cast<const char*>(bytes_.data() + start), static_cast<size_t>(size)};
}

ValueType Cursor::value_type() {
    const uint32_t type = u32("a value type");
    if (type >= kValueTypes) fail("unknown value type " + number(type) + ", expected 0 to 12");
    return static_cast<ValueType>(type);
}

void Cursor::check_bools(uint64_t count) const {
    for (uint64_t i = 0; i < count; ++i)
        if (bytes_[position_ + i] > 1)
            throw Error("a bool is " + number(bytes_[position_ + i]) + ", expected 0 or 1", position_ + i);
}

Value Cursor::value(ValueType type, int depth) {
    Value v{type, type, 1, position_, 0};
    if (const uint32_t size = scalar_size(type)) {
        if (remaining() < size) fail("the file ends inside a value");
        if (type == ValueType::Bool) check_bools(1);
        position_ += size;
    } else if (type == ValueType::String) {
        const std::string_view text = string("a string");
        v.offset = position_ - text.size();
    } else {
        if (depth >= kMaxArrayDepth) fail("arrays are nested more than " + number(kMaxArrayDepth) + " deep");
        v.element = value_type();
        v.count = u64("an array length");
        const uint32_t element_size = scalar_size(v.element);
        const uint64_t least = element_size ? element_size : v.element == ValueType::String ? 8 : 12;
        if (v.count > kMaxArrayElements || v.count > remaining() / least)
            fail("an array counts " + number(v.count) + " elements, more than the file has room for");
        v.offset = position_;
        if (element_size) {
            if (v.element == ValueType::Bool) check_bools(v.count);
            position_ += v.count * element_size;
        } else if (v.element == ValueType::String) {
            for (uint64_t i = 0; i < v.count; ++i) string("a string");
        } else {
            for (uint64_t i = 0; i < v.count; ++i) value(ValueType::Array, depth + 1);
        }
    }
    v.size = position_ - v.offset;
    return v;
}

File parse(std::span<const uint8_t> bytes) {
    if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0)
        throw Error("not a GGUF file: it does not begin with the letters GGUF", 0);
    File file;
    // The version is a small number: its low half is zero only when it was written in the other byte order.
    file.version = Cursor(bytes, false, 4).u32("the version");
    file.big_endian = file.version != 0 && (file.version & 0xffff) == 0;
    Cursor cursor(bytes, file.big_endian, 4);
    file.version = cursor.u32("the version");
    if (file.version == 1)
        throw Error(
            "GGUF version 1 (32-bit lengths, mid-2023) cannot be read, expected 2 or 3: convert the "
            "original model again",
            4);
    if (file.version != 2 && file.version != 3)
        throw Error("GGUF version " + number(file.version) + " cannot be read, expected 2 or 3", 4);

    const uint64_t n_tensors = cursor.u64("the number of tensors");
    const uint64_t n_metadata = cursor.u64("the number of metadata entries");
    // 2^32 entries would take a header of 56 GiB; the indices of the checks below are 32 bits.
    constexpr uint64_t limit = std::numeric_limits<uint32_t>::max();
    if (n_tensors > limit || n_tensors > cursor.remaining() / kMinTensorBytes)
        throw Error("the header counts " + number(n_tensors) + " tensors, more than the file has room for",
                    8);
    if (n_metadata > limit || n_metadata > cursor.remaining() / kMinKeyValueBytes)
        throw Error(
            "the header counts " + number(n_metadata) + " metadata entries, more than the file has room for",
            16);

    // Counts are believed up to this many: a sparse file of zeros has room for any.
    constexpr uint64_t believed = 1 << 16;
    file.metadata.reserve(std::min(n_metadata, believed));
    for (uint64_t i = 0; i < n_metadata; ++i) {
        const std::string_view key = cursor.string("a metadata key", kMaxKeyBytes);
        if (key.empty()) cursor.fail("metadata key " + number(i) + " is empty");
        const ValueType type = cursor.value_type();
        file.metadata.push_back({key, cursor.value(type)});
    }
    const auto key_of = [](const KeyValue& kv) { return kv.key; };
    if (const auto twice = find_duplicate(file.metadata, key_of))
        throw Error("metadata key " + quoted(file.metadata[*twice].key) + " occurs twice",
                    file.metadata[*twice].value.offset);
    file.alignment = read_alignment(file, bytes);

    file.tensors.reserve(std::min(n_tensors, believed));
    const auto occurs_twice = [&](std::string_view name) {
        return Error("tensor name " + quoted(name) + " occurs twice", cursor.position());
    };
    for (uint64_t i = 0; i < n_tensors; ++i) {
        const Tensor tensor = read_tensor(cursor);
        // At once: zeros are entries, of nameless numbers, and a file of nothing else can have millions.
        if (i > 0 && tensor.name == file.tensors.back().name) throw occurs_twice(tensor.name);
        file.tensors.push_back(tensor);
    }
    const auto name_of = [](const Tensor& t) { return t.name; };
    if (const auto twice = find_duplicate(file.tensors, name_of))
        throw occurs_twice(file.tensors[*twice].name);
    place_tensors(file, cursor.position(), bytes.size());
    return file;
}

}  // namespace bq::gguf
