"""How products are called: outputs over inputs, odd arrays, threads that outlive main, memory that runs out, errors."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
import weakref

import blockquant as bq
import numpy as np
import pytest
from blockquant import _core
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_K", "IQ4_XS", "IQ2_XXS"]


def weights(format_name: str, n: int, k: int) -> bq.QuantizedTensor:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((n, k), np.float32)
    return bq.quantize(w, format_name, imatrix=np.ones(k, np.float32) if format_name == "IQ2_XXS" else None)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("isa", bq.available_isas())
@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_out_may_overlap_x(format_name: str, precision: str, isa: str, restore_isa: None) -> None:
    bq.set_isa(isa)
    k = 512
    q = weights(format_name, k, k)
    rng = np.random.default_rng(2)
    for rows in (1, 2, 3, 4, 8, 40):
        x = rng.standard_normal((rows, k), np.float32)
        for w in (q, bq.pack(q, rows=4)):
            expected = bq.matmul(x, w, precision=precision)
            same = x.copy()
            assert bq.matmul(same, w, out=same, precision=precision) is same
            np.testing.assert_array_equal(same, expected)
            memory = np.empty((rows + 1, k), np.float32)
            memory[:rows] = x
            bq.matmul(memory[:rows], w, out=memory[1:], precision=precision)
            np.testing.assert_array_equal(memory[1:], expected)
    experts = np.zeros(rows, np.int64)
    stacked = bq.QuantizedTensor(q.data[None], format_name)
    expected = bq.matmul(x, stacked, experts=experts, precision=precision)
    np.testing.assert_array_equal(bq.matmul(x, stacked, out=x, experts=experts, precision=precision), expected)


def test_bfloat16_in_any_order() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q = weights("Q8_0", 5, 64)
    x = np.random.default_rng(3).standard_normal((4, 3, 64), np.float32).astype(ml_dtypes.bfloat16)
    for odd in (np.asfortranarray(x), np.asfortranarray(x[0]), x.transpose(1, 0, 2), x[::-1, ::2], x[..., ::-1]):
        np.testing.assert_array_equal(bq.matmul(odd, q), bq.matmul(odd.astype(np.float32), q))
    w = np.asfortranarray(x[0])
    np.testing.assert_array_equal(bq.matmul(x, w), bq.matmul(x, np.ascontiguousarray(w, np.float32)))
    imatrix = np.asfortranarray(np.abs(x[0, :2]))
    stack = np.ones((2, 5, 64), np.float32)
    same = bq.quantize(stack, "Q4_0", imatrix=imatrix.astype(np.float32))
    np.testing.assert_array_equal(bq.quantize(stack, "Q4_0", imatrix=imatrix).data, same.data)


def test_arrays_at_odd_addresses() -> None:
    q = weights("Q4_0", 5, 64)
    x = np.random.default_rng(4).standard_normal((3, 64), np.float32)

    def moved(array: Floats) -> Floats:
        memory = np.zeros(array.nbytes + 1, np.uint8)
        odd = memory[1:].view(np.float32).reshape(array.shape)
        odd[...] = array
        assert not odd.flags.aligned
        return odd

    np.testing.assert_array_equal(bq.matmul(moved(x), q), bq.matmul(x, q))
    np.testing.assert_array_equal(bq.matmul(x, moved(x)), bq.matmul(x, x))
    with pytest.raises(ValueError, match="address"):
        bq.matmul(x, q, out=moved(np.zeros((3, 5), np.float32)))


class Tensor:
    """A producer of DLPack tensors that says where its memory is."""

    def __init__(self, array: Floats, device: int) -> None:
        self.array, self.device = array, device

    def __dlpack__(self) -> object:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_pinned_memory_is_memory() -> None:
    q = weights("Q4_0", 5, 64)
    x = np.random.default_rng(5).standard_normal((3, 64), np.float32)
    for device in (1, 3, 11):
        np.testing.assert_array_equal(bq.matmul(Tensor(x, device), q), bq.matmul(x, q))
    with pytest.raises(TypeError, match="not in CPU memory"):
        bq.matmul(Tensor(x, 2), q)
    with pytest.raises(TypeError, match=r"np\.from_dlpack"):
        bq.matmul(x, Tensor(x, 1))


@pytest.mark.parametrize("isa", bq.available_isas())
def test_packed_scales_of_every_byte(isa: str, restore_isa: None) -> None:
    bq.set_isa(isa)
    rng = np.random.default_rng(6)
    data = rng.integers(0, 256, (256, 2 * 36), np.uint8)
    data[:, :4] = data[:, 36:40] = np.arange(256)[:, None]
    q = bq.QuantizedTensor(data, "NVFP4")
    for rows in (1, 4, 8, 32):
        x = rng.standard_normal((rows, 128), np.float32)
        expected = bq.matmul(x, q)
        np.testing.assert_allclose(bq.matmul(x, bq.pack(q, rows=rows)), expected, rtol=1e-4, atol=1e-4)


def test_the_largest_activations() -> None:
    q = weights("Q8_0", 5, 32)
    x = np.zeros((1, 32), np.float32)
    x[0, 3] = np.finfo(np.float32).max
    x[0, 4] = -1e30
    small = bq.quantize(q.dequantize() * np.float32(1e-3), "Q8_0")
    exact = x.astype(np.float64) @ small.dequantize().astype(np.float64).T
    np.testing.assert_allclose(bq.matmul(x, small), exact, rtol=1e-2)


EXIT = """
    import threading, time
    import numpy as np, blockquant as bq
    w = np.ones((512, 2048), np.float32)
    q = bq.quantize(w, "Q4_K"); x = np.ones((8, 2048), np.float32)
    begun = threading.Event()
    def serve():
        while True:
            {call}
            begun.set()
    for _ in range(2):
        threading.Thread(target=serve, daemon=True).start()
    begun.wait()
    time.sleep(0.05)
    raise SystemExit(3)
