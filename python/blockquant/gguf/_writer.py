"""Writing: tensors stream to a temporary file beside the target, which is renamed when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blockquant import _core
from blockquant.gguf._header import Entry, HeaderPlan
from blockquant.gguf._hidden import create_like, create_private, hidden_once, write_all
from blockquant.gguf._journal import put
from blockquant.gguf._types import ARRAY_DTYPES, LAYOUTS, GGUFError, tensor_bytes

if TYPE_CHECKING:
    from blockquant._tensor import QuantizedTensor
    from blockquant.gguf._reader import GGUFFile

_CHUNK_BYTES = 8 << 20
_FORMAT_OF_DTYPE = {dtype: name for name, dtype in ARRAY_DTYPES.items()}


class GGUFWriter:
    """A GGUF file in the making: `blockquant.gguf.create` makes it. Use it as a context manager.

    The file appears under its name when the `with` block ends without an exception, and not otherwise: until then the
    data is in hidden files beside it, `.<name>.<process id>-<random>.partial`, which only a killed process leaves.
    A file that is replaced gives the new one its permissions. Forked processes cannot use the writer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        tensors: Mapping[str, tuple[tuple[int, ...], str]] | None = None,
        alignment: int = 32,
        endianness: Literal["little", "big"] = "little",
    ) -> None:
        self.path = Path(path)
        self._process = os.getpid()
        self._plan = HeaderPlan(metadata, alignment, endianness)
        self._swap = endianness != sys.byteorder
        self._state = "open"
        self._planned = tensors is not None

        self._target = check_target(self.path)
        self._partial = hidden_once(self._target, "partial")
        self._spool = hidden_once(self._target, "data.partial")
        if tensors is not None:
            for name, (shape, format_) in tensors.items():
                self._plan.add(name, tuple(int(n) for n in shape), str(format_))
        self._file = create_like(self._partial, self._target) if self._planned else create_private(self._spool)
        try:
            self._data_offset = self._write_header(self._file) if self._planned else 0
        except BaseException:
            self.abort()
            raise

    def add_tensor(self, name: str, tensor: np.ndarray[Any, Any] | QuantizedTensor | Any) -> None:
        """Write a whole tensor.

        `tensor` is a QuantizedTensor, a numpy array of any strides (float32, float16, float64, int8 to int64; bfloat16
        of ml_dtypes becomes BF16), or anything with `__array__`. Shapes are in numpy order, at most 4 dimensions. With
        a plan the tensors may come in any order.

        Raises GGUFError for a name already written or missing from the plan, and a shape or format other than planned;
        TypeError for a dtype that GGUF does not have.
        """
        self._check_open()
        shape, format_, raw = _as_stored(name, tensor)
        if self._planned:
            entry = self._planned_entry(name)
            if entry.written:
                raise GGUFError(f"tensor {name!r} has already been written")
            if shape != entry.shape or format_ != entry.format:
                raise GGUFError(
                    f"tensor {name!r} is planned as {entry.format} {list(entry.shape)}, got {format_} {list(shape)}"
                )
        else:
            entry = self._plan.add(name, shape, format_)
        self._write_rows(entry, raw)

    def add_rows(self, name: str, rows: np.ndarray[Any, Any] | QuantizedTensor | Any) -> None:
        """Append the next whole rows of a planned tensor: an array or QuantizedTensor [..., K] of its format.

        Raises GGUFError for a tensor missing from the plan, another row length or format, or too many rows.
        """
        self._check_open()
        if not self._planned:
            raise GGUFError("add_rows needs a plan: give `tensors` to create, or write whole tensors with add_tensor")
        entry = self._planned_entry(name)
        shape, format_, raw = _as_stored(name, rows)
        if format_ != entry.format or shape[-1:] != entry.shape[-1:]:
            raise GGUFError(
                f"tensor {name!r} is planned as {entry.format} rows of {entry.shape[-1:]}, got {format_} {list(shape)}"
            )
        if entry.written + tensor_bytes(name, shape, format_) > entry.nbytes:
            raise GGUFError(f"tensor {name!r} is planned as {list(entry.shape)} and has more rows")
        self._write_rows(entry, raw)

    def copy_tensor(self, source: GGUFFile, name: str, progress: Callable[[int], None] | None = None) -> None:
        """Copy a planned tensor from an open file, bytes unchanged but for the byte order, in bounded memory.

        `progress` is called with the bytes copied so far. Raises GGUFError as add_tensor does.
        """
        self._check_open()
        info = source.tensor_info(name)
        shard = source.shards[info.shard]
        entry = self._planned_entry(name)
        if info.shape != entry.shape or info.format != entry.format:
            raise GGUFError(
                f"tensor {name!r} is planned as {entry.format} {list(entry.shape)}, "
                f"got {info.format} {list(info.shape)}"
            )
        if entry.written:
            raise GGUFError(f"tensor {name!r} has already been written")
        if shard.big_endian != (self._plan.order == ">"):
            self.add_tensor(name, source.tensors[name])
        else:
            self._state = "failed"
            self._file.seek(self._data_offset + entry.offset)
            with shard.raw_tensor(info) as raw:
                for start in range(0, info.nbytes, _CHUNK_BYTES):
                    stop = min(start + _CHUNK_BYTES, info.nbytes)
                    source.prefetch(name, stop, min(stop + _CHUNK_BYTES, info.nbytes))
                    write_all(self._file, raw[start:stop])
                    source.release(name, start, stop)
                    entry.written = stop
                    if progress is not None:
                        progress(stop)
            self._state = "open"
        source.release(name)

    def close(self) -> None:
        """Finish the file and put it under its name. Called at the end of a `with` block."""
        if self._state == "closed":
            return
        if os.getpid() != self._process:
            self.abort()
            return
        if self._state == "failed":
            self.abort()
            raise GGUFError(f"{self.path} was not written because an earlier write failed")
        try:
            self._finish()
        except BaseException:
            self.abort()
            raise
        self._state = "closed"

    def abort(self) -> None:
        """Remove what has been written. Does nothing after a successful close, and in a forked process."""
        if self._state == "closed":
            return
        self._state = "closed"
        with contextlib.suppress(OSError, AttributeError):
            self._file.close()
        if os.getpid() != self._process:
            return
        for path in (self._partial, self._spool):
            with contextlib.suppress(OSError):
                path.unlink()

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") != "closed" and hasattr(self, "_spool"):
            self.abort()

    def _check_open(self) -> None:
        if self._state != "open":
            raise GGUFError(f"{self.path}: the writer is {self._state}")
        if os.getpid() != self._process:
            raise GGUFError(f"{self.path}: the writer belongs to another process: write in the one that made it")

    def _planned_entry(self, name: str) -> Entry:
        if name not in self._plan.entries:
            raise GGUFError(f"tensor {name!r} is not in the plan of {len(self._plan.entries)} tensors")
        return self._plan.entries[name]

    def _write_header(self, file: FileIO) -> int:
        """Write everything before the data and return the offset of the data."""
        header = self._plan.encode()
        write_all(file, memoryview(header))
        return len(header)

    def _write_rows(self, entry: Entry, raw: np.ndarray[Any, Any]) -> None:
        # Whatever interrupts the writing, the file must not be finished afterwards.
        self._state = "failed"
        self._file.seek(self._data_offset + entry.offset + entry.written)
        for piece in _pieces(raw):
            flat = piece.reshape(-1).view(np.uint8)
            if self._swap:
                flat = flat.copy()
                try:
                    _core.gguf_swap_blocks(entry.format, flat)
                except ValueError as error:
                    raise GGUFError(f"tensor {entry.name!r}: {error}") from None
            write_all(self._file, memoryview(flat))  # type: ignore[arg-type]
            entry.written += flat.nbytes
        self._state = "open"

    def _finish(self) -> None:
        for entry in self._plan.entries.values():
            if entry.written != entry.nbytes:
                raise GGUFError(
                    f"tensor {entry.name!r} was planned and {'not' if not entry.written else 'only partly'} written"
                )
        # A hole at the end becomes the padding of the last tensor.
        self._file.truncate(self._data_offset + self._plan.end)
        if not self._planned:
            self._file.close()
            self._file = create_like(self._partial, self._target)
            self._write_header(self._file)
            with FileIO(self._spool, "r") as spool:
                append_file(spool, self._file, self._plan.end)
        os.fsync(self._file.fileno())
        self._file.close()
        put(self._partial, self._target)
        with contextlib.suppress(OSError):
            self._spool.unlink()


