"""ik_llama.cpp's kernels through ctypes, beside llama.cpp's.

Needs its libggml.so, built for this CPU (see third_party/README.md).
"""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path

import numpy as np
from ggml_native import Ggml, Weights, declare


class _Plan(c.Structure):
    _fields_ = [
        ("work_size", c.c_size_t),
        ("work_data", c.c_void_p),
        ("n_threads", c.c_int),
        ("abort_callback", c.c_void_p),
        ("abort_callback_data", c.c_void_p),
        ("moe_expert_prefetch", c.c_bool),
    ]


class _Traits(c.Structure):
    # Returned by value: room for what follows in any version.
    _fields_ = [("type_name", c.c_char_p), ("rest", c.c_char * 1024)]


class Ik(Ggml):
    """Multiply as ik_llama.cpp does."""

    def __init__(self, library: Path) -> None:
        # Its functions have the names of llama.cpp's: each library is to find its own first.
        self.base = self.cpu = lib = c.CDLL(str(library), mode=os.RTLD_LOCAL | os.RTLD_DEEPBIND)
        declare(lib)
        lib.ggml_internal_get_type_traits.restype = _Traits
        lib.ggml_internal_get_type_traits.argtypes = [c.c_int]
        lib.ggml_graph_plan.restype = _Plan
        lib.ggml_graph_plan.argtypes = [c.c_void_p, c.c_int]
        lib.ggml_graph_compute.argtypes = [c.c_void_p, c.c_void_p]
        lib.iqk_repack_tensor.argtypes = [c.c_void_p]
        self.version = "ik_llama.cpp"

    def has(self, kind: int) -> bool:
        """Whether it knows a format by its number."""
        return bool(self.base.ggml_internal_get_type_traits(kind).type_name)

    def repacked(self, kind: int, data: np.ndarray, k: int) -> Weights | None:
        """With the rows interleaved as for `-rtr`; None where it has no such layout."""
        made = self.weights(kind, data, k)
        of_tensor = c.c_int.from_address(made.tensor)  # the type is its first field
        self.base.iqk_repack_tensor(made.tensor)
        if of_tensor.value != kind:
            return made
        made.close()
        return None

    def plan(self, graph: int, threads: int) -> c.Structure:
        return self.base.ggml_graph_plan(graph, threads)
