"""Importance matrices: for each tensor the mean of the squares of what it is multiplied with.

They come from `llama-imatrix` and friends in two file formats, which `load` tells apart: GGUF (sums of squares and
token counts for each tensor, NAME.in_sum2 and NAME.counts) and the older .dat.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blockquant._arrays import to_float32
from blockquant._formats import formats
from blockquant.errors import BlockquantError
from blockquant.recipes.tensors import TOKEN_EMBEDDINGS, why_kept

if TYPE_CHECKING:
    from blockquant.recipes import Choice
    from blockquant.transformer.collect import collect as collect

Float32 = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

# Tokens of a chunk where a file does not say: what llama-imatrix uses unless told otherwise.
DEFAULT_CHUNK_SIZE = 512
_MAX_UINT32, _MAX_INT32 = 2**32 - 1, 2**31 - 1
_MAX_COUNT = 2**53  # tokens that a float64 tells apart
_TEXT_BYTES = 127  # llama.cpp keeps no more of the file's and the dataset's name
_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


def __getattr__(name: str) -> Any:
    if name == "collect":  # on first use, because it brings the transformer loop
        from blockquant.transformer.collect import collect

        return collect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, eq=False)
class Entry:
    """What was collected for one tensor.

    `sums` float32 [K], or [E, K] with a count for each expert; `counts` int64 [1] or [E]. The mean is sums / counts.
    """

    sums: Float32
    counts: Counts

    def __post_init__(self) -> None:
        # What is checked must be what is used and saved: a float64 can be beyond float32.
        with np.errstate(over="ignore"):
            object.__setattr__(self, "sums", np.asarray(self.sums, np.float32))
        object.__setattr__(self, "counts", np.asarray(self.counts, np.int64))

    def scaled(self, factor: int) -> Entry:
        """The same means with a count of tokens for each chunk; sums without a count are the means of one."""
        with np.errstate(over="ignore"):
            return Entry(self.sums * np.float32(factor), np.maximum(self.counts, 1) * factor)


class Imatrix(Mapping[str, Float32]):
    """Mapping of tensor name to mean squares, float32 [K], or [E, K] for a tensor with a count for each expert.

    An expert that saw no data has ones. The arrays are read-only. A file of the old format does not say how many
    experts a tensor has: its arrays are flat [E * K], and `weights_for` shapes them.

    Attributes:
        entries: the sums and counts that the means are made of.
        datasets: names of the texts.
        chunk_count: how many chunks of text were used; 0 when unknown.
        chunk_size: tokens of a chunk; 0 in data of the old format, which counts chunks instead of tokens.
        path: the file it comes from, or None.

    Raises ValueError for sums that are not finite and >= 0 in float32, counts that do not fit them, and numbers of
    chunks beyond 32 bits.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        datasets: Sequence[str] = (),
        chunk_count: int = 0,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        path: Path | None = None,
    ) -> None:
        self.entries: dict[str, Entry] = dict(entries)
        self.datasets = list(datasets)
        self.chunk_count = chunk_count
        self.chunk_size = chunk_size
        self.path = path
        for what, count in (("chunk_count", chunk_count), ("chunk_size", chunk_size)):
            if not 0 <= count <= _MAX_UINT32:
                raise BlockquantError(f"{what} is {count}, expected 0 to {_MAX_UINT32}")
        strange = next((text for text in self.datasets if not isinstance(text, str)), None)
        if strange is not None:
            raise BlockquantError(f"datasets must be names of texts, one of them is {strange!r:.60}")
        for name, entry in self.entries.items():
            _check_entry(name, entry)

    def __getitem__(self, name: str) -> Float32:
        entry = self.entries[name]
        shape = (entry.counts.size, -1)
        counts = entry.counts.astype(np.float32)[:, None]
        sums = entry.sums.reshape(shape)
        empty = sums if self.chunk_size == 0 else np.float32(1)
        mean: Float32 = np.where(counts > 0, sums / np.maximum(counts, 1), empty).reshape(entry.sums.shape)
        mean.flags.writeable = False
        return mean

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        source = f" from {str(self.path)!r}" if self.path else ""
        return f"<Imatrix of {len(self)} tensors, {self.chunk_count} chunks of {self.datasets}{source}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: GGUF for a name that ends in .gguf, llama.cpp's old format for .dat.

        ValueError for another name, for a matrix of no tensors, and for counts that the old format cannot hold.
        """
        target = Path(path)
        if not self.entries:
            raise BlockquantError("the importance matrix is empty: there is nothing to save")
        if target.suffix == ".gguf":
            _save_gguf(self if self.chunk_size else _in_tokens(self, DEFAULT_CHUNK_SIZE), target)
        elif target.suffix == ".dat":
            _save_legacy(self, target)
        else:
            raise BlockquantError(f"cannot tell the format of {target}: name it .gguf or .dat")


def weights_for(matrix: Mapping[str, Any], name: str, shape: Sequence[int]) -> Float32 | None:
    """The weights of a tensor of this shape, [K] or [E, K]; None where the matrix has none.

    ValueError when it has weights of another size.
    """
    values = matrix.get(name)
    if values is None:
        return None
    weights = np.asarray(values, np.float32)
    k = int(shape[-1])
    experts = int(shape[-3]) if len(shape) > 2 else 1
    if weights.size != k * experts:
        expected = f"{experts} x {k}" if experts > 1 else str(k)
        raise BlockquantError(
            f"the importance matrix has {weights.size} weights for {name!r}, which needs {expected}: "
            "was it made from another model?"
        )
    return weights.reshape((experts, k) if len(shape) > 2 else (k,))


def take(given: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A file's matrix, an `Imatrix` itself, or a mapping's weights as float32; None for nothing.

    ValueError for weights that are not weights, TypeError for what is neither a path nor a mapping.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return load(given)
    if not isinstance(given, Mapping):
        raise TypeError(
            f"imatrix must be a path, an Imatrix or a mapping of tensor names to weights, got {type(given).__name__}"
        )
    if isinstance(given, Imatrix):
        for name, values in given.items():
            _take_weights(name, values)
        return given or None
    return {name: _take_weights(name, values) for name, values in given.items()} or None


def _take_weights(name: str, values: Any) -> Float32:
    try:
        with np.errstate(over="ignore"):
            weights = to_float32(values, "weights")
    except TypeError:
        weights = np.full(1, np.nan, np.float32)
    # As float32: what is finite as float64 may be infinite there.
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise BlockquantError(f"imatrix: the weights of {name!r} must be floats, finite and not negative in float32")
    return weights


@dataclass(frozen=True)
class Matched:
    """What a matrix, or none, has for the tensors that are to be encoded."""

    weights: Mapping[str, Float32]
    lacking: tuple[Choice, ...]
    """Those without weights, in formats that are useless without."""
    unweighted: tuple[str, ...]
    """The others without weights, although there is a matrix."""


def weights_of(
    matrix: Mapping[str, Any] | None, choices: Iterable[Choice], recipe: str
) -> tuple[dict[str, Float32], tuple[str, ...]]:
    """The weights of the tensors that are to be encoded, and the names of those that the matrix has nothing for.

    ValueError for weights of another size, and where a format is useless without any.
    """
    found = match_weights(matrix, choices, recipe)
    return dict(found.weights), found.unweighted


def match_weights(matrix: Mapping[str, Any] | None, choices: Iterable[Choice], recipe: str | None = None) -> Matched:
    """What a matrix has for the tensors that are to be encoded. ValueError for weights of another size.

    With the name of a recipe also for the first tensor that is `lacking`.
    """
    weights: dict[str, Float32] = {}
    lacking, unweighted = [], []
    for choice in choices:
        if not choice.quantized or formats[choice.format].is_float:
            continue
        found = None
        if matrix is not None:
            try:
                found = weights_for(matrix, choice.name, choice.shape)
            except ValueError:
                # The embedding is looked up, not multiplied: what a matrix has for it is the output's.
                if choice.name not in TOKEN_EMBEDDINGS:
                    raise
        if found is not None:
            weights[choice.name] = found
        elif choice.needs_imatrix or formats[choice.format].needs_imatrix:
            if recipe is not None:
                raise BlockquantError(
                    f"{recipe or 'the recipe'} makes {choice.name!r} {choice.format}, which is useless without an "
                    "importance matrix: "
                    + (
                        "the one given has nothing for this tensor"
                        if matrix
                        else "pass imatrix=, a file that llama-imatrix made of this model"
                    )
                )
            lacking.append(choice)
        elif matrix:
            unweighted.append(choice.name)
    return Matched(weights, tuple(lacking), tuple(unweighted))


def quantization_metadata(matrix: Mapping[str, Any] | None) -> dict[str, Any]:
    """What llama-quantize writes about the importance matrix, in its order."""
    from blockquant import gguf

    if not matrix:
        return {}
    added: dict[str, Any] = {}
    if isinstance(matrix, Imatrix):
        if matrix.path is not None:
            added["quantize.imatrix.file"] = gguf.TypedValue(_shorten(str(matrix.path)), gguf.ValueType.STRING)
        if matrix.datasets:
            added["quantize.imatrix.dataset"] = gguf.TypedValue(_shorten(matrix.datasets[0]), gguf.ValueType.STRING)
    added["quantize.imatrix.entries_count"] = np.uint32(len(matrix))
    if isinstance(matrix, Imatrix) and matrix.chunk_count > 0:
        added["quantize.imatrix.chunks_count"] = np.uint32(matrix.chunk_count)
    return added


def _shorten(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_TEXT_BYTES].decode("utf-8", "ignore")


@dataclass(frozen=True)
class Coverage:
    """How an importance matrix and the tensors of a model fit together."""

    missing: tuple[str, ...]
    """Tensors that recipes quantize, and that the matrix has nothing for. The token embedding never has any."""
    partial: Mapping[str, tuple[int, int]]
    """Tensors of experts of which some saw no data: (experts with data, experts). The others get equal weights."""
    mismatched: Mapping[str, tuple[int, int]]
    """Tensors with weights of another size: (weights that the matrix has, weights that the tensor needs)."""
    unused: tuple[str, ...]
    """Entries that no tensor of the model has the name of."""

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.partial or self.mismatched)


def coverage(matrix: Mapping[str, Any], tensors: Mapping[str, Any], architecture: str = "") -> Coverage:
    """Compare a matrix with a model.

    tensors: {name: shape}, shapes in numpy order; anything with `.shape` also serves (`GGUFFile.tensor_infos`).
    architecture: `general.architecture`; it decides about few tensors whether recipes leave them alone.
    """
    missing, mismatched = [], {}
    partial: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        shape = tuple(int(n) for n in getattr(tensor, "shape", tensor))
        if name not in matrix:
            if name not in TOKEN_EMBEDDINGS and not why_kept(name, shape, architecture):
                missing.append(name)
            continue
        wanted = shape[-1] * (shape[-3] if len(shape) > 2 else 1)
        size = int(np.size(matrix[name]))
        if size != wanted and name not in TOKEN_EMBEDDINGS:
            mismatched[name] = (size, wanted)
        entry = matrix.entries[name] if isinstance(matrix, Imatrix) else None
        if entry is not None and not entry.counts.all():
            partial[name] = (int(np.count_nonzero(entry.counts)), entry.counts.size)
    return Coverage(tuple(missing), partial, mismatched, tuple(name for name in matrix if name not in tensors))


def load(path: str | os.PathLike[str]) -> Imatrix:
    """Read an importance matrix, in llama.cpp's GGUF format or the older .dat.

    Raises ValueError with one line for a malformed file, OSError when it cannot be read.
    """
    source = Path(path)
    with open(source, "rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    try:
        return _load_gguf(source) if is_gguf else _load_legacy(source)
    except _MalformedError as error:
        raise BlockquantError(f"{source} is not an importance matrix that can be read: {error}") from None


def merge(matrices: Iterable[Imatrix]) -> Imatrix:
    """Add importance matrices of one model, collected on different texts.

    Counts of chunks (the old format) become counts of tokens when the others count tokens. A tensor need not be in all
    of them. ValueError when there is none, or when a tensor has different sizes.
    """
    given = list(matrices)
    if not given:
        raise BlockquantError("merge needs at least one importance matrix")
    chunk_size = next((m.chunk_size for m in given if m.chunk_size), 0)
    entries: dict[str, Entry] = {}
    for matrix in given:
        # Old data alone keeps counting chunks: one for sums that came without a count.
        for name, entry in _in_tokens(matrix, chunk_size or 1).entries.items():
            entries[name] = _add(name, entries[name], entry) if name in entries else entry
    # As llama-imatrix counts them: by the tensor that saw most.
    chunks = max((int(e.counts.max()) for e in entries.values()), default=0) // (chunk_size or 1)
    return Imatrix(entries, [d for m in given for d in m.datasets], chunks, chunk_size)


def _add(name: str, a: Entry, b: Entry) -> Entry:
    experts = max(a.counts.size, b.counts.size)
    if a.sums.size != b.sums.size or any(e.counts.size not in (1, experts) for e in (a, b)):
        raise BlockquantError(
            f"cannot merge importance matrices of different models: {name!r} has {a.sums.size} weights with "
            f"{a.counts.size} counts in one and {b.sums.size} with {b.counts.size} in another"
        )
    # One count for all experts is a count for each of them.
    counts = np.broadcast_to(a.counts, experts) + np.broadcast_to(b.counts, experts)
    shape = a.sums.shape if a.counts.size == experts else b.sums.shape
    with np.errstate(over="ignore"):
        return Entry(a.sums.reshape(shape) + b.sums.reshape(shape), counts)


def _in_tokens(matrix: Imatrix, chunk_size: int) -> Imatrix:
    """The same means with counts of tokens instead of chunks."""
    if matrix.chunk_size:
        return matrix
    entries = {name: entry.scaled(chunk_size) for name, entry in matrix.entries.items()}
    return Imatrix(entries, matrix.datasets, matrix.chunk_count, chunk_size, matrix.path)


class _MalformedError(Exception):
    """What is wrong with a file, without its name."""


def _check_entry(name: str, entry: Entry) -> None:
    if not name or entry.sums.size == 0 or entry.counts.size == 0 or entry.sums.size % entry.counts.size:
        raise BlockquantError(f"importance of {name!r}: {entry.counts.size} counts for {entry.sums.size} sums")
    if (entry.counts < 0).any():
        raise BlockquantError(f"importance of {name!r}: a count is negative")
    if (entry.counts > _MAX_COUNT).any():
        raise BlockquantError(f"importance of {name!r}: a count is {entry.counts.max()}, expected at most {_MAX_COUNT}")
    bad = ~(np.isfinite(entry.sums) & (entry.sums >= 0))
    if bad.any():
        where = int(np.argmax(bad))
        value = entry.sums.reshape(-1)[where]
        raise BlockquantError(f"importance of {name!r}: sum {where} is {value}, expected a finite number >= 0")


def _matrix(path: Path, entries: dict[str, Entry], datasets: list[str], chunks: int, chunk_size: int) -> Imatrix:
    try:
        return Imatrix(entries, datasets, chunks, chunk_size, path)
    except BlockquantError as error:
        raise _MalformedError(str(error)) from None


# --- GGUF ---


def _load_gguf(path: Path) -> Imatrix:
    from blockquant import gguf

    with gguf.open(path) as file:
        missing = [key for key in _KEYS if key not in file.metadata]
        if missing:
            raise _MalformedError(f"the metadata has no {missing[0]!r}")
        datasets, chunk_count, chunk_size = (file.metadata[key] for key in _KEYS)
        if not isinstance(datasets, list):
            datasets = []  # an empty array may have any element type
        if not isinstance(chunk_count, int) or not isinstance(chunk_size, int) or chunk_size < 0 or chunk_count < 0:
            raise _MalformedError(f"{chunk_count!r} chunks of {chunk_size!r} tokens")
        parts: dict[str, dict[str, Float32]] = {}
        for full_name, info in file.tensor_infos.items():
            for suffix in (_SUMS, _COUNTS):
                if full_name.endswith(suffix):
                    if info.format != "F32":
                        raise _MalformedError(f"tensor {full_name!r} is {info.format}, expected F32")
                    values = np.array(file.tensors[full_name], np.float32)
                    parts.setdefault(full_name.removesuffix(suffix), {})[suffix] = values
    if not parts:
        raise _MalformedError(f"no tensor is named NAME{_SUMS}")
    entries = {}
    for name in sorted(parts):
        if len(parts[name]) != 2:
            raise _MalformedError(f"{name!r} must have both sums ({_SUMS}) and counts ({_COUNTS})")
        sums, counts = parts[name][_SUMS].reshape(-1), parts[name][_COUNTS].reshape(-1)
        if not np.isfinite(counts).all() or (np.abs(counts) > _MAX_COUNT).any():
            raise _MalformedError(f"counts of {name!r} are not numbers of tokens")
        if counts.size == 0 or sums.size % counts.size:
            raise _MalformedError(f"{name!r} has {counts.size} counts for {sums.size} sums")
        whole: Counts = np.rint(counts).astype(np.int64)
        entries[name] = Entry(sums.reshape(counts.size, -1) if counts.size > 1 else sums, whole)
    # A file that does not know its chunk size still counts tokens.
    return _matrix(path, entries, datasets, chunk_count, chunk_size or DEFAULT_CHUNK_SIZE)


def _save_gguf(matrix: Imatrix, path: Path) -> None:
    from blockquant import gguf

    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": gguf.TypedValue(matrix.datasets, gguf.ValueType.ARRAY, gguf.ValueType.STRING),
        "imatrix.chunk_count": np.uint32(matrix.chunk_count),
        "imatrix.chunk_size": np.uint32(matrix.chunk_size),
    }
    with gguf.create(path, metadata) as file:
        for name in sorted(matrix.entries):
            entry = matrix.entries[name]
            experts = entry.counts.size
            counts = entry.counts.astype(np.float32)
            file.add_tensor(name + _SUMS, entry.sums.reshape(experts, -1) if experts > 1 else entry.sums.reshape(-1))
            file.add_tensor(name + _COUNTS, counts.reshape(experts, 1) if experts > 1 else counts)


# --- the old format: int32 count of entries, then each: name, calls, values; last chunk and dataset at the end ---


class _Bytes:
    """A reader that checks every length before it is used."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> bytes:
        if count < 0 or count > self.left:
            raise _MalformedError(f"{what} at byte {self.at} needs {count} bytes, {self.left} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def int32(self, what: str) -> int:
        return int(struct.unpack("<i", self.take(4, what))[0])


def _load_legacy(path: Path) -> Imatrix:
    data = _Bytes(path.read_bytes())
    count = data.int32("the number of entries")
    if not 1 <= count <= data.left // 12:
        raise _MalformedError(f"it starts with neither 'GGUF' nor a number of entries ({count})")
    entries: dict[str, Entry] = {}
    for index in range(count):
        what = f"entry {index + 1} of {count}"
        try:
            name = data.take(data.int32(what), f"the name of {what}").decode("utf-8")
        except UnicodeDecodeError:
            raise _MalformedError(f"the name of {what} is not UTF-8") from None
        if name in entries:
            raise _MalformedError(f"{name!r} is there twice")
        calls = data.int32(what)
        values = data.int32(what)
        if values < 1:
            raise _MalformedError(f"{name!r} has {values} values")
        sums = np.frombuffer(data.take(4 * values, f"the values of {name!r}"), "<f4").astype(np.float32)
        entries[name] = Entry(sums, np.array([max(calls, 0)], np.int64))
    # Older files end here, or after the number of chunks.
    chunks = max(data.int32("the number of chunks"), 0) if data.left else 0
    datasets = []
    if data.left:
        text = data.take(data.int32("the length of the dataset's name"), "the dataset's name")
        datasets = [text.decode("utf-8", "replace")] if text else []
    return _matrix(path, entries, datasets, chunks, 0)


def _save_legacy(matrix: Imatrix, path: Path) -> None:
    body = []
    count = 0
    for name in sorted(matrix.entries):
        entry = matrix.entries[name]
        if matrix.chunk_size == 0:
            calls, values = int(entry.counts.max()), entry.sums
        else:
            if not entry.counts.any():
                continue  # nothing was collected, and this format cannot say so
            calls = -(-int(entry.counts.max()) // matrix.chunk_size)
            with np.errstate(over="ignore"):
                values = matrix[name] * np.float32(calls)
            _check_entry(name, Entry(values, np.array([calls])))
        if max(calls, matrix.chunk_count) > _MAX_INT32:
            raise BlockquantError(
                f"{path}: this format counts up to {_MAX_INT32} chunks, {name!r} has {max(calls, matrix.chunk_count)}; "
                "save a .gguf file"
            )
        encoded = name.encode("utf-8", "surrogateescape")
        body.append(struct.pack(f"<i{len(encoded)}sii", len(encoded), encoded, calls, values.size))
        body.append(values.astype("<f4").tobytes())
        count += 1
    if not count:
        raise BlockquantError("the importance matrix is empty: there is nothing to save")
    dataset = (matrix.datasets[-1] if matrix.datasets else "").encode("utf-8", "surrogateescape")
    tail = struct.pack(f"<ii{len(dataset)}s", matrix.chunk_count, len(dataset), dataset)
    _write_whole(path, [struct.pack("<i", count), *body, tail])


def _write_whole(path: Path, parts: list[bytes]) -> None:
    """The file appears under its name complete or not at all."""
    from blockquant.gguf._hidden import create_like, hidden_once

    partial = hidden_once(path, "partial")
    try:
        with io.BufferedWriter(create_like(partial, path)) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
