"""How far products with quantized weights are from the exact ones, for our kernels and for ggml's own dot.

Run as a script to record ggml's errors in tests/data/matmul_errors.json (needs the xllamacpp wheel).
"""

from __future__ import annotations

import ctypes
import json
from functools import cache
from pathlib import Path

import blockquant as bq
import numpy as np
from ggml import Ggml
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RECORDED = Path(__file__).parent / "data" / "matmul_errors.json"
MODEL = Path(__file__).parents[1] / "examples" / "tales-6m" / "model.safetensors"
CASES = ("gaussian", "outliers", "real")


@cache
def _model_tensors() -> dict[str, Floats]:
    """The embeddings and the first layer of the bundled model; bfloat16 in its file."""
    raw = MODEL.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    found = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name.startswith(("model.embed_tokens", "model.layers.0.")):
            begin, end = (8 + size + at for at in entry["data_offsets"])
            bits = np.frombuffer(raw[begin:end], np.uint16).astype(np.uint32) << 16
            found[name] = bits.view(np.float32).reshape(entry["shape"])
    return found


@cache
def inputs(case: str) -> tuple[Floats, Floats]:
    """Activations [rows, K] and weights [N, K]."""
    rng = np.random.default_rng(CASES.index(case))
    if case == "real":  # what the first layer's projections see of every sixtieth token
        tensors = _model_tensors()
        x = tensors["model.embed_tokens.weight"][::60]
        x = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, -1, keepdims=True) + 1e-6).astype(np.float32)
        x = x * tensors["model.layers.0.input_layernorm.weight"]
        return np.ascontiguousarray(x, np.float32), tensors["model.layers.0.self_attn.q_proj.weight"][:96]
    x = rng.standard_normal((24, 1024), np.float32)
    if case == "outliers":  # a few channels are far larger than the rest, and single values too
        x[:, rng.choice(1024, 10, replace=False)] *= 40
        x *= 1 + 20 * (rng.random(x.shape) < 0.002)
    return x.astype(np.float32), rng.standard_normal((64, 1024), np.float32) * np.float32(0.03)


@cache
def weights(name: str, case: str) -> tuple[bq.QuantizedTensor, NDArray[np.float64]]:
    """The weights of a case in a format, and the exact product."""
    x, w = inputs(case)
    imatrix = np.ones(w.shape[1], np.float32) if bq.formats[name].needs_imatrix else None
    q = bq.quantize(w, name, imatrix=imatrix)
    return q, x.astype(np.float64) @ q.dequantize().astype(np.float64).T


def relative_error(name: str, case: str, y: Floats) -> float:
    """The root mean square of the error over that of the exact product."""
    exact = weights(name, case)[1]
    return float(np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2)))


_VEC_DOT = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_size_t, ctypes.c_void_p] * 2,
    *[ctypes.c_size_t, ctypes.c_int],
)
_FROM_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _CpuTraits(ctypes.Structure):
    _fields_ = [
        ("from_float", _FROM_FLOAT),
        ("vec_dot", _VEC_DOT),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    ]


def ggml_product(ggml: Ggml, name: str, case: str) -> Floats:
    """The same product by ggml's dot of this format, with activations as it quantizes them."""
    lib = ggml._lib
    lib.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_CpuTraits)
    lib.ggml_cpu_init()
    kind = bq.formats[name].ggml_type
    traits = lib.ggml_get_type_traits_cpu(kind).contents
    x, _ = inputs(case)
    q = weights(name, case)[0].data
    k = x.shape[1]
    if traits.vec_dot_type == 0:
        rows = x.view(np.uint8)
    else:
        rows = np.zeros((len(x), ggml.row_size(traits.vec_dot_type, k)), np.uint8)
        convert = lib.ggml_get_type_traits_cpu(traits.vec_dot_type).contents.from_float
        for row, values in zip(rows, x, strict=True):
            convert(values.ctypes.data, row.ctypes.data, k)
    y = np.zeros((len(x), len(q)), np.float32)
    for r, row in enumerate(rows):
        for n in range(len(q)):
            traits.vec_dot(k, y[r, n:].ctypes.data, 0, q[n].ctypes.data, 0, row.ctypes.data, 0, 1)
    return y


def main() -> None:
    """Record ggml's errors."""
    ggml = Ggml.from_xllamacpp()
    found = {
        case: {name: float(f"{relative_error(name, case, ggml_product(ggml, name, case)):.5g}") for name in bq.formats}
        for case in CASES
    }
    RECORDED.write_text(json.dumps({"ggml": ggml.version, "errors": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
