// The steps of the transformer loop besides matmul. Outputs are preallocated by the caller; shapes are
// checked here, once per call, and the GIL is released while a kernel runs.
#include <pybind11/numpy.h>

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "python/bindings.hpp"
#include "python/unlocked.hpp"
#include "runtime/thread_pool.hpp"
#include "targets/kernels.hpp"

namespace py = pybind11;

namespace bq {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

constexpr int64_t kSerialElements = 1 << 14;  // less work than this is not worth waking threads for

std::string shape_text(const py::array& a) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(a.shape(i));
    }
    text += ')';
    return text;
}

void require(bool ok, const char* what, std::initializer_list<const py::array*> arrays) {
    if (ok) return;
    std::string message = what;
    message += "; got shapes";
    for (const py::array* a : arrays) {
        message += ' ';
        message += shape_text(*a);
    }
    throw std::invalid_argument(message);
}

bool same_shape(const py::array& a, const py::array& b) {
    if (a.ndim() != b.ndim()) return false;
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) != b.shape(i)) return false;
    return true;
}

int useful_threads(int64_t elements, int threads) {
    return elements < kSerialElements ? 1 : threads;
}

void rms_norm(const Floats& x, const Floats& weight, Floats& out, float eps, int threads) {
    require(weight.ndim() == 1 && weight.size() > 0 && x.ndim() > 0 &&
                x.shape(x.ndim() - 1) == weight.size() && same_shape(x, out),
            "rms_norm needs x [..., n], weight [n] and out like x", {&x, &weight, &out});
    const int64_t n = weight.size(), rows = x.size() / n;
    const float *from = x.data(), *w = weight.data();
    float* to = out.mutable_data();
    const auto kernel = kernels().transformer.rms_norm;
    const Unlocked unlocked;
    parallel_for(rows, 1, useful_threads(x.size(), threads),
                 [=](int64_t begin, int64_t end) { kernel(from, w, to, begin, end, n, eps); });
}

void rope(Floats& x, const Floats& cos, const Floats& sin, bool interleaved, int threads) {
    require(x.ndim() == 3 && cos.ndim() == 2 && same_shape(cos, sin) && cos.shape(0) == x.shape(0) &&
                2 * cos.shape(1) <= x.shape(2),
            "rope needs x [rows, heads, dim] and cos, sin [rows, pairs] with 2 * pairs <= dim",
            {&x, &cos, &sin});
    RopeRows rows{};
    rows.x = x.mutable_data();
    rows.heads = x.shape(1);
    rows.dim = x.shape(2);
    rows.cos = cos.data();
    rows.sin = sin.data();
    rows.pairs = cos.shape(1);
    rows.interleaved = interleaved;
    const int64_t count = x.shape(0), size = x.size();
    const auto kernel = kernels().transformer.rope;
    const Unlocked unlocked;
    parallel_for(count, 1, useful_threads(size, threads),
                 [&](int64_t begin, int64_t end) { kernel(rows, begin, end); });
}

// What a cache array holds, and the kernels for it.
struct CacheKind {
    int64_t bytes_of_head;  // of a block, 0 where the array has an axis for the elements of a head
    decltype(TransformerKernels::store_f16) store;
    decltype(TransformerKernels::attention_f16) attention;
};

CacheKind cache_kind(const py::array& cache, int64_t dim) {
    const TransformerKernels& table = kernels().transformer;
    const char kind = cache.dtype().kind();
    const py::ssize_t size = cache.itemsize();
    if (kind == 'f' && size == 2) return {0, table.store_f16, table.attention_f16};
    if (kind == 'f' && size == 4) return {0, table.store_f32, table.attention_f32};
    if (kind == 'u' && size == 1) return {q8_0_cache_bytes(dim), table.store_q8_0, table.attention_q8_0};
    throw py::type_error("the KV cache is float16, float32, or uint8 for Q8_0, not " +
                         std::string(py::str(static_cast<py::object>(cache.dtype()))));
}

CacheShape cache_shape(const py::array& keys, const py::array& values, int64_t positions, int64_t dim,
                       const CacheKind& kind) {
    const bool same = keys.ndim() == values.ndim() && keys.ndim() > 1 && keys.shape(0) == values.shape(0) &&
                      keys.shape(1) == values.shape(1) && keys.dtype().equal(values.dtype()) &&
                      (keys.flags() & values.flags() & py::array::c_style) && dim > 0 && dim <= kMaxHeadDim;
    if (kind.bytes_of_head > 0)
        require(
            same && keys.ndim() == 3 && keys.shape(2) == kind.bytes_of_head &&
                values.shape(2) == kind.bytes_of_head,
            "a Q8_0 KV cache is keys and values uint8 [blocks, kv_heads, q8_0_cache_bytes(dim)], dim <= 256",
            {&keys, &values});
    else
        require(
            same && keys.ndim() == 4 && keys.shape(3) == kCacheBlock && values.shape(2) == kCacheBlock &&
                keys.shape(2) == dim && values.shape(3) == dim,
            "the KV cache is keys [blocks, kv_heads, dim, 32] and values [blocks, kv_heads, 32, dim], dim <= "
            "256",
            {&keys, &values});
    if (positions > keys.shape(0) * kCacheBlock)
        throw std::invalid_argument("the KV cache holds " + std::to_string(keys.shape(0) * kCacheBlock) +
                                    " positions, " + std::to_string(positions) + " are needed");
    return {keys.shape(1), dim};
}

