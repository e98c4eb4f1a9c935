"""Reading safetensors checkpoints: one file or a sharded set, mapped, every number in the header checked before use."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockquant.errors import BlockquantError

# The format's own limit on the JSON header.
_MAX_HEADER_BYTES = 100_000_000

_INDEX = ".safetensors.index.json"

# Stored dtype -> numpy dtype of the elements; bfloat16 has none in numpy and is kept as its 16 bits.
_DTYPES: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "<u1",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: `data` is a read-only view of the mapped file (uint16 bits when `dtype` is BF16)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[Any]
    file: SafetensorsFile
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def release(self) -> None:
        """Give the mapped pages back, so that a long conversion does not keep the whole checkpoint resident."""
        self.file.release(self.offset, self.data.nbytes)


class SafetensorsFile:
    """One mapped .safetensors file. Raises ValueError, one line that names the file, for anything malformed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.path.open("rb") as f:
            file_size = os.fstat(f.fileno()).st_size
            head = f.read(8)
            if len(head) < 8:
                raise self._error(f"{file_size} bytes are too few for a safetensors header; download the file again")
            header_size = int.from_bytes(head, "little")
            if header_size > min(file_size - 8, _MAX_HEADER_BYTES):
                raise self._error(
                    f"the header claims {header_size} bytes and the file has {file_size}; "
                    "it is truncated or no safetensors"
                )
            header = self._parse_header(f.read(header_size))
            self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self._data_start = 8 + header_size
        self.tensors: dict[str, StoredTensor] = dict(self._read_entries(header, file_size - self._data_start))

    def release(self, offset: int, nbytes: int) -> None:
        """Drop the pages that lie wholly inside [offset, offset + nbytes) from memory; they are read again on use."""
        if hasattr(mmap, "MADV_DONTNEED"):
            page = mmap.PAGESIZE
            start, stop = -(-offset // page) * page, (offset + nbytes) // page * page
            if start < stop:
                self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def _error(self, what: str) -> BlockquantError:
        return BlockquantError(f"{self.path}: {what}")

    def _parse_header(self, text: bytes) -> dict[str, Any]:
        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                raise ValueError("a name appears twice")
            return found

        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise self._error(f"the safetensors header is not valid JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._error("the safetensors header is not a JSON object")
        header.pop("__metadata__", None)
        return header

    def _read_entries(self, header: Mapping[str, Any], data_size: int) -> Iterator[tuple[str, StoredTensor]]:
        spans: list[tuple[int, int, str]] = []
        for name in sorted(header):
            dtype, shape, (begin, end) = self._checked_entry(name, header[name])
            if not 0 <= begin <= end <= data_size:
                raise self._error(
                    f"tensor {name!r} lies at bytes {begin}..{end} and the file holds {data_size}; it is truncated"
                )
            item = np.dtype(_DTYPES[dtype])
            if end - begin != prod(shape) * item.itemsize:
                raise self._error(
                    f"tensor {name!r} of shape {list(shape)} {dtype} takes {prod(shape) * item.itemsize} bytes, "
                    f"its offsets give {end - begin}"
                )
            if prod(max(1, n) for n in shape) * item.itemsize >= 2**63:
                # Of an empty tensor: numpy counts what its other dimensions would hold.
                raise self._error(f"tensor {name!r} has the shape {list(shape)}, which is beyond 64 bits")
            spans.append((begin, end, name))
            start = self._data_start + begin
            flat = np.frombuffer(self._map, item, count=prod(shape), offset=start) if end > begin else np.empty(0, item)
            yield name, StoredTensor(name, dtype, shape, flat.reshape(shape), self, start)
        spans.sort()
        expected = 0
        for begin, end, name in spans:
            if begin != expected:
                what = "overlaps another tensor" if begin < expected else f"leaves a hole of {begin - expected} bytes"
                raise self._error(f"tensor {name!r} at byte {begin} {what}")
            expected = end
        if expected != data_size:
            raise self._error(f"the tensors take {expected} bytes and the file holds {data_size}")

    def _checked_entry(self, name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
        if not isinstance(entry, dict):
            raise self._error(f"the header entry of {name!r} is not an object")
        dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise self._error(
                f"tensor {name!r} has dtype {dtype!r}; convert an unquantized checkpoint, of {', '.join(_DTYPES)}"
            )
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise self._error(f"tensor {name!r} has no valid shape: {shape!r:.80}")
        if not isinstance(span, list) or len(span) != 2 or not all(type(n) is int for n in span):
            raise self._error(f"tensor {name!r} has no valid data_offsets: {span!r:.80}")
        return dtype, tuple(shape), (span[0], span[1])


def open_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a Hugging Face directory: shards in order of their names, tensors by name within a shard.

    Reads model.safetensors.index.json if there is one, else every model*.safetensors. Raises ValueError when there are
    no weights, a shard is missing, or the index and the shards disagree.
    """
    index_path = directory / "model.safetensors.index.json"
    if index_path.is_file():
        return _open_index(index_path)
    parts = sorted(p.name for p in directory.glob("model*.safetensors") if p.is_file())
    if not parts:
        others = [name for name in ("pytorch_model.bin", "consolidated.safetensors") if (directory / name).exists()]
        hint = f"; {others[0]} is not read, save the model with save_pretrained() first" if others else ""
        raise BlockquantError(f"{directory}: no model.safetensors or model.safetensors.index.json in it{hint}")
    return _open_parts(directory, parts)


def is_weights_file(path: Path) -> bool:
    """Whether `open_weights` takes this path for a file rather than a folder."""
    return path.name.endswith((".safetensors", _INDEX)) and not path.is_dir()


def open_weights(source: Path) -> dict[str, StoredTensor]:
    """All tensors of a .safetensors file, of an index, or of a folder with one index or files that belong together.

    Raises ValueError when there are none, or when a folder holds the same tensor twice, as in two precisions.
    """
    if is_weights_file(source):
        return _open_index(source) if source.name.endswith(_INDEX) else SafetensorsFile(source).tensors
    if not source.is_dir():
        raise BlockquantError(f"{source}: give a .safetensors file, its index or a folder with one of them")
    indexes = sorted(p for p in source.glob(f"*{_INDEX}") if p.is_file())
    if len(indexes) == 1:
        return _open_index(indexes[0])
    parts = sorted(p.name for p in source.glob("*.safetensors") if p.is_file())
    if not parts or indexes:
        found = f"{len(indexes)} indexes" if indexes else "no .safetensors file"
        raise BlockquantError(f"{source}: {found} in it; give one file, or one index")
    return _open_parts(source, parts)


def _open_index(path: Path) -> dict[str, StoredTensor]:
    weight_map = _read_index(path)
    parts = sorted(set(weight_map.values()))
    missing = [part for part in parts if not (path.parent / part).is_file()]
    if missing:
        raise BlockquantError(f"{path}: shard {missing[0]} is missing ({len(missing)} of {len(parts)} are)")
    tensors = _open_parts(path.parent, parts)
    for name, tensor in tensors.items():
        part = tensor.file.path.name
        if weight_map.get(name) != part:
            raise BlockquantError(f"{path}: tensor {name!r} is in {part}, the index says {weight_map.get(name)}")
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise BlockquantError(f"{path}: tensor {absent[0]!r} is in no shard ({len(absent)} are missing)")
    return tensors


def _open_parts(directory: Path, parts: list[str]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for part in parts:
        for name, tensor in SafetensorsFile(directory / part).tensors.items():
            if name in tensors:
                raise BlockquantError(f"{directory / part}: tensor {name!r} is in {tensors[name].file.path.name} too")
            tensors[name] = tensor
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BlockquantError(f"{path}: not valid JSON ({error})") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise BlockquantError(f"{path}: no weight_map in it")
    for name, part in weight_map.items():
        # A shard lies beside its index: a name with a path in it could point anywhere.
        if not isinstance(part, str) or part != os.path.basename(part) or "\\" in part or part in ("", ".", ".."):
            raise BlockquantError(f"{path}: tensor {name!r} is mapped to {part!r}, which is not a file name")
    return weight_map
