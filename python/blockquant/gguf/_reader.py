"""Reading: a mapped file (or a set of shards), of which only what is asked for is decoded."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from blockquant.gguf._mapped import MappedFile
from blockquant.gguf._shards import SHARD_NAME, SPLIT_KEYS, shard_path
from blockquant.gguf._types import GGUFError, TensorInfo, TypedValue, ValueInfo, ValueType

if TYPE_CHECKING:
    from blockquant._tensor import QuantizedTensor

T = TypeVar("T")


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
    valid, and the mapping lives as long as the last of them. The file must not be truncated meanwhile, nor written to:
    after an `edit` in place, values that were not decoded before are wrong until the file is opened again.
    """

    def __init__(self, path: str | os.PathLike[str], *, shards: bool = True) -> None:
        first = MappedFile(Path(path))
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
        self._locations = {k: v for k, v in head.metadata.items() if not (merged and k in SPLIT_KEYS)}
        self._values: dict[str, Any] = {}
        self.metadata: Mapping[str, Any] = _LazyMapping("metadata values", self._locations, self._load_value)

        rows: dict[str, tuple[Any, ...]] = {}
        for index, shard in enumerate(self._shards):
            # TensorInfos are made when asked for: a file may have ten thousand.
            theirs = {row[0]: (*row, index) if merged else row for row in shard.tensors}
            if not rows.keys().isdisjoint(theirs):
                name = next(name for name in theirs if name in rows)
                raise GGUFError(f"{shard.path}: tensor {name!r} is also in {self.paths[rows[name][-1]]}")
            rows |= theirs
        self.tensor_infos: Mapping[str, TensorInfo] = _LazyMapping(
            "tensor infos", rows, lambda name: TensorInfo(*rows[name])
        )
        self.tensors: Mapping[str, np.ndarray[Any, Any] | QuantizedTensor] = _LazyMapping(
            "tensors", rows, self._load_tensor
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

    @property
    def shards(self) -> tuple[MappedFile, ...]:
        """The mapped files, for tools that copy their bytes."""
        return tuple(self._shards)

    def metadata_info(self, key: str) -> ValueInfo:
        """Type and length of a value without decoding it; KeyError when there is none."""
        if key not in self._locations:
            raise KeyError(key)
        return self._shards[0].value_info(key)

    def typed_value(self, key: str, limit: int | None = None) -> TypedValue:
        """A value with its exact type, of an array the first `limit` elements at most; KeyError when there is none."""
        return self._shards[0].value(self._locations[key], limit)

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


def split_value(shard: MappedFile, key: str) -> int:
    """A `split.*` number of one file, 0 when it has none."""
    if key not in shard.metadata:
        return 0
    value = shard.value(shard.metadata[key]).value
    if not isinstance(value, int):
        raise GGUFError(f"{shard.path}: {key} must be an integer")
    return value


def _open_set(given: MappedFile) -> list[MappedFile]:
    """All shards of the set that a file says it belongs to, whichever of them was named."""
    count = split_value(given, "split.count")
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
            shard = MappedFile(path)
        else:
            raise GGUFError(f"{given.path} is one of {count} shards, and {path} is missing")
        if split_value(shard, "split.no") != number - 1 or split_value(shard, "split.count") != count:
            raise GGUFError(f"{path}: split.no and split.count do not agree with its name")
        shards.append(shard)
    expected = split_value(shards[0], "split.tensors.count")
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
