#include "python/arrays.hpp"

#include <cstring>
#include <string>

#include "formats/half.hpp"
#include "runtime/thread_pool.hpp"

namespace py = pybind11;

namespace bq {
namespace {

template <class T>
T read(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

template <class Load>
void gather(const char* p, int64_t stride, int64_t k, float* out, Load load) {
    for (int64_t i = 0; i < k; ++i) out[i] = load(p + i * stride);
}

}  // namespace

RowSource RowSource::of(const py::array& x, ElementType type) {
    RowSource s;
    s.data = static_cast<const char*>(x.data());
    s.type = type;
    const py::ssize_t last = x.ndim() - 1;
    if (last < 0) throw py::value_error("expected an array of at least one dimension");
    s.k = x.shape(last);
    s.element_stride = x.strides(last);
    for (py::ssize_t i = 0; i < last; ++i) {
        s.shape.push_back(x.shape(i));
        s.strides.push_back(x.strides(i));
        s.rows *= x.shape(i);
    }
    return s;
}

const char* RowSource::row(int64_t index) const {
    const char* p = data;
    for (size_t axis = shape.size(); axis-- > 0;) {
        p += index % shape[axis] * strides[axis];
        index /= shape[axis];
    }
    return p;
}

bool RowSource::is_plain_f32() const {
    uintptr_t misaligned = reinterpret_cast<uintptr_t>(data);
    for (const int64_t stride : strides) misaligned |= static_cast<uintptr_t>(stride);
    return type == ElementType::f32 && element_stride == sizeof(float) && misaligned % alignof(float) == 0;
}

const float* RowSource::load(int64_t index, const KernelTable& table, float* scratch) const {
    const char* p = row(index);
    switch (type) {
        case ElementType::f32:
            if (is_plain_f32()) return reinterpret_cast<const float*>(p);
            gather(p, element_stride, k, scratch, read<float>);
            break;
        case ElementType::f16:
            if (element_stride == 2)
                table[FormatId::F16].decode_f32(reinterpret_cast<const uint8_t*>(p), scratch, k);
            else
                gather(p, element_stride, k, scratch,
                       [](const char* e) { return f16_to_f32(read<uint16_t>(e)); });
            break;
        case ElementType::bf16:
            if (element_stride == 2)
                table[FormatId::BF16].decode_f32(reinterpret_cast<const uint8_t*>(p), scratch, k);
            else
                gather(p, element_stride, k, scratch,
                       [](const char* e) { return bf16_to_f32(read<uint16_t>(e)); });
            break;
        case ElementType::f64:
            gather(p, element_stride, k, scratch,
                   [](const char* e) { return static_cast<float>(read<double>(e)); });
            break;
    }
    return scratch;
}

int64_t row_grain(int64_t k) {
    return std::max<int64_t>(1, kElementsPerPiece / std::max<int64_t>(k, 1));
}

void require(bool condition, const char* message) {
    if (!condition) throw py::value_error(message);
}

bool is_c_contiguous(const py::array& a) {
    return (a.flags() & py::array::c_style) != 0;
}

void note_first(std::atomic<int64_t>& first, int64_t index) {
    int64_t seen = first.load(std::memory_order_relaxed);
    while ((seen < 0 || index < seen) && !first.compare_exchange_weak(seen, index)) {
    }
}

const FormatInfo& checked_format(int ggml_type) {
    const FormatInfo* f = find_format(static_cast<int64_t>(ggml_type));
    if (f == nullptr) throw py::value_error("unknown ggml type id " + std::to_string(ggml_type));
    if (!f->implemented) throw py::value_error(std::string(f->name) + " is not implemented yet");
    return *f;
}

const KernelTable& checked_kernels() {
    if (const char* message = isa_error()) throw py::value_error(message);
    if (const char* message = num_threads_error()) throw py::value_error(message);
    return kernels();
}

}  // namespace bq
