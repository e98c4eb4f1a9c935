// The GGUF parser, as Python sees it: tuples of where things are, and lists of strings.
// python/blockquant/gguf makes mappings and arrays of them. Errors are ValueErrors with one line.
#include <cstring>

#include "formats/format.hpp"
#include "gguf/byteswap.hpp"
#include "gguf/parser.hpp"
#include "python/bindings.hpp"
#include "python/unlocked.hpp"

namespace py = pybind11;

namespace bq {
namespace {

using gguf::Cursor;

std::span<const uint8_t> bytes_of(const py::buffer_info& info) {
    return {static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

// Bytes that are not UTF-8 become lone surrogates, from which encoding gives the same bytes again.
py::str text(std::string_view s) {
    PyObject* o = PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape");
    if (!o) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(o);
}

py::tuple location(const gguf::Value& v) {
    return py::make_tuple(static_cast<uint32_t>(v.type), static_cast<uint32_t>(v.element), v.count, v.offset,
                          v.size);
}

// Runs `work` and turns a parse error into a ValueError.
template <class Work>
auto checked(Work work) {
    try {
        return work();
    } catch (const gguf::Error& e) {
        throw py::value_error(e.what());
    }
}

// `formats` gives the object that stands for each tensor type's name.
py::tuple parse(const py::buffer& buffer, const py::dict& formats) {
    const py::buffer_info info = buffer.request();
    const gguf::File file = checked([&] {
        const Unlocked unlocked;
        return gguf::parse(bytes_of(info));
    });
    py::list metadata(file.metadata.size()), tensors(file.tensors.size());
    for (size_t i = 0; i < file.metadata.size(); ++i)
        metadata[i] = py::make_tuple(text(file.metadata[i].key), location(file.metadata[i].value));
    for (size_t i = 0; i < file.tensors.size(); ++i) {
        const gguf::Tensor& t = file.tensors[i];
        py::tuple shape(t.n_dims);
        for (int d = 0; d < t.n_dims; ++d) shape[d] = t.dims[t.n_dims - 1 - d];
        tensors[i] = py::make_tuple(text(t.name), shape, formats[t.format], t.size, t.offset);
    }
    return py::make_tuple(file.version, file.big_endian, file.alignment, file.data_offset, metadata, tensors);
}

Cursor at(const py::buffer_info& info, uint64_t offset, bool big_endian) {
    const auto bytes = bytes_of(info);
    if (offset > bytes.size()) throw py::value_error("the offset lies beyond the buffer");
    return Cursor(bytes, big_endian, offset);
}

py::list strings(const py::buffer& buffer, uint64_t offset, uint64_t count, bool big_endian) {
    const py::buffer_info info = buffer.request();
    return checked([&] {
        Cursor cursor = at(info, offset, big_endian);
        if (count > cursor.remaining() / 8) throw py::value_error("more strings than the buffer holds");
        py::list out(count);
        for (uint64_t i = 0; i < count; ++i) out[i] = text(cursor.string("a string"));
        return out;
    });
}

py::list arrays(const py::buffer& buffer, uint64_t offset, uint64_t count, bool big_endian) {
    const py::buffer_info info = buffer.request();
    return checked([&] {
        Cursor cursor = at(info, offset, big_endian);
        py::list out;
        for (uint64_t i = 0; i < count; ++i) out.append(location(cursor.value(gguf::ValueType::Array)));
        return out;
    });
}

// A str as UTF-8, lone surrogates of `text` as the bytes they stand for.
class Utf8 {
  public:
    explicit Utf8(PyObject* s) {
        if (!PyUnicode_Check(s)) throw py::type_error("expected a list of str");
        data_ = PyUnicode_AsUTF8AndSize(s, &size_);
        if (data_) return;
        PyErr_Clear();
        PyObject* raw = PyUnicode_AsEncodedString(s, "utf-8", "surrogateescape");
        if (!raw) throw py::error_already_set();
        encoded_ = py::reinterpret_steal<py::object>(raw);
        data_ = PyBytes_AS_STRING(raw);
        size_ = PyBytes_GET_SIZE(raw);
    }
    std::string_view view() const { return {data_, static_cast<size_t>(size_)}; }

  private:
    py::object encoded_;
    const char* data_ = nullptr;
    Py_ssize_t size_ = 0;
};

py::bytes encode_strings(const py::list& list, bool big_endian) {
    std::string out;
    for (const py::handle item : list) {
        const Utf8 utf8(item.ptr());
        const uint64_t size = utf8.view().size();
        for (int i = 0; i < 8; ++i) out += static_cast<char>(size >> 8 * (big_endian ? 7 - i : i) & 0xff);
        out += utf8.view();
    }
    return out;
}

void swap_blocks(const std::string& format, const py::buffer& data) {
    const py::buffer_info info = data.request(true);
    if (!PyBuffer_IsContiguous(info.view(), 'C')) throw py::value_error("the data must be contiguous");
    const auto size = static_cast<uint64_t>(info.size * info.itemsize);
    bool done;
    {
        const Unlocked unlocked;
        done = gguf::swap_blocks(format, static_cast<uint8_t*>(info.ptr), size);
    }
    if (!done) throw py::value_error("blocks of " + format + " cannot be converted to the other byte order");
}

}  // namespace

void bind_gguf(py::module_& m) {
    m.def("gguf_parse", &parse, py::arg("file"), py::arg("formats"),
          "(version, big_endian, alignment, data_offset, [(key, location)], [(name, shape, format, nbytes, "
          "offset)]); a location is (type, element type, count, offset, nbytes).");
    m.def("gguf_strings", &strings, py::arg("file"), py::arg("offset"), py::arg("count"),
          py::arg("big_endian"), "The strings of an array.");
    m.def("gguf_arrays", &arrays, py::arg("file"), py::arg("offset"), py::arg("count"), py::arg("big_endian"),
          "The locations of the arrays of an array.");
    m.def("gguf_encode_strings", &encode_strings, py::arg("strings"), py::arg("big_endian"),
          "The elements of an array of strings.");
    m.def("gguf_swap_blocks", &swap_blocks, py::arg("format"), py::arg("data"),
          "Reverse the bytes of every field of the blocks, in place.");
    m.def(
        "gguf_plain_types",
        [] {
            py::list rows;
            for (const gguf::TensorType& t : gguf::plain_types())
                rows.append(py::make_tuple(t.name, t.id, t.type_size));
            return rows;
        },
        "Tensor types that only files have: name, ggml_type, bytes.");
}

}  // namespace bq