def create(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], str]] | None = None,
    alignment: int = 32,
    endianness: Literal["little", "big"] = "little",
) -> GGUFWriter:
    """Begin a GGUF file (version 3); use it as `with create(...) as w: w.add_tensor(name, tensor)`.

    Args:
        path: the target, replaced at the end when it exists; its permissions stay.
        metadata: key to str, bool, int (uint32 if it fits, else int32, uint64, int64), float (float32), list of str,
            list of numbers (int32 or float32), numpy scalar or 1-D array (its own dtype), or TypedValue. Written as
            given: `general.architecture` is the caller's to set.
        tensors: the whole plan, name to (shape, format) in file order. The header then goes out first and tensors
            stream straight to their place, in pieces with add_rows if need be. Without it the data waits in a second
            temporary file until close.
        alignment: of tensor offsets in bytes, a power of two. A `general.alignment` in the metadata decides instead;
            it is added when alignment is not 32.
        endianness: byte order of the file.

    Raises GGUFError for names, shapes and values that GGUF cannot hold, TypeError for other types, OSError when the
    disk is full or the directory cannot be written.
    """
    return GGUFWriter(path, metadata, tensors, alignment, endianness)


def check_target(path: Path) -> Path:
    """The file that is written for a path: where it leads when it is a link.

    GGUFError for what is there and is no regular file, FileNotFoundError for a missing directory: before the work, and
    not of a hidden file, whose name says nothing to anyone.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise GGUFError(f"{path} exists and is not a regular file")
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(target.parent))
    return target


def _as_stored(name: str, tensor: Any) -> tuple[tuple[int, ...], str, np.ndarray[Any, Any]]:
    """Shape, format and an array that holds the bytes in row-major order."""
    from blockquant._tensor import QuantizedTensor

    if isinstance(tensor, QuantizedTensor):
        # Elements are whole blocks, so that no piece ends inside one.
        data = tensor.data
        blocks = data.view(f"V{LAYOUTS[tensor.format].type_size}") if data.size else data
        return tuple(tensor.shape), str(tensor.format), blocks
    array = np.asarray(tensor)
    if array.dtype.name == "bfloat16":
        return array.shape, "BF16", array
    format_ = _FORMAT_OF_DTYPE.get(array.dtype.newbyteorder("="))
    if format_ is None:
        raise TypeError(
            f"tensor {name!r}: GGUF has no tensors of dtype {array.dtype}, expected float16, float32, float64, "
            "bfloat16, int8, int16, int32, int64 or a QuantizedTensor"
        )
    return array.shape, format_, array


def _pieces(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """C-contiguous pieces in this machine's byte order, each copied only if it has to be."""
    if array.size == 0:
        return
    if array.nbytes <= _CHUNK_BYTES or array.ndim == 0:
        yield np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    elif len(array) == 1:
        yield from _pieces(array[0])
    else:
        step = max(1, _CHUNK_BYTES // (array.nbytes // len(array)))
        for start in range(0, len(array), step):
            yield from _pieces(array[start : start + step])


def append_file(source: FileIO, target: FileIO, size: int, progress: Callable[[int], None] | None = None) -> None:
    """Append `size` bytes from where the source stands to its end: in the kernel, or not even copied, where the file
    system can. `progress` is called with the bytes done."""
    copied = 0

    def advance(nbytes: int) -> None:
        nonlocal copied
        copied += nbytes
        if progress is not None:
            progress(copied)

    if hasattr(os, "copy_file_range"):
        # Not on every file system: what is left is copied below, which also raises whatever the error was.
        with contextlib.suppress(OSError):
            while copied < size:
                n = os.copy_file_range(source.fileno(), target.fileno(), min(size - copied, 1 << 28))
                if n == 0:
                    break
                advance(n)
    while block := source.read(_CHUNK_BYTES):
        write_all(target, memoryview(block))
        advance(len(block))
