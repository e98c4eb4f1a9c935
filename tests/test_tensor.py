"""The Python surface of arrays: what goes in, what comes out, what is refused. Bytes are checked elsewhere."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from typing import Any

import blockquant as bq
import ml_dtypes
import numpy as np
import pytest
from blocks import gaussian, quantize

READY = [f.name for f in bq.formats.values() if f.implemented]
QUANTIZED = [name for name in READY if not bq.formats[name].is_float]


def test_registry_agrees_with_gguf_py() -> None:
    gguf = pytest.importorskip("gguf")
    assert sum(not f.is_float for f in bq.formats.values()) == 25
    assert [f.ggml_type for f in bq.formats.values()] == sorted(f.ggml_type for f in bq.formats.values())
    for kind in gguf.GGMLQuantizationType:
        if kind.name in bq.formats:
            f = bq.formats[kind.name]
            assert (f.ggml_type, (f.block_size, f.type_size)) == (kind.value, gguf.GGML_QUANT_SIZES[kind])
            assert f.bits_per_weight == 8 * f.type_size / f.block_size


def test_a_format_is_its_name() -> None:
    f = bq.formats["Q4_K"]
    assert f == "Q4_K"
    assert (f.name, f.ggml_type, f.block_size, f.type_size, f.bits_per_weight) == ("Q4_K", 12, 256, 144, 4.5)
    assert {f: 1}["Q4_K"] == 1
    assert pickle.loads(pickle.dumps(f)) is f
    assert "Q4_K" in repr(f)


@pytest.mark.parametrize("name", READY)
def test_shapes_and_views(name: str) -> None:
    x = gaussian(2, 3, 512)
    q = quantize(x, name)
    f = bq.formats[name]
    assert q.format == name
    assert q.shape == (2, 3, 512)
    assert q.data.shape == (2, 3, 512 // f.block_size * f.type_size)
    assert q.data.flags.c_contiguous
    assert q.nbytes == q.data.nbytes
    assert len(q) == 2
    assert np.shares_memory(q[1].data, q.data)
    assert q[0:1].shape == (1, 3, 512)
    whole = np.asarray(q)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(q[1, 2].dequantize(), whole[1, 2])
    np.testing.assert_array_equal(q[:, 1:].dequantize(), whole[:, 1:])
    np.testing.assert_array_equal(bq.dequantize(q.data, name), whole)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(q))), whole)
    assert repr(q) == f"QuantizedTensor({name}, shape=(2, 3, 512), {q.nbytes:,} bytes)"


@pytest.mark.parametrize("name", READY)
def test_every_dtype_and_stride_gives_the_bytes_of_its_float32_values(name: str) -> None:
    base = gaussian(6, 4, 1024, seed=3)
    for dtype in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16, ">f4"):
        x = base.astype(dtype)
        expected = quantize(np.ascontiguousarray(x.astype(np.float32)), name).data
        views = [
            (x, expected),
            (x[::2], expected[::2]),
            (x[::-1, 1:3], expected[::-1, 1:3]),
            (np.asfortranarray(x), expected),
            (x.transpose(1, 0, 2), expected.transpose(1, 0, 2)),
        ]
        for view, bytes_ in views:
            np.testing.assert_array_equal(quantize(view, name).data, bytes_)
        half = np.ascontiguousarray(x[..., ::2].astype(np.float32))
        np.testing.assert_array_equal(quantize(x[..., ::2], name).data, quantize(half, name).data)
        backwards = np.ascontiguousarray(x[..., ::-1].astype(np.float32))
        np.testing.assert_array_equal(quantize(x[..., ::-1], name).data, quantize(backwards, name).data)
    np.testing.assert_array_equal(quantize(base.tolist(), name).data, quantize(base, name).data)
    unaligned = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float32).reshape(base.shape)
    np.testing.assert_array_equal(quantize(unaligned, name).data, quantize(base, name).data)


def test_input_is_not_modified_and_broadcast_input_works() -> None:
    x = gaussian(2, 256)
    before = x.copy()
    bq.quantize(x, "Q4_K", imatrix=np.ones(256))
    np.testing.assert_array_equal(x, before)
    spread = np.broadcast_to(x[0], (5, 256))
    np.testing.assert_array_equal(bq.quantize(spread, "Q4_K").data, bq.quantize(np.array(spread), "Q4_K").data)


def test_torch_tensors_are_taken_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    x = gaussian(4, 512)
    t = torch.from_numpy(x)
    for tensor in (t, t.half(), t.double(), t.bfloat16(), t.t().contiguous().t()):
        expected = bq.quantize(tensor.float().numpy(), "Q4_K").data
        np.testing.assert_array_equal(bq.quantize(tensor, "Q4_K").data, expected)
    array, is_bfloat16 = bq._core.from_dlpack(t)
    assert not is_bfloat16
    assert array.ctypes.data == t.data_ptr()
    array, is_bfloat16 = bq._core.from_dlpack(t.bfloat16())
    assert is_bfloat16
    assert array.dtype == np.uint16
    w = bq.quantize(x, "Q8_0")
    np.testing.assert_array_equal(bq.matmul(t, w), bq.matmul(x, w))
    with pytest.raises(TypeError, match="detach"):
        bq.quantize(t.clone().requires_grad_(), "Q4_K")
    with pytest.raises(TypeError, match="expected float16"):
        bq.quantize(t.int(), "Q4_K")


def test_dlpack_view_outlives_the_producer() -> None:
    torch = pytest.importorskip("torch")
    array, _ = bq._core.from_dlpack(torch.arange(1000, dtype=torch.float32))
    assert array[999] == 999


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", ml_dtypes.bfloat16])
def test_16_bit_output_is_the_rounded_float32_output(name: str, dtype: object) -> None:
    q = quantize(gaussian(3, 512), name)
    exact = q.dequantize()
    target = ml_dtypes.bfloat16 if dtype != np.float16 else np.float16
    got = q.dequantize(dtype)
    assert got.dtype == target
    np.testing.assert_array_equal(got.view(np.uint16), exact.astype(target).view(np.uint16))
    out = np.empty_like(got)
    assert q.dequantize(dtype, out=out) is out
    np.testing.assert_array_equal(out.view(np.uint16), got.view(np.uint16))


def test_encoding_into_an_array() -> None:
    x = gaussian(3, 512)
    expected = bq.quantize(x, "Q4_K")
    out = np.empty_like(expected.data)
    q = bq.quantize(x, "Q4_K", out=out)
    assert np.shares_memory(q.data, out)
    np.testing.assert_array_equal(out, expected.data)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("from_end", [False, True])
def test_out_may_overlap_the_input(from_end: bool, threads: int) -> None:
    x = gaussian(600, 512)
    expected = bq.quantize(x, "Q8_0")
    blocks = expected.data

    def part(of: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        octets = of.view(np.uint8).reshape(-1)
        return (octets[-blocks.size :] if from_end else octets[: blocks.size]).reshape(blocks.shape)

    shared = x.copy()
    out = part(shared)
    assert np.shares_memory(bq.quantize(shared, "Q8_0", out=out, threads=threads).data, shared)
    np.testing.assert_array_equal(out, blocks)
    decoded = np.empty_like(x)
    part(decoded)[...] = blocks
    assert bq.dequantize(part(decoded), "Q8_0", out=decoded, threads=threads) is decoded
    np.testing.assert_array_equal(decoded, expected.dequantize())


def test_out_may_overlap_the_weights() -> None:
    x, weights = gaussian(7, 256), np.arange(256, dtype=np.float32)
    expected = bq.quantize(x, "Q4_0", imatrix=weights).data
    out = weights.view(np.uint8)[: expected.size].reshape(expected.shape)
    np.testing.assert_array_equal(bq.quantize(x, "Q4_0", imatrix=weights, out=out, threads=1).data, expected)


def test_out_decides_the_dtype_unless_one_is_named() -> None:
    q = bq.quantize(gaussian(3, 256), "Q4_K")
    half = np.empty((3, 256), np.float16)
    assert q.dequantize(out=half) is half
    np.testing.assert_array_equal(half, q.dequantize(np.float16))
    for dtype in (np.float32, "float32", np.dtype(np.float32)):
        with pytest.raises(ValueError, match=r"dtype float16; expected .* and float32"):
            q.dequantize(dtype, out=half)


@pytest.mark.parametrize(("shape", "weights"), [((4, 0), (0,)), ((0, 4, 256), (0, 256)), ((0, 4, 256), (256,))])
def test_empty_arrays_have_empty_weights(shape: tuple[int, ...], weights: tuple[int, ...]) -> None:
    for format in ("Q4_K", "IQ1_S"):
        assert bq.quantize(np.empty(shape, np.float32), format, imatrix=np.ones(weights)).shape == shape


class Exporter:
    """An array that DLPack cannot bring, for one reason or another."""

    def __init__(self, device: object = (1, 0), capsule: object = None, error: Exception | None = None) -> None:
        self.device, self.capsule, self.error = device, capsule, error

    def __dlpack_device__(self) -> object:
        if isinstance(self.device, Exception):
            raise self.device
        return self.device

    def __dlpack__(self, **_: object) -> object:
        if self.error is not None:
            raise self.error
        return self.capsule


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Exporter(error=BufferError()), "through DLPack: BufferError"),
        (Exporter(error=RuntimeError("no\nmore")), "through DLPack: no$"),
        (Exporter(error=ValueError("no")), "through DLPack: no$"),
        (Exporter(capsule="text"), r"through DLPack: .*PyCapsule"),
        (Exporter(device=("cpu", 0)), r"its device is \('cpu', 0\), expected two integers"),
        (Exporter(device=1), "its device is 1"),
        (Exporter(device=RuntimeError("none")), "through DLPack: none$"),
        (Exporter(device=ValueError("none")), "through DLPack: none$"),
        (Exporter(device=()), r"its device is \(\)"),
        (Exporter(device=(2, 0)), "not in CPU memory"),
    ],
)
def test_what_dlpack_cannot_bring_is_a_typeerror(source: Exporter, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        bq.quantize(source, "Q8_0")


def test_read_only_exporters_are_read_as_arrays() -> None:
    class ReadOnly(Exporter):
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[Any, Any]:
            return np.broadcast_to(np.float32(2), (3, 32))

    q = bq.quantize(ReadOnly(error=BufferError("read-only")), "Q8_0")
    np.testing.assert_array_equal(q.data, bq.quantize(np.full((3, 32), 2, np.float32), "Q8_0").data)


def test_a_gguf_enum_names_a_format() -> None:
    gguf = pytest.importorskip("gguf")
    x = gaussian(1, 256)
    kind = gguf.GGMLQuantizationType.Q6_K
    np.testing.assert_array_equal(bq.quantize(x, kind).data, bq.quantize(x, "Q6_K").data)
    assert bq.QuantizedTensor(bq.quantize(x, kind).data, kind).format == "Q6_K"


@pytest.mark.parametrize("isa", bq.available_isas())
@pytest.mark.parametrize("name", READY)
def test_matmul_is_close_to_the_float64_product(name: str, isa: str) -> None:
    current = bq.cpu_info()["isa"]
    bq.set_isa(isa)
    try:
        for m, n, k in [
            (1, 1, 256),
            (1, 33, 512),
            (2, 17, 256),
            (3, 31, 768),
            (5, 3, 256),
            (8, 8, 1024),
            (33, 40, 512),
            (260, 33, 256),
        ]:
            x, w = gaussian(m, k, seed=m), quantize(gaussian(n, k, seed=n), name)
            weights = w.dequantize().astype(np.float64)
            exact = x.astype(np.float64) @ weights.T
            bound = np.abs(x).astype(np.float64) @ np.abs(weights).T
            y32 = bq.matmul(x, w, precision="float32")
            assert np.all(np.abs(y32 - exact) <= bound * 1e-5 + 1e-12)
            y = bq.matmul(x, w)
            # An int8 activation is off by at most half a step of its run: amax / 254.
            run = 256 if w.format.block_size == 256 else 32
            runs = np.abs(x).reshape(m, -1, run).max(-1) / 254 * 1.01
            slack = runs.astype(np.float64) @ np.abs(weights).reshape(n, -1, run).sum(-1).T
            assert np.all(np.abs(y - exact) <= slack + bound * 1e-5 + 1e-12)
            # One row at a time, other thread counts: the same.
            for row in range(m):
                np.testing.assert_allclose(bq.matmul(x[row], w), y[row], rtol=1e-6, atol=1e-6 * bound.max())
            for threads in (1, 2, 5):
                np.testing.assert_array_equal(bq.matmul(x, w, threads=threads), y)
    finally:
        bq.set_isa(current)


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", bq.available_isas())
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "F16"])
def test_matmul_with_experts_is_each_row_with_its_matrix(name: str, isa: str) -> None:
    bq.set_isa(isa)
    rng = np.random.default_rng(3)
    weights = gaussian(5, 19, 512)
    w = weights.astype(np.float16) if name == "F16" else quantize(weights, name)
    for rows in (1, 2, 40):
        x = rng.standard_normal((rows, 512), dtype=np.float32)
        experts = rng.integers(0, 4, rows)  # expert 4 stays without rows
        y = bq.matmul(x, w, experts=experts)
        assert y.shape == (rows, 19)
        for e in range(5):
            mine = experts == e
            np.testing.assert_array_equal(y[mine], bq.matmul(x[mine], w[e]))
        np.testing.assert_array_equal(bq.matmul(x, w, experts=experts.astype(np.uint8), threads=2), y)
    y = bq.matmul(x.reshape(4, 10, 512), w, experts=experts.reshape(4, 10))
    np.testing.assert_array_equal(y.reshape(40, 19), bq.matmul(x, w, experts=experts))
    with pytest.raises(IndexError, match=r"expert 5 of row 1 is not in 0\.\.4"):
        bq.matmul(x[:2], w, experts=[0, 5])
    with pytest.raises(IndexError, match="0 or more"):
        bq.matmul(x[:2], w, experts=[0, -1])
    with pytest.raises(ValueError, match="an index for each row"):
        bq.matmul(x[:2], w, experts=[0])
    with pytest.raises(TypeError, match="integers"):
        bq.matmul(x[:2], w, experts=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"leading axis for the experts"):
        bq.matmul(x[:2], w[0], experts=[0, 0])


def _multiply(**options: Any) -> np.ndarray:
    return bq.matmul(gaussian(2, 32), bq.quantize(gaussian(2, 32), "Q8_0"), **options)


def test_matmul_takes_float_arrays_and_out() -> None:
    x, w = gaussian(4, 96), gaussian(7, 96, seed=1)
    for weights in (w, w.astype(np.float16), w[:, ::-1]):
        np.testing.assert_allclose(bq.matmul(x, weights), x @ weights.astype(np.float32).T, rtol=1e-4, atol=1e-5)
    q = bq.quantize(w, "Q8_0")
    out = np.empty((4, 7), np.float32)
    assert bq.matmul(x, q, out=out) is out
    np.testing.assert_array_equal(out, bq.matmul(x, q))
    np.testing.assert_array_equal(bq.matmul(x.reshape(2, 2, 96), q).reshape(4, 7), out)
    np.testing.assert_array_equal(bq.matmul(x.astype(np.float64), q), out)
    assert bq.matmul(np.empty((0, 96), np.float32), q).shape == (0, 7)
    assert bq.matmul(x, bq.quantize(np.empty((0, 96), np.float32), "Q8_0")).shape == (4, 0)
    # What needs no conversion takes a way of its own: every refusal of it must end in the same checks.
    np.testing.assert_array_equal(bq.matmul(x[:, ::-1], q), bq.matmul(x[:, ::-1].copy(), q))
    np.testing.assert_array_equal(bq.matmul(x.astype(">f4"), q), out)
    np.testing.assert_array_equal(bq.matmul(x[0], q), bq.matmul(x[:1], q)[0])
    np.testing.assert_array_equal(bq.matmul(x[0], q, precision="float32"), bq.matmul(x[:1], q, precision="float32")[0])
    assert type(bq.matmul(x, q)) is np.ndarray


@pytest.mark.skipif(sys.platform == "win32", reason="pages that nobody touched count as used there")
def test_weights_of_more_than_4_gib() -> None:
    k, n = 8192, 500_000
    row_bytes = bq.formats["Q8_0"].row_bytes(k)
    data = np.zeros((n, row_bytes), np.uint8)  # pages of zeros, which take no memory
    assert data.nbytes > 2**32
    last = bq.quantize(gaussian(40, k, seed=2), "Q8_0")
    data[-40:] = last.data
    for rows in (1, 2):
        x = gaussian(rows, k, seed=rows)
        y = bq.matmul(x, bq.QuantizedTensor(data, "Q8_0"))
        assert not y[:, :-40].any()
        np.testing.assert_array_equal(y[:, -40:], bq.matmul(x, last))


def test_packed_weights_say_what_they_are() -> None:
    x = gaussian(6, 512)
    for name in ("Q4_0", "IQ2_XXS", "BF16"):
        w = quantize(gaussian(2 * 19, 512, seed=3), name)
        p = bq.pack(w)
        assert (p.format, p.shape) == (name, (38, 512))
        assert p.nbytes == w.nbytes
        assert name in repr(p)
        again = pickle.loads(pickle.dumps(p))
        np.testing.assert_array_equal(bq.matmul(x, again), bq.matmul(x, p))
    with pytest.raises(TypeError, match="QuantizedTensor"):
        bq.pack(x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected"):
        bq.pack(w[0])
    with pytest.raises(ValueError, match="does not fit"):
        bq.matmul(x[:, :256], p)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bq.quantize(gaussian(2, 100), "Q4_K"), ValueError, r"multiple of 256 elements, this one has 100"),
        (lambda: bq.quantize(gaussian(2, 256), "Q4_X"), ValueError, r"unknown format 'Q4_X'; near names: .*Q4_K"),
        (lambda: bq.quantize(gaussian(2, 256), 4), ValueError, r"unknown ggml type id 4"),
        (lambda: bq.quantize(gaussian(2, 256), 1.5), TypeError, r"expected a format"),
        (lambda: bq.quantize(np.ones((2, 256), np.int32), "Q4_K"), TypeError, r"dtype int32"),
        (lambda: bq.quantize("text", "Q4_K"), TypeError, r"must be an array"),
        (lambda: bq.quantize(np.float32(1), "F16"), ValueError, r"at least one dimension"),
        (lambda: bq.quantize(gaussian(2, 256), "Q4_K", imatrix=np.ones(32)), ValueError, r"imatrix has shape \(32,\)"),
        (lambda: bq.quantize(gaussian(2, 256), "Q4_K", imatrix=-np.ones(256)), ValueError, r"imatrix\[0\] is -1"),
        (lambda: bq.quantize(gaussian(2, 256), "Q4_K", threads=0), ValueError, r"at least 1"),
        (lambda: bq.quantize(gaussian(2, 256), "Q4_K", out=np.empty((2, 143), np.uint8)), ValueError, r"out has shape"),
        (lambda: bq.matmul(gaussian(2, 64), bq.quantize(gaussian(2, 32), "Q8_0")), ValueError, r"does not fit"),
        (lambda: bq.matmul(gaussian(2, 32), gaussian(2, 2, 32)), ValueError, r"expected \[N, K\]"),
        (lambda: bq.matmul(np.float32(1), bq.quantize(gaussian(2, 32), "Q8_0")), ValueError, r"does not fit"),
        (lambda: _multiply(threads=0), ValueError, r"at least 1"),
        (lambda: _multiply(precision="int4"), ValueError, r"precision must be"),
        (lambda: _multiply(out=np.empty((2, 3), np.float32)), ValueError, r"out has shape \(2, 3\)"),
        (lambda: _multiply(out=np.empty((2, 2))), ValueError, r"dtype float64"),
        (lambda: _multiply(out=np.empty((2, 2), np.float32, order="F")), ValueError, r"C-contiguous"),
        (lambda: _multiply(out=[[0.0]]), TypeError, r"out must be a numpy array"),
        (lambda: bq.matmul(gaussian(2, 32), [1.0]), TypeError, r"QuantizedTensor"),
        (lambda: bq.QuantizedTensor(np.zeros((2, 17), np.uint8), "Q8_0"), ValueError, r"rows of 17 bytes"),
        (lambda: bq.QuantizedTensor(np.zeros((2, 34), np.int8), "Q8_0"), TypeError, r"uint8"),
        (lambda: bq.dequantize(np.zeros(34, np.uint8), "Q8_0", dtype=np.int32), TypeError, r"cannot decode to int32"),
        (lambda: bq.dequantize(np.zeros(34, np.uint8), "Q8_0", out=np.empty(31, np.float32)), ValueError, r"out has"),
        (lambda: bq.dequantize(np.zeros(34, np.uint8), "Q8_0", out=[0.0]), TypeError, r"out must be a numpy array"),
        (lambda: bq.dequantize(np.zeros(34, np.uint8)), ValueError, r"need a format"),
        (lambda: bq.quantization_error(gaussian(2, 32), gaussian(2, 32)), TypeError, r"q must be a QuantizedTensor"),
        (lambda: bq.set_isa("avx1024"), ValueError, r"available: "),
        (lambda: bq.set_num_threads(0), ValueError, r"at least 1"),
    ],
)
def test_bad_calls_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.float32, np.nan),
        (np.float32, -np.inf),
        (np.float16, np.inf),
        (ml_dtypes.bfloat16, np.nan),
        (np.float64, 1e300),
    ],
)
def test_the_first_bad_value_is_named(dtype: type, value: float, threads: int) -> None:
    x = np.zeros((70, 2, 512), dtype)
    x[69, 1, 511] = value
    x[41, 1, 300] = value
    x[41, 1, 301] = value
    with pytest.raises(ValueError, match=r"x\[41, 1, 300\] is"):
        bq.quantize(x, "Q4_K", threads=threads)


def test_indexing_reaches_rows_only() -> None:
    q = bq.quantize(gaussian(4, 256), "Q4_K")
    with pytest.raises(IndexError, match="first 1 axes only"):
        q[0, 3]
    with pytest.raises(TypeError, match="integers and slices"):
        q[[0, 1]]
    assert q[::2].shape == (2, 256)
    assert len([*q]) == 4


def test_experts_have_weights_of_their_own() -> None:
    x = gaussian(3, 4, 256)
    weights = np.random.default_rng(1).random((3, 256)).astype(np.float32)
    q = bq.quantize(x, "Q4_K", imatrix=weights)
    for e in range(3):
        np.testing.assert_array_equal(q[e].data, bq.quantize(x[e], "Q4_K", imatrix=weights[e]).data)


def test_quantization_error_in_float64() -> None:
    x = gaussian(5, 512)
    q = bq.quantize(x, "Q4_K")
    a, b = x.astype(np.float64), np.asarray(q).astype(np.float64)
    e = bq.quantization_error(x, q)
    assert e["rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert e["relative_rmse"] == pytest.approx(np.sqrt(np.sum((a - b) ** 2) / np.sum(a**2)))
    assert e["max_abs"] == np.abs(a - b).max()
    assert e["cosine"] == pytest.approx(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert e["snr_db"] == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))
    errors = [
        bq.quantization_error(x, bq.quantize(x, n))["rmse"] for n in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    ]
    assert errors == sorted(errors, reverse=True)
    zeros = bq.quantization_error(np.zeros((1, 256)), bq.quantize(np.zeros((1, 256)), "Q4_K"))
    assert zeros["rmse"] == 0
    assert zeros["snr_db"] == float("inf")
    exact = x.astype(ml_dtypes.bfloat16)
    assert bq.quantization_error(exact, bq.quantize(exact, "BF16"))["max_abs"] == 0


def test_cpu_info_and_isas() -> None:
    info = bq.cpu_info()
    assert info["isa"] in info["available_isas"]
    assert info["available_isas"][0] == "baseline"
    assert info["threads"] == bq.get_num_threads() >= 1
    before = bq.get_num_threads()
    bq.set_num_threads(3)
    assert bq.get_num_threads() == 3
    bq.set_num_threads(before)


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


def test_environment_chooses_isa_and_threads() -> None:
    done = _python(
        "import blockquant as bq; print(bq.cpu_info()['isa'], bq.get_num_threads())",
        BLOCKQUANT_ISA="baseline",
        BLOCKQUANT_NUM_THREADS="7",
    )
    assert done.stdout.split() == ["baseline", "7"]
    done = _python("import blockquant as bq; bq.quantize([[0.0] * 32], 'Q8_0')", BLOCKQUANT_ISA="mmx")
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "mmx" in done.stderr
    assert "baseline" in done.stderr
    done = _python("import blockquant as bq; bq.quantize([[0.0] * 32], 'Q8_0')", BLOCKQUANT_NUM_THREADS="many")
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "many" in done.stderr


def test_import_is_quick_and_needs_numpy_alone() -> None:
    code = (
        "import time, sys; t = time.perf_counter(); import blockquant; t = time.perf_counter() - t;"
        "extra = {'torch', 'gguf', 'ml_dtypes', 'safetensors', 'tokenizers', 'typer', 'rich'} & set(sys.modules);"
        "assert not extra, extra; print(t)"
    )
    times = [float(_python(code).stdout) for _ in range(3)]
    # The goal is 150 ms; the bound is loose because test machines are shared.
    assert min(times) < 1.0


def test_kernels_release_the_gil() -> None:
    import threading

    x = gaussian(512, 4096)
    ticks = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for call in (
            lambda: bq.quantize(x, "Q2_K", threads=1),
            lambda: [bq.dequantize(bq.quantize(x, "Q8_0", threads=1).data, "Q8_0", threads=1) for _ in range(8)],
        ):
            before = ticks
            began = time.perf_counter()
            call()
            if time.perf_counter() - began > 0.05:
                assert ticks - before >= 3
    finally:
        stop.set()
        thread.join()
