#include "python/bindings.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "The compiled core of blockquant; use the blockquant package instead.";
    m.attr("__version__") = BQ_VERSION;
    bq::bind_assemble(m);
    bq::bind_formats(m);
    bq::bind_gguf(m);
    bq::bind_runtime(m);
    bq::bind_dlpack(m);
    bq::bind_tensor(m);
    bq::bind_matmul(m);
    bq::bind_transformer(m);
}
