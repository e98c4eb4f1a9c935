// The pieces of the extension module: one bind_*.cpp per concept.
#pragma once

#include <pybind11/pybind11.h>

namespace bq {

void bind_assemble(pybind11::module_& m);
void bind_formats(pybind11::module_& m);
void bind_gguf(pybind11::module_& m);
void bind_runtime(pybind11::module_& m);
void bind_dlpack(pybind11::module_& m);
void bind_tensor(pybind11::module_& m);
void bind_matmul(pybind11::module_& m);
void bind_transformer(pybind11::module_& m);

}  // namespace bq
