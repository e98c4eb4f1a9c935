// The CPU, its instruction sets, and threads.
#include <string>

#include "python/arrays.hpp"
#include "python/bindings.hpp"
#include "runtime/cpu_features.hpp"
#include "runtime/thread_pool.hpp"

namespace py = pybind11;

namespace bq {
namespace {

std::string compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "msvc " + std::to_string(_MSC_VER);
#else
    return "unknown";
#endif
}

}  // namespace

void bind_runtime(py::module_& m) {
    m.def("isa", [] { return checked_kernels().isa; }, "Name of the instruction set in use.");
    m.def(
        "available_isas",
        [] {
            py::list names;
            for (const KernelTable* table : available_kernels()) names.append(table->isa);
            return names;
        },
        "Instruction sets that this build and this CPU can run, best last.");
    m.def(
        "set_isa", [](const std::string& name) { return set_kernels(name.c_str()); }, py::arg("name"),
        "Use this instruction set from now on; False when it cannot run here.");
    m.def(
        "cpu_features",
        [] {
            py::list names;
            for (const char* name : cpu_feature_names()) names.append(name);
            return names;
        },
        "Features of this CPU that kernels may use.");
    m.def("compiler", &compiler, "The compiler that built the core.");
    m.def("get_num_threads", &get_num_threads, "Threads that kernels use when not told otherwise.");
    m.def("set_num_threads", &set_num_threads, py::arg("count"), "Set the number of threads, at least 1.");
}

}  // namespace bq
