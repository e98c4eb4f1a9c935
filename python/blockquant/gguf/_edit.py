"""Changing metadata: in the header alone when it keeps its place, else in a new file beside the old one."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blockquant.gguf._header import ALIGNMENT_KEY, HeaderPlan, padded
from blockquant.gguf._hidden import create_like, hidden_once, write_all
from blockquant.gguf._journal import check_unchanged, differing, locked, put, recover, replace_header
from blockquant.gguf._mapped import MappedFile
from blockquant.gguf._reader import GGUFFile, open
from blockquant.gguf._sets import Progress, copy_set, plan_of, raw_metadata, refuse_inputs, remove_all
from blockquant.gguf._shards import SPLIT_KEYS
from blockquant.gguf._types import GGUFError, TypedValue, ValueInfo, ValueType
from blockquant.gguf._values import check_entries, encode_entry, encode_text, infer
from blockquant.gguf._writer import append_file, check_target

_ARCHITECTURE_KEY = "general.architecture"
_TOKENS_KEY = "tokenizer.ggml.tokens"
_PER_TOKEN_KEYS = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


@dataclass(frozen=True)
class Change:
    """One key: `before` is None for a new key, `after` for a deleted one; `renamed_from` is its old name."""

    key: str
    before: ValueInfo | None
    after: TypedValue | None
    renamed_from: str | None = None


@dataclass
class EditReport:
    """What `edit` did.

    Attributes:
        path: the file that has the new metadata (the first shard of a set).
        how: "in place" (only the header was written), "rewritten" (the tensors were copied), or "unchanged".
        changes: one for each key.
        nbytes: bytes written, or that would be.
        recovered: whether an interrupted edit was finished first.
    """

    path: Path
    how: Literal["in place", "rewritten", "unchanged"] = "unchanged"
    changes: list[Change] = field(default_factory=list)
    nbytes: int = 0
    recovered: bool = False


def edit(
    path: str | os.PathLike[str],
    *,
    set: Mapping[str, Any] | None = None,
    rename: Mapping[str, str] | None = None,
    delete: Iterable[str] = (),
    output: str | os.PathLike[str] | None = None,
    allow_rewrite: bool = True,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EditReport:
    """Set, rename and delete metadata of a GGUF file, or of the first file of a set of shards.

    Args:
        path: the file, or any shard of a set.
        set: key to value, as `create` takes them. Plain Python values take the type that the key has in the file, if
            it is there; a TypedValue or numpy value brings its own.
        rename: old key to new key; the value and its place in the file stay.
        delete: keys.
        output: write the result there instead, and leave the file alone (a single file only).
        allow_rewrite: copy the tensors to a new file when the new header does not fit the place of the old one;
            False raises GGUFError instead.
        force: allow what would leave the file inconsistent: a missing `general.architecture`, lists of the tokenizer
            of different lengths, ids of tokens that are not in the vocabulary.
        dry_run: write nothing.
        progress: called as progress("tensors", bytes done, bytes in all) when tensors are copied.

    A header that keeps its padded size is written over the old one, in a way that a crash cannot leave half-done:
    either the old header is there, or a journal beside the file, from which the next `edit` (without changes, too)
    finishes; `open` refuses the file meanwhile. Else the file is replaced as a whole by a new one. Setting
    `general.alignment` moves the tensors and therefore always copies them. The file is locked while it is edited.

    Raises GGUFError for a malformed file, keys that do not exist or exist already, values that GGUF cannot hold,
    inconsistent changes, a file that is being edited already or that another program changes meanwhile; TypeError for
    values of other types; OSError when the file cannot be written.
    """
    path, deleted = Path(path), list(delete)
    recovered = False if dry_run else recover(path)
    with open(path) as found:
        first = found.paths[0]
    # What is written to is locked before it is read, so that no edit undoes another.
    writes = output is None and not dry_run and bool(set or rename or deleted)
    with locked(first) if writes else FileIO(first, "r") as file, open(path) as source:
        report = EditReport(first, recovered=recovered)
        shard = source.shards[0]
        metadata, report.changes = _apply(shard, dict(set or {}), dict(rename or {}), deleted)
        if not force:
            _check_consistency(shard, metadata, report.changes)
        moved = any(ALIGNMENT_KEY in (change.key, change.renamed_from) for change in report.changes)
        if len(source.paths) > 1 and output is not None:
            raise GGUFError(f"{path} is a set of shards: edit it where it is, or merge it first")
        if len(source.paths) > 1 and moved:
            raise GGUFError(f"{path} is a set of shards: merge it before its alignment is changed")
        if output is not None:
            refuse_inputs(source, [Path(output)])
            report.path = Path(output)
        elif not report.changes:
            return report
        target = check_target(report.path)
        old = bytes(shard.mapped[: shard.data_offset])
        new, data_bytes = _moved_header(source, metadata) if moved else _header(shard, metadata)
        in_place = not moved and output is None and len(new) == len(old) and bool(shard.tensors)
        report.how = "in place" if in_place else "rewritten"
        report.nbytes = differing(old, new) if in_place else len(new) + data_bytes
        if not in_place and not allow_rewrite:
            raise GGUFError(
                f"{path}: the new header takes {len(new):,} bytes and the old one {len(old):,}, so that the tensors "
                "would have to be copied, and that was not allowed"
            )
        if dry_run:
            if output is None and not os.access(first, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(first))
            return report
        if in_place:
            replace_header(file, first, old, new, shard.size)
            return report
        spare = hidden_once(target, "partial")
        try:
            # Moved tensors are written over it, which keeps the permissions.
            with create_like(spare, target if target.exists() else first, target.exists()) as out:
                if not moved:
                    _copy(file, out, shard, new, progress)
            if moved:
                copy_set(source, spare, metadata, progress)
            with open(spare, shards=False):  # what cannot be read replaces nothing
                pass
            source.close()  # some systems refuse to replace a file that is mapped, or open
            check_unchanged(file, first, old, shard.size)
            if os.name == "nt":
                file.close()
            put(spare, target)
        except BaseException:
            remove_all([spare])
            raise
    return report


def _apply(
    shard: MappedFile, changed: dict[str, Any], renamed: dict[str, str], deleted: list[str]
) -> tuple[dict[str, Any], list[Change]]:
    """The new metadata in order, and what is different."""
    old = raw_metadata(shard)
    for key in [*changed, *renamed, *renamed.values(), *deleted]:
        if key in SPLIT_KEYS:
            raise GGUFError(f"{key!r} belongs to the set of shards: use split or merge to change it")
    for key in [*renamed, *deleted]:
        if key not in old:
            raise GGUFError(f"there is no metadata {key!r} in {shard.path}{_near(key, old)}")
    gone = {*renamed, *deleted}
    if len(gone) != len(renamed) + len(deleted):
        raise GGUFError("a key can be renamed or deleted once, not both")
    changes: list[Change] = []
    metadata: dict[str, Any] = {}
    for key, value in old.items():
        if key in deleted:
            changes.append(Change(key, shard.value_info(key), None))
            continue
        name = renamed.get(key, key)
        if name in metadata or (name != key and name in old and name not in gone):
            raise GGUFError(f"metadata {key!r} cannot be renamed: there is a {name!r} already")
        metadata[name] = value
        if name != key:
            changes.append(Change(name, shard.value_info(key), shard.value(shard.metadata[key]), key))
    for key, value in changed.items():
        # The type of a value that was renamed to this key a moment ago counts as well.
        before = next(
            (old_key for old_key in old if old_key not in deleted and renamed.get(old_key, old_key) == key), None
        )
        typed = infer(_retyped(key, value, None if before is None else shard.value_info(before)))
        metadata[key] = typed
        changes = [change for change in changes if change.key != key or change.after is None]
        info = None if before is None else shard.value_info(before)
        changes.append(Change(key, info, typed, before if before != key else None))
    return metadata, changes


def _retyped(key: str, value: Any, before: ValueInfo | None) -> Any:
    """A plain Python value with the type that the key has."""
    if before is None or isinstance(value, TypedValue | np.ndarray | np.generic):
        return value
    if before.element_type is ValueType.ARRAY:
        return value
    if isinstance(value, list | tuple) != (before.type is ValueType.ARRAY):
        kind = "an array" if before.type is ValueType.ARRAY else f"a {before.type.name}"
        raise TypeError(f"metadata {key!r} is {kind}, got {value!r:.60}: give a TypedValue to change its type")
    return TypedValue(list(value) if isinstance(value, tuple) else value, before.type, before.element_type)


def _near(key: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key, list(known), n=3)
    return f"; near names: {', '.join(near)}" if near else ""


def _check_consistency(shard: MappedFile, metadata: dict[str, Any], changes: list[Change]) -> None:
    """GGUFError for what would make a file unusable, as far as the changed keys are concerned."""
    touched = {name for change in changes for name in (change.key, change.renamed_from) if name}

    def value(key: str) -> Any:
        if key not in metadata:
            return None
        new = metadata[key]
        if isinstance(new, TypedValue):
            return new.value
        source = next((c.renamed_from for c in changes if c.key == key and c.renamed_from), key)
        return shard.value(shard.metadata[source]).value

    def length(key: str) -> int | None:
        found = value(key) if key in metadata else None
        return len(found) if isinstance(found, list | np.ndarray) else None

    if _ARCHITECTURE_KEY in touched and not isinstance(value(_ARCHITECTURE_KEY), str):
        raise GGUFError(f"{_ARCHITECTURE_KEY} must be a string in every model: force the change if it is meant")
    tokenizer = [key for key in touched if key.startswith("tokenizer.ggml.")]
    tokens = length(_TOKENS_KEY) if tokenizer else None
    if tokens is None:
        if _TOKENS_KEY not in touched:
            return
        tokens = 0  # they are deleted: what belongs to them has to go as well
    for key in _PER_TOKEN_KEYS:
        n = length(key) if {key, _TOKENS_KEY} & touched else None
        if n is not None and n != tokens:
            raise GGUFError(f"{key} would have {n} values for {tokens} tokens: force the change if it is meant")
    for key in metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and {key, _TOKENS_KEY} & touched:
            token = value(key)
            if isinstance(token, int) and not 0 <= token < tokens:
                raise GGUFError(
                    f"{key} would be {token}, and there are {tokens} tokens: force the change if it is meant"
                )


def _header(shard: MappedFile, metadata: Mapping[str, Any]) -> tuple[bytes, int]:
    """The header with other metadata, the same tensors, padded; and the bytes that follow it."""
    order = ">" if shard.big_endian else "<"
    begin = max((offset + nbytes for *_, offset, nbytes in shard.metadata.values()), default=24)
    end = begin + sum(8 + len(encode_text(name)) + 4 + 8 * len(shape) + 12 for name, shape, *_ in shard.tensors)
    entries = b"".join(encode_entry(key, value, order) for key, value in metadata.items())
    check_entries(entries, len(metadata), order)
    counts = struct.pack(order + "IQQ", shard.version, len(shard.tensors), len(metadata))
    header = b"".join((b"GGUF", counts, entries, shard.mapped[begin:end]))
    return header + bytes(padded(len(header), shard.alignment) - len(header)), max(shard.size - shard.data_offset, 0)


def _moved_header(source: GGUFFile, metadata: Mapping[str, Any]) -> tuple[bytes, int]:
    """The header for tensors that `copy_set` places anew, and the bytes that follow it."""
    plan = HeaderPlan(metadata, endianness=source.endianness)
    for name, (shape, format) in plan_of(source, source.tensor_infos).items():
        plan.add(name, shape, format)
    return plan.encode(), plan.end


def _copy(data: FileIO, out: FileIO, shard: MappedFile, header: bytes, progress: Progress | None) -> None:
    """Write a file of this header and the data of another."""
    size = max(shard.size - shard.data_offset, 0)
    write_all(out, memoryview(header))
    data.seek(shard.data_offset)
    append_file(data, out, size, None if progress is None else lambda done: progress("tensors", done, size))
    os.fsync(out.fileno())
