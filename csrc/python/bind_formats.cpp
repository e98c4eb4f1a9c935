// The registry, as Python sees it.
#include "formats/format.hpp"
#include "python/bindings.hpp"

namespace py = pybind11;

namespace bq {

void bind_formats(py::module_& m) {
    m.def(
        "format_table",
        [] {
            py::list rows;
            for (const FormatInfo& f : all_formats())
                rows.append(py::make_tuple(f.name, static_cast<int>(f.id), f.block_size, f.type_size, f.run,
                                           f.has_minima, f.needs_imatrix, f.implemented, f.description));
            return rows;
        },
        "Rows of the registry in ggml id order: name, ggml_type, block_size, type_size, run, has_minima, "
        "needs_imatrix, implemented, description.");
}

}  // namespace bq
