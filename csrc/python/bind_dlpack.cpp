// Taking DLPack tensors without a copy, bfloat16 included (numpy's own reader refuses that dtype).
#include <cstdint>
#include <string>

#include <pybind11/numpy.h>

#include "python/bindings.hpp"

namespace py = pybind11;

namespace bq {
namespace {

// The DLPack ABI (unversioned capsules named "dltensor"), https://dmlc.github.io/dlpack/latest/c_api.html
struct DlTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t* shape;
    int64_t* strides;  // in elements; nullptr: C-contiguous
    uint64_t byte_offset;
};
struct DlManaged {
    DlTensor tensor;
    void* context;
    void (*deleter)(DlManaged*);
};
constexpr int32_t kCpu = 1, kCudaHost = 3, kRocmHost = 11;  // the latter: pinned memory of the host
constexpr uint8_t kFloat = 2, kBfloat = 4;

// Returns (array, is_bfloat16); bfloat16 comes as uint16.
py::tuple from_dlpack(const py::object& source) {
    const py::tuple device = source.attr("__dlpack_device__")();
    const int place = device[0].cast<int>();
    if (place != kCpu && place != kCudaHost && place != kRocmHost)
        throw py::type_error("the tensor is not in CPU memory; move it there first (in torch: x.cpu())");
    py::object capsule = source.attr("__dlpack__")();
    auto* managed = static_cast<DlManaged*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (managed == nullptr) throw py::error_already_set();
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    py::capsule owner(managed, [](void* p) {
        auto* tensor = static_cast<DlManaged*>(p);
        if (tensor->deleter != nullptr) tensor->deleter(tensor);
    });
    const DlTensor& t = managed->tensor;
    const bool bfloat = t.code == kBfloat && t.bits == 16;
    if (t.lanes != 1 || !(bfloat || (t.code == kFloat && (t.bits == 16 || t.bits == 32 || t.bits == 64))))
        throw py::type_error("the tensor has DLPack dtype code " + std::to_string(t.code) + " with " +
                             std::to_string(t.bits) +
                             " bits; expected float16, float32, float64 or bfloat16");
    const char* name = bfloat ? "u2" : t.bits == 16 ? "f2" : t.bits == 32 ? "f4" : "f8";
    std::vector<py::ssize_t> shape(t.shape, t.shape + t.ndim), strides(t.ndim);
    py::ssize_t step = t.bits / 8;
    for (int i = t.ndim; i-- > 0;) {
        strides[i] = t.strides != nullptr ? t.strides[i] * (t.bits / 8) : step;
        step *= shape[i];
    }
    auto* data = static_cast<char*>(t.data) + t.byte_offset;
    return py::make_tuple(py::array(py::dtype(name), shape, strides, data, owner), bfloat);
}

}  // namespace

void bind_dlpack(py::module_& m) {
    m.def("from_dlpack", &from_dlpack, py::arg("source"),
          "View of a CPU tensor with __dlpack__ and whether its uint16 elements are bfloat16 bits.");
}

}  // namespace bq