void store_kv(const Floats& k, const Floats& v, py::array& keys, py::array& values, int64_t position) {
    require(k.ndim() == 3 && same_shape(k, v), "store_kv needs k, v [rows, kv_heads, dim]", {&k, &v});
    if (position < 0) throw std::invalid_argument("position is negative");
    const int64_t rows = k.shape(0);
    const CacheKind kind = cache_kind(keys, k.shape(2));
    const CacheShape cache = cache_shape(keys, values, position + rows, k.shape(2), kind);
    require(k.shape(1) == cache.kv_heads, "store_kv needs k, v [rows, kv_heads, dim] that fit the cache",
            {&k, &v, &keys});
    const float *k_rows = k.data(), *v_rows = v.data();
    void *to_keys = keys.mutable_data(), *to_values = values.mutable_data();
    const Unlocked unlocked;
    kind.store(k_rows, v_rows, to_keys, to_values, rows, position, cache);
}

void attention(const Floats& q, const py::array& keys, const py::array& values, Floats& out, int64_t position,
               float scale, int64_t window, int threads) {
    require(q.ndim() == 3 && same_shape(q, out) && q.shape(1) > 0,
            "attention needs q and out [rows, heads, dim]", {&q, &out});
    if (position < 0 || window < 0) throw std::invalid_argument("position and window must not be negative");
    const int64_t rows = q.shape(0);
    const CacheKind kind = cache_kind(keys, q.shape(2));
    const CacheShape cache = cache_shape(keys, values, position + rows, q.shape(2), kind);
    require(cache.kv_heads > 0 && q.shape(1) % cache.kv_heads == 0,
            "attention needs q and out [rows, heads, dim] with heads a multiple of the cache's kv_heads",
            {&q, &out, &keys});
    AttentionRows a{};
    a.q = q.data();
    a.keys = keys.data();
    a.values = values.data();
    a.out = out.mutable_data();
    a.rows = rows;
    a.heads = q.shape(1);
    a.cache = cache;
    a.position = position;
    a.window = window;
    a.scale = scale;
    const auto kernel = kind.attention;
    const int64_t units = rows * a.heads;
    // One token: a thread takes whole groups, which share keys. A prompt: blocks of 16 units.
    const int64_t grain = rows == 1 ? a.heads / cache.kv_heads : 16;
    const Unlocked unlocked;
    parallel_for(units, grain, useful_threads(units * (position + rows) * cache.dim, threads),
                 [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

void gated(const Floats& gate, const Floats& up, Floats& out, const std::string& activation, int threads) {
    require(same_shape(gate, up) && same_shape(gate, out), "gated needs gate, up and out of one shape",
            {&gate, &up, &out});
    const TransformerKernels& table = kernels().transformer;
    const auto kernel = activation == "silu"           ? table.gated_silu
                        : activation == "gelu"         ? table.gated_gelu
                        : activation == "relu_squared" ? table.gated_relu_squared
                                                       : nullptr;
    if (kernel == nullptr)
        throw std::invalid_argument("activation '" + activation + "' is none of silu, gelu, relu_squared");
    const float *g = gate.data(), *u = up.data();
    float* to = out.mutable_data();
    const int64_t size = gate.size();
    const Unlocked unlocked;
    parallel_for(size, 1024, useful_threads(size, threads),
                 [=](int64_t begin, int64_t end) { kernel(g, u, to, begin, end); });
}

void add(Floats& x, const Floats& y, int threads) {
    require(same_shape(x, y), "add needs two arrays of one shape", {&x, &y});
    float* to = x.mutable_data();
    const float* from = y.data();
    const int64_t size = x.size();
    const auto kernel = kernels().transformer.add;
    const Unlocked unlocked;
    parallel_for(size, 4096, useful_threads(size, threads),
                 [=](int64_t begin, int64_t end) { kernel(to, from, begin, end); });
}

}  // namespace

void bind_transformer(py::module_& m) {
    const auto exact = [](const char* name) { return py::arg(name).noconvert(); };
    const auto threads = py::arg("threads") = 0;
    m.attr("cache_block") = kCacheBlock;
    m.attr("max_head_dim") = kMaxHeadDim;
    m.def("q8_0_cache_bytes", q8_0_cache_bytes, py::arg("dim"),
          "Bytes of a head's block of keys, or of values, in a Q8_0 cache.");
    m.def("rms_norm", rms_norm, exact("x"), exact("weight"), exact("out"), py::arg("eps"), threads,
          "out = x / sqrt(mean(x^2) + eps) * weight over the last axis; out may be x.");
    m.def("rope", rope, exact("x"), exact("cos"), exact("sin"), py::arg("interleaved"), threads,
          "Rotates x [rows, heads, dim] in place by cos, sin [rows, pairs].");
    m.def("store_kv", store_kv, exact("k"), exact("v"), py::arg("keys"), py::arg("values"),
          py::arg("position"),
          "Writes k, v [rows, kv_heads, dim] into the blocked cache from `position` on.");
    m.def("attention", attention, exact("q"), py::arg("keys"), py::arg("values"), exact("out"),
          py::arg("position"), py::arg("scale"), py::arg("window") = 0, threads,
          "Causal grouped-query attention of q [rows, heads, dim] at `position` over the cache; window 0 "
          "sees all.");
    m.def(
        "gated", gated, exact("gate"), exact("up"), exact("out"), py::arg("activation"), threads,
        "out = f(gate) * up with f 'silu', 'gelu' (its tanh form) or 'relu_squared'; out may be gate or up.");
    m.def("add", add, exact("x"), exact("y"), threads, "x += y.");
}

}  // namespace bq
