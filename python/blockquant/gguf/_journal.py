"""Replacing bytes of a file's header so that a crash leaves the old header or a journal that finishes the new one.

The journal, `.<name>.edit-journal` beside the file, holds the bytes before and after. It is on the disk before the
file is touched and goes away after the file is; whoever finds one repeats the write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from blockquant.gguf._hidden import hidden
from blockquant.gguf._types import GGUFError

_MAGIC = b"BQEDIT1\n"
_HEAD = struct.Struct("<8sQQQQ32s32s")  # magic, file size, header size, offset, length, hash of the rest, of the body


def journal_path(path: Path) -> Path:
    """Where the journal of a file is; of a link, that of the file it leads to."""
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path
    return hidden(real, "edit-journal")


def replace_header(path: Path, old: bytes, new: bytes) -> int:
    """Write `new` over `old`, the first bytes of the file and as long; returns how many bytes had to be written."""
    assert len(old) == len(new)
    places = _differing(old, new)
    if not places.size:
        return 0
    start, stop = int(places[0]), int(places[-1]) + 1
    body = old[start:stop] + new[start:stop]
    rest = hashlib.sha256(old[:start] + old[stop:]).digest()
    head = _HEAD.pack(_MAGIC, path.stat().st_size, len(old), start, stop - start, rest, hashlib.sha256(body).digest())
    with open(path, "r+b") as file:  # whether it can be written shows before there is a journal
        journal = journal_path(path)
        try:
            with open(journal, "xb") as out:
                out.write(head + body)
                out.flush()
                os.fsync(out.fileno())
            sync_directory(journal.parent)
        except FileExistsError:
            raise GGUFError(f"{path}: another edit of this file is going on or was interrupted ({journal})") from None
        except BaseException:
            with contextlib.suppress(OSError):
                journal.unlink()
            raise
        _write(file, start, new[start:stop])
    journal.unlink()
    return stop - start


def differing(old: bytes, new: bytes) -> int:
    """Bytes that `replace_header` would write."""
    places = _differing(old, new)
    return int(places[-1] - places[0]) + 1 if places.size else 0


def _differing(old: bytes, new: bytes) -> np.ndarray[Any, Any]:
    return np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))


def recover(path: str | os.PathLike[str]) -> bool:
    """Finish an edit that a crash interrupted; returns whether there was one.

    Raises GGUFError when the journal beside the file belongs to another file; OSError when the file cannot be written.
    """
    path = Path(path)
    journal = journal_path(path)
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return False
    complete = len(content) >= _HEAD.size and content[:8] == _MAGIC
    if complete:
        _, size, header_size, start, length, rest, digest = _HEAD.unpack_from(content)
        body = content[_HEAD.size :]
        complete = (
            len(body) == 2 * length
            and start + length <= header_size <= size
            and hashlib.sha256(body).digest() == digest
        )
    if not complete:
        # The file is only written after the whole journal is on the disk.
        journal.unlink()
        return True
    old, new = body[:length], body[length:]
    with open(path, "r+b") as file:
        header = file.read(header_size)
        now = header[start : start + length]
        same_rest = hashlib.sha256(header[:start] + header[start + length :]).digest() == rest
        mixed = len(now) == length and _is_mixture(now, old, new)
        if path.stat().st_size != size or not same_rest or not mixed:
            raise GGUFError(
                f"{path}: the journal {journal} belongs to another file: remove it if you replaced the file"
            )
        _write(file, start, new)
    journal.unlink()
    return True


def _is_mixture(now: bytes, *versions: bytes) -> bool:
    """Whether each byte is that of one of the versions."""
    found = [np.frombuffer(now, np.uint8) == np.frombuffer(version, np.uint8) for version in versions]
    return bool(np.logical_or.reduce(found).all())


def _write(file: BinaryIO, start: int, data: bytes) -> None:
    file.seek(start)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make new names in a directory durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