"""


@pytest.mark.parametrize(
    "call",
    ["bq.matmul(x, q)", "bq.matmul(x, q, threads=1)", "q.dequantize()", "bq.quantize(w, 'Q8_0')", "bq.pack(q, rows=4)"],
)
def test_a_daemon_thread_does_not_disturb_the_exit(call: str) -> None:
    done = run_python(EXIT.format(call=call))
    assert (done.returncode, done.stderr) == (3, "")


OUT_OF_MEMORY = """
    import resource, time
    import numpy as np, blockquant as bq
    k, n = 1 << 20, 64
    p = bq.pack(bq.QuantizedTensor(np.zeros((n, k // 32 * 18), np.uint8), "Q4_0"), rows=4)
    x = np.ones((2, k), np.float32)
    small = bq.quantize(np.ones((512, 512), np.float32), "Q8_0")
    few = np.ones((2, 512), np.float32)
    expected = bq.matmul(few, small, threads=4)
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ({mib} << 20), resource.RLIM_INFINITY))
    try:
        bq.matmul(x, p, threads=4, precision="float32")
        print("done")
    except MemoryError:
        print("MemoryError")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    time.sleep(0.05)
    for _ in range(200):
        assert np.array_equal(bq.matmul(few, small, threads=4), expected)
    print("went on")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_memory_that_runs_out_is_a_memory_error() -> None:
    for mib in (1, 9, 20):
        done = run_python(OUT_OF_MEMORY.format(mib=mib))
        assert done.returncode == 0, (mib, done.stderr)
        outcome, after = done.stdout.split("\n")[:2]
        assert outcome == "MemoryError" or (mib > 1 and outcome == "done")
        assert after == "went on"


def test_a_wrong_environment_can_be_repaired() -> None:
    code = """
        import numpy as np, blockquant as bq
        try:
            bq.quantize(np.ones((1, 32), np.float32), "Q8_0")
        except ValueError as error:
            print(error)
        bq.set_isa("baseline")
        bq.set_num_threads(2)
        bq.quantize(np.ones((1, 32), np.float32), "Q8_0")
        print(bq.cpu_info()["isa"], bq.get_num_threads())
    """
    for name, value in {"BLOCKQUANT_ISA": "avx9", "BLOCKQUANT_NUM_THREADS": "0"}.items():
        done = run_python(code, **{name: value})
        assert done.returncode == 0, done.stderr
        message, after = done.stdout.splitlines()
        assert name in message
        assert after == "baseline 2"


def test_the_number_of_threads_goes_back_to_the_default() -> None:
    before = bq.get_num_threads()
    bq.set_num_threads(before + 1)
    assert bq.get_num_threads() == before + 1
    bq.set_num_threads(None)
    assert bq.get_num_threads() == before


def test_what_is_wrong_is_said() -> None:
    q, x = weights("Q4_0", 6, 64), np.ones((2, 64), np.float32)
    stacked = bq.QuantizedTensor(q.data.reshape(2, 3, -1), "Q4_0")
    cases: list[tuple[type[Exception], str, object]] = [
        (ValueError, r"pass experts=", lambda: bq.matmul(x, stacked)),
        (ValueError, r"pass experts=", lambda: bq.matmul(x, bq.pack(stacked))),
        (ValueError, r"w\[i : i \+ 1\]", lambda: bq.matmul(x, q[0])),
        (ValueError, r"expected \[E, N, K\]", lambda: bq.matmul(x, q, experts=[0, 0])),
        (ValueError, r"precision must be", lambda: bq.matmul(x, q, precision=["int8"])),  # type: ignore[arg-type]
        (TypeError, r"threads must be an integer, got 1\.5", lambda: bq.matmul(x, q, threads=1.5)),  # type: ignore[arg-type]
        (TypeError, r"rows must be an integer, got 2\.0", lambda: bq.pack(q, rows=2.0)),  # type: ignore[arg-type]
        (ValueError, r"rows must be an integer from 1 on, got 0", lambda: bq.pack(q, rows=0)),
        (TypeError, r"name must be a str", lambda: bq.set_isa(None)),  # type: ignore[arg-type]
        (ValueError, r"cannot run instruction set", lambda: bq.set_isa("\udc80")),
        (TypeError, r"np\.frombuffer", lambda: bq.QuantizedTensor(q.data.tobytes(), "Q4_0")),
        (TypeError, r"single quantized row", lambda: list(q[0])),
        (TypeError, r"integers and slices", lambda: q[True]),
        (TypeError, r"integers and slices", lambda: q[np.array([0, 1])]),  # type: ignore[index]
        (
            IndexError,
            r"w has no experts",
            lambda: bq.matmul(x, bq.QuantizedTensor(stacked.data[:0], "Q4_0"), experts=[0, 0]),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()  # type: ignore[operator]


def test_what_is_right_is_taken() -> None:
    q, x = weights("Q4_0", 6, 64), np.ones((2, 64), np.float32)
    stacked = bq.QuantizedTensor(q.data.reshape(2, 3, -1), "Q4_0")
    for rows in (np.int64(8), 2**70):
        np.testing.assert_allclose(bq.matmul(x, bq.pack(q, rows=rows)), bq.matmul(x, q), rtol=1e-5)  # type: ignore[arg-type]
    assert bq.matmul(x[:0], stacked, experts=[]).shape == (0, 3)
    assert [row.shape for row in q] == [(64,)] * 6
    shallow = copy.copy(q)
    assert np.shares_memory(shallow.data, q.data)
    assert shallow.format == q.format
    for held in (q, bq.pack(q)):
        assert weakref.ref(held)() is held


def test_the_core_takes_nothing_that_overlaps() -> None:
    x = np.ones((32, 32), np.float32)
    q = weights("Q8_0", 32, 32)
    with pytest.raises(ValueError, match="output of its own"):
        _core.matmul(x, q.data, q.format.ggml_type, x, 1, True)
    with pytest.raises(ValueError, match="strip"):
        _core.matmul(x, x.view(np.uint8), 0, np.empty_like(x), 1, True, None, 8)
