"""Reading: a mapped file (or a set of shards), of which only what is asked for is decoded."""

from __future__ import annotations

import builtins
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from blockquant import _core
from blockquant.gguf._shards import SHARD_NAME, shard_path
from blockquant.gguf._types import ARRAY_DTYPES, LAYOUTS, SCALAR_DTYPES, GGUFError, TensorInfo, TypedValue, ValueType

if TYPE_CHECKING:
    from blockquant._tensor import QuantizedTensor

T = TypeVar("T")


# Where a metadata value is: type, element type, count, offset, nbytes.
_Location: TypeAlias = tuple[int, int, int, int, int]


class _LazyMapping(Mapping[str, T], Generic[T]):
    """Names in file order; a value is made when it is asked for."""

    def __init__(self, kind: str, names: dict[str, Any], load: Callable[[str], T]) -> None:
        self._kind, self._names, self._load = kind, names, load

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"<{len(self)} {self._kind}>"


class _Shard:
    """One file: its mapping and the index of its header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer: mmap.mmap | bytes | None = b""
        with builtins.open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size:
                self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = self._core_call(_core.gguf_parse)
        self.version: int = header[0]
        self.big_endian: bool = header[1]
        self.alignment: int = header[2]
        self.data_offset: int = header[3]
        self.metadata: dict[str, _Location] = dict(header[4])
        self.tensors: list[tuple[str, tuple[int, ...], str, int, int]] = header[5]

    @property
    def mapped(self) -> mmap.mmap | bytes:
        if self.buffer is None:
            raise GGUFError(f"{self.path} is closed; views taken earlier stay valid")
        return self.buffer

    def _core_call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(self.mapped, *args)
        except GGUFError:
            raise
        except ValueError as error:
            raise GGUFError(f"{self.path}: {error}") from None

    def value(self, location: _Location) -> TypedValue:
        type_, element, count, offset, nbytes = location
        kind = ValueType(type_)
        if kind is ValueType.STRING:
            return TypedValue(self.mapped[offset : offset + nbytes].decode("utf-8", "surrogateescape"), kind)
        if kind is ValueType.ARRAY:
            return TypedValue(self._array(ValueType(element), count, offset), kind, ValueType(element))
        return TypedValue(np.frombuffer(self.mapped, self._stored(kind), 1, offset).item(), kind)

    def _stored(self, kind: ValueType) -> np.dtype[Any]:
        dtype: np.dtype[Any] = SCALAR_DTYPES[kind].newbyteorder("big" if self.big_endian else "little")
        return dtype

    def _array(self, element: ValueType, count: int, offset: int) -> Any:
        if element is ValueType.STRING:
            return self._core_call(_core.gguf_strings, offset, count, self.big_endian)
        if element is ValueType.ARRAY:
            locations = self._core_call(_core.gguf_arrays, offset, count, self.big_endian)
            return [self.value(location) for location in locations]
        dtype = SCALAR_DTYPES[element]
        if count == 0:
            array = np.empty(0, dtype)
        else:
            # A copy, so that a value keeps neither the mapping alive nor an odd alignment.
            array = np.frombuffer(self.mapped, self._stored(element), count, offset).astype(dtype)
        array.flags.writeable = False
        return array

    def tensor(self, info: TensorInfo) -> np.ndarray[Any, Any] | QuantizedTensor:
        raw: np.ndarray[Any, Any]
        if info.nbytes == 0:
            raw = np.empty(0, np.uint8)
        else:
            # The view holds the mapping: it outlives this object.
            raw = np.frombuffer(self.mapped, np.uint8, info.nbytes, info.offset)
        layout = LAYOUTS[info.format]
        dtype = ARRAY_DTYPES.get(info.format)
        width = dtype.itemsize if dtype is not None else 2
        if self.big_endian != (sys.byteorder == "big"):
            raw = raw.copy()
            try:
                _core.gguf_swap_blocks(str(info.format), raw)
            except ValueError as error:
                raise GGUFError(f"{self.path}: tensor {info.name!r}: {error}") from None
        elif info.offset % width:
            raw = raw.copy()  # an alignment of 1 in the file: kernels want aligned numbers
        raw.flags.writeable = False
        if dtype is not None:
            return raw.view(dtype).reshape(info.shape)
        from blockquant._tensor import QuantizedTensor

        shape = info.shape or (1,)
        row_bytes = shape[-1] // layout.block_size * layout.type_size
        return QuantizedTensor(raw.reshape(*shape[:-1], row_bytes), info.format)


def _plain(value: TypedValue) -> Any:
    """The value without its types."""
    if value.element_type is ValueType.ARRAY:
        return [_plain(item) for item in value.value]
    return value.value


class GGUFFile:
    """An open GGUF file: `blockquant.gguf.open` makes it.

    Attributes:
        metadata: Mapping of key to int, float, bool, str, numpy array (read-only, the file's dtype), list of str, or
            list of those for nested arrays. Decoded on first use. Strings that are not UTF-8 hold lone surrogates
            ("surrogateescape"), which `create` turns back into the same bytes.
        tensors: Mapping of name to tensor in file order. F32, F16, F64 and integer tensors are numpy arrays, BF16 and
            the block formats QuantizedTensors; both are read-only views of the mapping, shapes in numpy order. In a
            big-endian file on a little-endian machine (or the reverse) they are converted copies.
        tensor_infos: Mapping of name to TensorInfo; touches no data.
        version, endianness ("little" or "big"), alignment, data_offset: of the first file.
        file_size: bytes, of all shards together.
        paths: the files, one or all shards.

    Closing drops this object's references to the mapping and makes its mappings unusable; arrays taken from it stay
    valid, and the mapping lives as long as the last of them. The file must not be truncated meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, shards: bool = True) -> None:
        first = _Shard(Path(path))
        self._shards = _open_set(first) if shards else [first]
        head = self._shards[0]
        self.version = head.version
        self.endianness: Literal["little", "big"] = "big" if head.big_endian else "little"
        self.alignment = head.alignment
        self.data_offset = head.data_offset
        self.file_size = sum(shard.size for shard in self._shards)
        self.paths = tuple(shard.path for shard in self._shards)

        # As one file the set is not split any more.
        merged = len(self._shards) > 1
        self._locations = {k: v for k, v in head.metadata.items() if not (merged and k.startswith("split."))}
        self._values: dict[str, Any] = {}
        self.metadata: Mapping[str, Any] = _LazyMapping("metadata values", self._locations, self._load_value)

        infos: dict[str, TensorInfo] = {}
        for index, shard in enumerate(self._shards):
            for name, shape, format_, nbytes, offset in shard.tensors:
                if name in infos:
                    raise GGUFError(f"{shard.path}: tensor {name!r} is also in {self.paths[infos[name].shard]}")
                infos[name] = TensorInfo(name, shape, _format(format_), nbytes, offset, index)
        self.tensor_infos: Mapping[str, TensorInfo] = MappingProxyType(infos)
        self.tensors: Mapping[str, np.ndarray[Any, Any] | QuantizedTensor] = _LazyMapping(
            "tensors", infos, self._load_tensor
        )

    @property
    def path(self) -> Path:
        """The file, or the first shard."""
        return self.paths[0]

    @property
    def architecture(self) -> str:
        """`general.architecture`, such as "qwen3"; "" when the file does not say."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    def tensor_info(self, name: str) -> TensorInfo:
        """Shape, format and place of a tensor; KeyError when there is none of that name."""
        return self.tensor_infos[name]

    def typed_metadata(self) -> dict[str, TypedValue]:
        """All metadata with their exact types, as `create` takes them. Of a set of shards, without the split.* keys."""
        return {key: self._shards[0].value(location) for key, location in self._locations.items()}

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Let go of the memory that a tensor's pages take; views stay valid, and read the file again when used.

        For work that goes through a file once, so that it does not fill memory with what it has seen. `start` and
        `stop` are bytes of the tensor, all of it by default.
        """
        self._advise("MADV_DONTNEED", name, start, stop, inward=True)

    def prefetch(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Ask the system to begin reading a tensor, or these bytes of it; returns before they are there."""
        self._advise("MADV_WILLNEED", name, start, stop, inward=False)

    def _advise(self, advice: str, name: str, start: int, stop: int | None, inward: bool) -> None:
        """Advise on the pages that are wholly in these bytes (`inward`), or on all that they touch."""
        info = self.tensor_infos[name]
        mapping = self._shards[info.shard].buffer
        if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, advice):
            return
        first = info.offset + start
        last = info.offset + (info.nbytes if stop is None else stop)
        if inward:
            first += mmap.PAGESIZE - 1
        else:
            last = min(last + mmap.PAGESIZE - 1, len(mapping))
        first = first // mmap.PAGESIZE * mmap.PAGESIZE
        if inward or last < len(mapping):
            last = last // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            mapping.madvise(getattr(mmap, advice), first, last - first)

    def close(self) -> None:
        """Drop the mapping; arrays taken from it stay valid."""
        for shard in self._shards:
            shard.buffer = None
        self._values.clear()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = self.architecture if self._shards[0].buffer is not None else "closed"
        return f"<GGUFFile {str(self.path)!r} {what} {len(self.tensor_infos)} tensors {self.file_size} bytes>"

    def _load_value(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = _plain(self._shards[0].value(self._locations[key]))
        return self._values[key]

    def _load_tensor(self, name: str) -> np.ndarray[Any, Any] | QuantizedTensor:
        info = self.tensor_infos[name]
        return self._shards[info.shard].tensor(info)


def _format(name: str) -> str:
    """The registry's Format, or the plain name of a type that only files have."""
    from blockquant._formats import formats

    return formats.get(name, name)


def _split_value(shard: _Shard, key: str) -> int:
    if key not in shard.metadata:
        return 0
    value = shard.value(shard.metadata[key]).value
    if not isinstance(value, int):
        raise GGUFError(f"{shard.path}: {key} must be an integer")
    return value


def _open_set(given: _Shard) -> list[_Shard]:
    """All shards of the set that a file says it belongs to, whichever of them was named."""
    count = _split_value(given, "split.count")
    if count <= 1:
        return [given]
    match = SHARD_NAME.match(given.path.name)
    if match is None or int(match["count"]) != count:
        raise GGUFError(
            f"{given.path} is one of {count} shards: its name must end in -00001-of-{count:05}.gguf, "
            "beside the other shards"
        )
    shards = []
    for number in range(1, count + 1):
        path = shard_path(given.path.with_name(match["prefix"]), number - 1, count)
        if number == int(match["number"]):
            shard = given
        elif path.exists():
            shard = _Shard(path)
        else:
            raise GGUFError(f"{given.path} is one of {count} shards, and {path} is missing")
        if _split_value(shard, "split.no") != number - 1 or _split_value(shard, "split.count") != count:
            raise GGUFError(f"{path}: split.no and split.count do not agree with its name")
        shards.append(shard)
    expected = _split_value(shards[0], "split.tensors.count")
    found = sum(len(shard.tensors) for shard in shards)
    if "split.tensors.count" in shards[0].metadata and expected != found:
        raise GGUFError(f"{shards[0].path}: the set should hold {expected} tensors and holds {found}")
    return shards


def open(path: str | os.PathLike[str], *, shards: bool = True) -> GGUFFile:
    """Map a GGUF file (version 2 or 3, either byte order) for reading.

    A file of a set (`name-00001-of-00003.gguf`) opens the whole set as one; `shards=False` opens that file alone.
    Takes milliseconds whatever the file's size: nothing but the header is read.

    Raises GGUFError for a malformed file or a missing shard, OSError when the file cannot be read.
    """
    return GGUFFile(path, shards=shards)
