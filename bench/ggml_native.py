"""llama.cpp's own kernels through ctypes, for comparisons on this machine.

Needs llama-cpp-python built from source for this CPU (see third_party/README.md); the prebuilt wheels of other projects
lack instruction sets and must not be used for speed.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import os
from pathlib import Path

import numpy as np


def library_directory(given: str | None = None) -> Path:
    """Where libggml-*.so is: the argument, GGML_LIB_DIR, or an importable llama_cpp."""
    for candidate in (given, os.environ.get("GGML_LIB_DIR")):
        if candidate:
            return Path(candidate)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "lib"
    raise SystemExit("no native llama.cpp: install llama-cpp-python from source, or give --ggml-lib DIR")


class _InitParams(c.Structure):
    _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool)]


class _Plan(c.Structure):
    _fields_ = [
        ("work_size", c.c_size_t),
        ("work_data", c.c_void_p),
        ("n_threads", c.c_int),
        ("threadpool", c.c_void_p),
        ("abort_callback", c.c_void_p),
        ("abort_callback_data", c.c_void_p),
        ("use_ref", c.c_bool),
    ]


_TO_FLOAT = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_int64)


class _Traits(c.Structure):
    _fields_ = [
        ("type_name", c.c_char_p),
        ("blck_size", c.c_int64),
        ("blck_size_interleave", c.c_int64),
        ("type_size", c.c_size_t),
        ("is_quantized", c.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", c.c_void_p),
    ]


def _load(directory: Path, name: str) -> c.CDLL:
    found = sorted(directory.glob(f"lib{name}.so*"))
    if not found:
        raise OSError(f"no lib{name}.so in {directory}")
    return c.CDLL(str(found[0]), mode=c.RTLD_GLOBAL)


def declare(library: c.CDLL) -> None:
    """The types of the functions that llama.cpp and what was made of it share."""
    p, i64 = c.c_void_p, c.c_int64
    library.ggml_row_size.restype = c.c_size_t
    library.ggml_row_size.argtypes = [c.c_int, i64]
    library.ggml_init.restype = p
    library.ggml_init.argtypes = [_InitParams]
    library.ggml_free.argtypes = [p]
    library.ggml_new_tensor_2d.restype = p
    library.ggml_new_tensor_2d.argtypes = [p, c.c_int, i64, i64]
    library.ggml_get_data.restype = p
    library.ggml_get_data.argtypes = [p]
    library.ggml_mul_mat.restype = p
    library.ggml_mul_mat.argtypes = [p, p, p]
    library.ggml_new_graph.restype = p
    library.ggml_new_graph.argtypes = [p]
    library.ggml_build_forward_expand.argtypes = [p, p]


class Ggml:
    """Quantize, dequantize and multiply as llama.cpp does."""

    def __init__(self, directory: Path) -> None:
        self.base, self.cpu = _load(directory, "ggml-base"), _load(directory, "ggml-cpu")
        b, p, i64 = self.base, c.c_void_p, c.c_int64
        declare(b)
        b.ggml_version.restype = c.c_char_p
        b.ggml_quantize_chunk.restype = c.c_size_t
        b.ggml_quantize_chunk.argtypes = [c.c_int, p, p, i64, i64, i64, p]
        b.ggml_get_type_traits.restype = c.POINTER(_Traits)
        self.cpu.ggml_graph_plan.restype = _Plan
        self.cpu.ggml_graph_plan.argtypes = [p, c.c_int, p]
        self.cpu.ggml_graph_compute.argtypes = [p, p]
        b.ggml_backend_reg_get_proc_address.restype = p
        b.ggml_backend_reg_get_proc_address.argtypes = [p, c.c_char_p]
        b.ggml_backend_reg_dev_get.restype = p
        b.ggml_backend_reg_dev_get.argtypes = [p, c.c_size_t]
        b.ggml_backend_dev_supports_op.restype = c.c_bool
        b.ggml_backend_dev_supports_op.argtypes = [p, p]
        b.ggml_backend_alloc_ctx_tensors_from_buft.restype = p
        b.ggml_backend_alloc_ctx_tensors_from_buft.argtypes = [p, p]
        b.ggml_backend_buffer_free.argtypes = [p]
        b.ggml_backend_tensor_set.argtypes = [p, p, c.c_size_t, c.c_size_t]
        self.cpu.ggml_backend_cpu_reg.restype = p
        self.cpu.ggml_cpu_init()
        self.version = f"ggml {b.ggml_version().decode()}"

    def row_size(self, kind: int, k: int) -> int:
        """Bytes of a row."""
        return self.base.ggml_row_size(kind, k)

    def quantize(self, kind: int, x: np.ndarray, out: np.ndarray, imatrix: np.ndarray | None = None) -> None:
        """ggml_quantize_chunk, one thread."""
        weights = None if imatrix is None else imatrix.ctypes.data
        self.base.ggml_quantize_chunk(kind, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], weights)

    def dequantize(self, kind: int, data: np.ndarray, out: np.ndarray) -> None:
        """to_float over the whole array in one call."""
        self.base.ggml_get_type_traits(kind).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)

    def weights(self, kind: int, data: np.ndarray, k: int) -> Weights:
        """Weights [N, K] as they are stored."""
        return Weights(self, kind, data, k)

    def repacked(self, kind: int, data: np.ndarray, k: int) -> Weights | None:
        """The same laid out as when a model is loaded; None where llama.cpp has no such layout."""
        for buffer_type in self._extra_buffers():
            made = _BufferWeights(self, kind, data, k, buffer_type)
            if made.supported:
                return made
            made.close()
        return None

    def plan(self, graph: int, threads: int) -> c.Structure:
        """ggml_graph_plan."""
        return self.cpu.ggml_graph_plan(graph, threads, None)

    def compute(self, graph: int, plan: c.Structure) -> None:
        """ggml_graph_compute."""
        self.cpu.ggml_graph_compute(graph, c.byref(plan))

    def device(self) -> int:
        """The CPU device."""
        return self.base.ggml_backend_reg_dev_get(self.cpu.ggml_backend_cpu_reg(), 0)

    def _extra_buffers(self) -> list[int]:
        """The buffer types in which the CPU backend repacks weights, best first."""
        registry = self.cpu.ggml_backend_cpu_reg()
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return []
        get = c.CFUNCTYPE(c.POINTER(c.c_void_p), c.c_void_p)(address)
        listed = get(self.device())
        found: list[int] = []
        while listed and listed[len(found)]:
            found.append(listed[len(found)])
        return found


class Weights:
    """Weights [N, K] in a context of their own."""

    def __init__(self, ggml: Ggml, kind: int, data: np.ndarray, k: int, allocate: bool = True) -> None:
        self.ggml = ggml
        room = data.nbytes if allocate else 0
        self._context = ggml.base.ggml_init(_InitParams(room + (1 << 20), None, not allocate))
        self.tensor = ggml.base.ggml_new_tensor_2d(self._context, kind, k, data.shape[0])
        self.shape = data.shape[0], k
        if allocate:
            c.memmove(ggml.base.ggml_get_data(self.tensor), data.ctypes.data, data.nbytes)

    def times(self, x: np.ndarray) -> MulMat:
        """A graph of one ggml_mul_mat with float32 rows [M, K], ready to run again and again."""
        return MulMat(self, x)

    def close(self) -> None:
        """Free what it holds."""
        self.ggml.base.ggml_free(self._context)


class _BufferWeights(Weights):
    """In a buffer that lays weights out anew, if it can multiply these."""

    def __init__(self, ggml: Ggml, kind: int, data: np.ndarray, k: int, buffer_type: int) -> None:
        super().__init__(ggml, kind, data, k, allocate=False)
        base = ggml.base
        self._buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(self._context, buffer_type)
        self.supported = False
        if self._buffer:
            some = self.times(np.zeros((1, k), np.float32))
            self.supported = base.ggml_backend_dev_supports_op(ggml.device(), some.product)
            some.close()
        if self.supported:
            base.ggml_backend_tensor_set(self.tensor, data.ctypes.data, 0, data.nbytes)

    def close(self) -> None:
        if self._buffer:
            self.ggml.base.ggml_backend_buffer_free(self._buffer)
        super().close()


class MulMat:
    """One ggml_mul_mat."""

    def __init__(self, weights: Weights, x: np.ndarray) -> None:
        self._ggml, base = weights.ggml, weights.ggml.base
        (n, k), m = weights.shape, x.shape[0]
        self._context = base.ggml_init(_InitParams(x.nbytes + m * n * 4 + (4 << 20), None, False))
        rows = base.ggml_new_tensor_2d(self._context, 0, k, m)
        c.memmove(base.ggml_get_data(rows), x.ctypes.data, x.nbytes)
        self.product = base.ggml_mul_mat(self._context, weights.tensor, rows)
        self._graph = base.ggml_new_graph(self._context)
        base.ggml_build_forward_expand(self._graph, self.product)
        self._shape = m, n
        self._plans: dict[int, tuple[c.Structure, np.ndarray]] = {}

    def run(self, threads: int) -> None:
        """Compute it once."""
        if threads not in self._plans:
            plan = self._ggml.plan(self._graph, threads)
            scratch = np.empty(plan.work_size + 64, np.uint8)
            plan.work_data = scratch.ctypes.data
            self._plans[threads] = plan, scratch
        self._ggml.compute(self._graph, self._plans[threads][0])

    def result(self) -> np.ndarray:
        """float32 [M, N]."""
        address = self._ggml.base.ggml_get_data(self.product)
        buffer = (c.c_float * (self._shape[0] * self._shape[1])).from_address(address)
        return np.frombuffer(buffer, np.float32).reshape(self._shape).copy()

    def close(self) -> None:
        """Free what it holds."""
        self._ggml.base.ggml_free(self._context)
