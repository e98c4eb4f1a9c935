// Any bytes: the parser refuses them, or gives places that lie inside them and hold what it says.
#include <cstdlib>

#include "gguf/byteswap.hpp"
#include "gguf/parser.hpp"

using namespace bq::gguf;

namespace {

void require(bool ok) {
    if (!ok) std::abort();
}

// Decodes everything below a value, as the Python layer does on demand.
uint64_t walk(std::span<const uint8_t> bytes, bool big_endian, const Value& v) {
    require(v.offset <= bytes.size() && v.size <= bytes.size() - v.offset);
    if (v.type != ValueType::Array) return 0;
    Cursor cursor(bytes, big_endian, v.offset);
    uint64_t total = 0;
    if (v.element == ValueType::String) {
        for (uint64_t i = 0; i < v.count; ++i) total += cursor.string("a string").size();
    } else if (v.element == ValueType::Array) {
        for (uint64_t i = 0; i < v.count; ++i)
            total += walk(bytes, big_endian, cursor.value(ValueType::Array));
    } else {
        require(v.count * scalar_size(v.element) == v.size);
        return 0;
    }
    require(cursor.position() == v.offset + v.size);
    return total;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::span bytes(data, size);
    try {
        const File file = parse(bytes);
        require(file.metadata.capacity() * 14 <= size && file.tensors.capacity() * 24 <= size);
        for (const KeyValue& kv : file.metadata) walk(bytes, file.big_endian, kv.value);
        for (const Tensor& t : file.tensors) {
            require(t.offset <= size || t.size == 0);
            require(t.size <= size && (t.size == 0 || t.offset <= size - t.size));
            std::vector<uint8_t> copy(data + (t.size ? t.offset : 0),
                                      data + (t.size ? t.offset + t.size : 0));
            swap_blocks(t.format, copy.data(), copy.size());
        }
    } catch (const Error& e) {
        for (const char* c = e.what(); *c; ++c) require(*c >= 0x20 && *c < 0x7f);
    }
    return 0;
}
