"""One file to a set of shards and back; tensors are copied, not decoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockquant.gguf._header import ALIGNMENT_KEY
from blockquant.gguf._hidden import create_like, hidden_once
from blockquant.gguf._journal import put, sync_directory
from blockquant.gguf._mapped import MappedFile
from blockquant.gguf._reader import GGUFFile, open, split_value
from blockquant.gguf._shards import (
    SPLIT_KEYS,
    check_count,
    group_by_number,
    group_by_size,
    parse_size,
    shard_metadata,
    shard_path,
    shard_prefix,
)
from blockquant.gguf._types import GGUFError
from blockquant.gguf._writer import check_target, create

Progress = Callable[[str, int, int], None]

DEFAULT_MAX_TENSORS = 128  # gguf-split's


@dataclass(frozen=True)
class Shard:
    """A file of a set: its path, the names of its tensors in order, and their bytes."""

    path: Path
    tensors: tuple[str, ...]
    nbytes: int


def split(
    path: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_shard_size: int | str | None = None,
    max_tensors: int | None = None,
    metadata_only_first: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Shard]:
    """Split a GGUF file (or a set, again) into shards `<prefix>-00001-of-0000N.gguf`, as llama-gguf-split does.

    Args:
        path: the file, or any shard of a set.
        prefix: what the names of the shards begin with; a trailing .gguf is dropped.
        max_shard_size: bytes of tensors in a shard, a number or such as "5G" (thousands) or "4GiB"; a tensor that is
            larger has a shard to itself.
        max_tensors: tensors in a shard; 128 when neither limit is given.
        metadata_only_first: leave the first shard without tensors.
        dry_run: write nothing.
        progress: called as progress(tensor, bytes done, bytes in all).

    All metadata are in the first shard; tensors keep their order and bytes, and `merge` gives the file back.

    Returns the shards. Raises GGUFError for a malformed file, both limits at once, a limit that is not positive, more
    than 65535 shards, or shards that would replace the input; OSError when the disk is full. Then nothing is left of
    the shards that this call has written, and shards that were there are as they were. They are replaced when all new
    ones are whole; when that fails half-way, the set is left without its first shard, which no reader takes. Until then
    the new ones are hidden files beside them (`.<name>.<process id>-<random>.partial`), which a killed process leaves.
    """
    if max_shard_size is not None and max_tensors is not None:
        raise GGUFError("a set is split by size or by number of tensors, not both: give one limit")
    with open(path) as source:
        sizes = {name: info.nbytes for name, info in source.tensor_infos.items()}
        if max_shard_size is not None:
            groups = group_by_size(sizes, parse_size(max_shard_size), source.alignment)
        else:
            groups = group_by_number(sizes, DEFAULT_MAX_TENSORS if max_tensors is None else max_tensors)
        if metadata_only_first:
            groups = check_count([[], *groups])
        base = shard_prefix(Path(prefix))
        shards = [
            Shard(shard_path(base, i, len(groups)), tuple(names), sum(sizes[name] for name in names))
            for i, names in enumerate(groups)
        ]
        targets = [check_target(shard.path) for shard in shards]
        refuse_inputs(source, targets)
        if not dry_run:
            _write_set(source, shards, targets, progress)
    return shards


def merge(path: str | os.PathLike[str], output: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Join a set of shards into one GGUF file.

    Args:
        path: any shard of the set; the others are beside it.
        output: the file to write, replaced when it exists.
        progress: called as progress(tensor, bytes done, bytes in all).

    Metadata are those of the first shard without the `split.*` keys; tensors keep their order and bytes.

    Returns the path of the file. Raises GGUFError for a file that is no shard, a malformed or missing shard, or an
    output that is one of the shards; OSError when the disk is full, which leaves nothing behind.
    """
    with open(path) as source:
        if not split_value(source.shards[0], "split.count"):
            raise GGUFError(f"{source.path} is not a shard of a set: it has no split.count")
        target = Path(output)
        refuse_inputs(source, [target])
        metadata = {key: value for key, value in raw_metadata(source.shards[0]).items() if key not in SPLIT_KEYS}
        copy_set(source, target, metadata, progress)
    return target


def copy_set(source: GGUFFile, target: Path, metadata: Mapping[str, Any], progress: Progress | None) -> None:
    """All tensors of an open file or set in one file, with these metadata."""
    total = sum(info.nbytes for info in source.tensor_infos.values())
    _write_file(source, target, metadata, tuple(source.tensor_infos), _Counter(progress, total))


def raw_metadata(shard: MappedFile) -> dict[str, Any]:
    """All metadata of one file as its bytes, `split.*` included; the alignment as its value, which the writer needs."""
    raw: dict[str, Any] = {key: shard.raw_value(key) for key in shard.metadata}
    if ALIGNMENT_KEY in raw:
        raw[ALIGNMENT_KEY] = shard.value(shard.metadata[ALIGNMENT_KEY])
    return raw


class _Counter:
    """Turns bytes done of each tensor into bytes done of all."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._before = progress, total, 0

    def advance(self, name: str, done: int) -> None:
        if self._progress is not None:
            self._progress(name, self._before + done, self._total)

    def finish(self, name: str, nbytes: int) -> None:
        self.advance(name, nbytes)
        self._before += nbytes


def _write_set(source: GGUFFile, shards: Sequence[Shard], targets: Sequence[Path], progress: Progress | None) -> None:
    metadata = raw_metadata(source.shards[0])
    counter = _Counter(progress, sum(shard.nbytes for shard in shards))
    partials = [hidden_once(target, "partial") for target in targets]
    placed: list[Path] = []
    try:
        for i, (shard, partial, target) in enumerate(zip(shards, partials, targets, strict=True)):
            own = shard_metadata(metadata, i, len(shards), len(source.tensor_infos))
            own["split.count"] = own.pop("split.count")  # where llama-gguf-split has it: its shards have the same bytes
            create_like(partial, target).close()  # whose permissions are kept by what is written over it
            _write_file(source, partial, own, shard.tensors, counter)
        # The first shard goes before and comes after all others: shards of two sets never open as one.
        if len(targets) > 1:
            targets[0].unlink(missing_ok=True)
            sync_directory(targets[0].parent)
        for partial, target in reversed(list(zip(partials, targets, strict=True))):
            put(partial, target)
            placed.append(target)
    except BaseException:
        remove_all([*placed, *partials])
        raise


def remove_all(paths: Iterable[Path]) -> None:
    """Remove what is there of these files."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _write_file(
    source: GGUFFile, path: Path, metadata: Mapping[str, Any], names: Sequence[str], counter: _Counter
) -> None:
    with create(path, metadata, plan_of(source, names), endianness=source.endianness) as writer:
        for name in names:
            writer.copy_tensor(source, name, partial(counter.advance, name))
            counter.finish(name, source.tensor_info(name).nbytes)


def plan_of(source: GGUFFile, names: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and format of these tensors, as `create` takes them."""
    infos = map(source.tensor_info, names)
    return {info.name: (info.shape, str(info.format)) for info in infos}


def refuse_inputs(source: GGUFFile, targets: Sequence[Path]) -> None:
    """GGUFError when writing a target would replace a file that is being read."""
    for target in targets:
        for given in source.paths:
            with contextlib.suppress(OSError):
                if os.path.samefile(given, target):
                    raise GGUFError(f"{target} is the input itself: choose another name for the output")
