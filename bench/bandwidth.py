"""How fast this machine's memory is filled, copied and read, to say how near a kernel comes to it.

Filling is the faster of ordinary vector stores and of stores that bypass the cache, copying the faster of memcpy and of
the latter (stream.c, compiled on the spot; without a C compiler memset and memcpy alone). memset is no yardstick for
decoders where machines store one value over and over faster than any data.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def aligned(nbytes: int) -> Array:
    """uint8 [nbytes] that starts on a page, and whose pages are there, with numbers that differ from line to line."""
    buffer = np.zeros(nbytes + 4096, np.uint8)
    at = -buffer.ctypes.data % 4096
    found = buffer[at : at + nbytes]
    words = found[: nbytes // 8 * 8].view(np.uint64)
    words[:] = np.arange(len(words), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return found


@cache
def _stream_library() -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "stream.so"
        source = Path(__file__).with_name("stream.c")
        done = subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", str(library), str(source)], check=False
        )
        return ctypes.CDLL(str(library)) if done.returncode == 0 else None


class Workers:
    """Threads that share the work on ranges, as llama-quantize's do; the caller waits."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def run(self, n: int, body: Callable[[int, int], object]) -> None:
        """Call body(begin, end) on equal parts of [0, n)."""
        if self._pool is None:
            body(0, n)
            return
        bounds = [n * i // self._threads for i in range(self._threads + 1)]
        list(self._pool.map(body, bounds[:-1], bounds[1:]))


def fills(nbytes: int, workers: Workers) -> dict[str, Callable[[], None]]:
    """Ways to write nbytes (a multiple of 4096)."""
    to = aligned(nbytes)
    libc, stream = ctypes.CDLL(None), _stream_library()

    def by_pages(fill: Callable[[int, int], object]) -> Callable[[], None]:
        part = lambda begin, end: fill(to.ctypes.data + 4096 * begin, 4096 * (end - begin))  # noqa: E731
        return lambda: workers.run(nbytes // 4096, part)

    p, size = ctypes.c_void_p, ctypes.c_size_t
    if stream is None:
        return {"memset": by_pages(lambda at, n: libc.memset(p(at), 0, size(n)))}
    return {
        "plain": by_pages(lambda at, n: stream.plain_fill(p(at), size(n))),
        "stream": by_pages(lambda at, n: stream.stream_fill(p(at), size(n))),
    }


def copies(nbytes: int, workers: Workers) -> dict[str, Callable[[], None]]:
    """Ways to copy nbytes (a multiple of 4096): twice as many bytes are moved."""
    source, to = aligned(nbytes), aligned(nbytes)
    libc, stream = ctypes.CDLL(None), _stream_library()

    def by_pages(copy: Callable[[int, int, int], object]) -> Callable[[], None]:
        def part(begin: int, end: int) -> None:
            offset = 4096 * begin
            copy(to.ctypes.data + offset, source.ctypes.data + offset, 4096 * (end - begin))

        return lambda: workers.run(nbytes // 4096, part)

    p, size = ctypes.c_void_p, ctypes.c_size_t
    ways = {"memcpy": by_pages(lambda a, b, n: libc.memcpy(p(a), p(b), size(n)))}
    if stream:
        ways["stream"] = by_pages(lambda a, b, n: stream.stream_copy(p(a), p(b), size(n)))
    return ways


def read(nbytes: int, threads: int) -> Callable[[], None] | None:
    """A call that reads nbytes (a multiple of 4096); None without a C compiler."""
    source, stream = aligned(nbytes), _stream_library()
    if stream is None:
        return None
    return lambda: stream.stream_read(ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(nbytes), threads)
