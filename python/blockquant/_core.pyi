from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str

def format_table() -> list[tuple[str, int, int, int, int, bool, bool, bool, str]]: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> bool: ...
def cpu_features() -> list[str]: ...
def compiler() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def from_dlpack(source: object) -> tuple[npt.NDArray[Any], bool]: ...
def encode(
    x: npt.NDArray[Any],
    element_type: int,
    format: int,
    out: npt.NDArray[np.uint8],
    imatrix: npt.NDArray[np.float32] | None,
    threads: int,
) -> int: ...
def decode(
    data: npt.NDArray[np.uint8], format: int, out: npt.NDArray[Any], element_type: int, threads: int
) -> None: ...
def find_bad(data: npt.NDArray[Any], format: int, elements: int, threads: int) -> tuple[int, bool] | None: ...
def unpack(
    data: npt.NDArray[np.uint8],
    format: int,
    values: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    minima: npt.NDArray[np.float32] | None,
    threads: int,
) -> None: ...
def assemble(
    format: int,
    values: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    minima: npt.NDArray[np.float32] | None,
    nearest: bool,
    like: npt.NDArray[np.uint8] | None,
    out: npt.NDArray[np.uint8],
    threads: int,
) -> tuple[int, str, int, int] | None: ...
def assembly_rules(format: int) -> tuple[str, str, str]: ...
def matmul_plain(
    x: object, w: npt.NDArray[np.uint8], format: int, out: object, threads: int, exact: bool, lanes: int = 0
) -> npt.NDArray[np.float32] | None: ...
def matmul(
    x: npt.NDArray[np.float32],
    w: npt.NDArray[Any],
    format: int,
    y: npt.NDArray[np.float32],
    threads: int,
    exact: bool,
    experts: npt.NDArray[np.int32] | None = None,
    lanes: int = 0,
) -> None: ...
def lay_out_weights(
    w: npt.NDArray[np.uint8], format: int, rows: int, threads: int
) -> tuple[int, npt.NDArray[np.uint8] | None]: ...
def take_apart_weights(w: npt.NDArray[np.uint8], format: int, lanes: int, threads: int) -> npt.NDArray[np.uint8]: ...

cache_block: int
max_head_dim: int

def q8_0_cache_bytes(dim: int) -> int: ...
def rms_norm(
    x: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    eps: float,
    threads: int = 0,
) -> None: ...
def rope(
    x: npt.NDArray[np.float32],
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    interleaved: bool,
    threads: int = 0,
) -> None: ...
def store_kv(
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    position: int,
) -> None: ...
def attention(
    q: npt.NDArray[np.float32],
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    out: npt.NDArray[np.float32],
    position: int,
    scale: float,
    window: int = 0,
    threads: int = 0,
) -> None: ...
def gated(
    gate: npt.NDArray[np.float32],
    up: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    activation: str,
    threads: int = 0,
) -> None: ...
def add(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], threads: int = 0) -> None: ...

# A location is (type, element type, count, offset, nbytes).
_Location = tuple[int, int, int, int, int]

def gguf_parse(
    file: Any,
    formats: dict[str, str],
) -> tuple[int, bool, int, int, list[tuple[str, _Location]], list[tuple[str, tuple[int, ...], str, int, int]]]: ...
def gguf_strings(file: Any, offset: int, count: int, big_endian: bool) -> list[str]: ...
def gguf_arrays(file: Any, offset: int, count: int, big_endian: bool) -> list[_Location]: ...
def gguf_encode_strings(strings: list[str], big_endian: bool) -> bytes: ...
def gguf_swap_blocks(format: str, data: npt.NDArray[np.uint8]) -> None: ...
def gguf_plain_types() -> list[tuple[str, int, int]]: ...
