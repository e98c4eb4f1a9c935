"""Replacing bytes of a file's header so that a crash leaves the old header or a journal that finishes the new one.

The journal, `.<name>.edit-journal` beside the file, holds the bytes before and after. It is on the disk before the
file is touched and goes away after the file is; whoever finds one repeats the write. Edits lock the file itself: who
finds a journal and gets the lock knows that the edit is not going on any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from blockquant._lock import try_lock, unlock
from blockquant.gguf._hidden import hidden, write_all
from blockquant.gguf._shards import first_shard
from blockquant.gguf._types import GGUFError

_MAGIC = b"BQEDIT1\n"
_HEAD = struct.Struct("<8sQQQQ32s32s")  # magic, file size, header size, offset, length, hash of the rest, of the body


def journal_path(path: Path) -> Path:
    """Where the journal of a file is; of a link, that of the file it leads to."""
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path
    return hidden(real, "edit-journal")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[FileIO]:
    """Open a file for reading and writing, locked against other edits.

    GGUFError when another edit is going on, in this process too; OSError when the file cannot be written.
    """
    while True:
        with FileIO(path, "r+") as file:
            if not try_lock(file.fileno()):
                raise GGUFError(f"{path}: another edit of its metadata is going on: try again when it is done")
            try:
                # An edit that ended between our opening and locking may have replaced the file.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    yield file
                    return
            finally:
                if not file.closed:
                    unlock(file.fileno())


def check_unchanged(file: FileIO, path: Path, header: bytes, size: int) -> None:
    """GGUFError unless the open file still has its name, size (bytes) and header: others may write without a lock."""
    status = os.fstat(file.fileno())
    file.seek(0)
    if status.st_size != size or not os.path.samestat(status, os.stat(path)) or file.read(len(header)) != header:
        raise GGUFError(f"{path} has changed while it was edited and was left as it is now: edit it again")


def replace_header(file: FileIO, path: Path, old: bytes, new: bytes, size: int) -> None:
    """Write `new` over `old`, as long and the first bytes of the locked file at `path`, which has `size` bytes."""
    assert len(old) == len(new)
    places = _differing(old, new)
    if not places.size:
        return
    start, stop = int(places[0]), int(places[-1]) + 1
    body = old[start:stop] + new[start:stop]
    rest = hashlib.sha256(old[:start] + old[stop:]).digest()
    head = _HEAD.pack(_MAGIC, size, len(old), start, stop - start, rest, hashlib.sha256(body).digest())
    journal = journal_path(path)
    try:
        with open(journal, "xb") as out:
            out.write(head + body)
            out.flush()
            os.fsync(out.fileno())
        sync_directory(journal.parent)
        # Whoever replaces the file from now on replaces what is being edited, which is as if they came later.
        check_unchanged(file, path, old, size)
    except FileExistsError:
        raise GGUFError(f"{path}: another edit of this file is going on or was interrupted ({journal})") from None
    except BaseException:
        with contextlib.suppress(OSError):
            journal.unlink()
        raise
    _write(file, start, new[start:stop])
    _remove(journal, head + body)  # who has replaced the file has removed it


def _read(journal: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return journal.read_bytes()
    return None


def _remove(journal: Path, content: bytes | None) -> None:
    """Remove the journal if it is still this one, and not one that has come since."""
    if content is not None and _read(journal) == content:
        journal.unlink(missing_ok=True)


def differing(old: bytes, new: bytes) -> int:
    """Bytes that `replace_header` would write."""
    places = _differing(old, new)
    return int(places[-1] - places[0]) + 1 if places.size else 0


def _differing(old: bytes, new: bytes) -> np.ndarray[Any, Any]:
    return np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))


def recover(path: str | os.PathLike[str]) -> bool:
    """Finish an edit of a file, or of the first file of its set, that a crash interrupted; whether there was one.

    Raises GGUFError when the edit is still going on, or the journal beside the file belongs to another file; OSError
    when the file cannot be written.
    """
    path = Path(path)
    found = [_recover(candidate) for candidate in dict.fromkeys((path, first_shard(path)))]
    return any(found)


def _recover(path: Path) -> bool:
    journal = journal_path(path)
    if not os.path.lexists(journal):
        return False
    with locked(path) as file:
        try:
            content = journal.read_bytes()
        except FileNotFoundError:
            return False  # it was not a crash, or somebody else was quicker
        complete = len(content) >= _HEAD.size and content[:8] == _MAGIC
        if complete:
            _, size, header_size, start, length, rest, digest = _HEAD.unpack_from(content)
            body = content[_HEAD.size :]
            complete = (
                len(body) == 2 * length
                and start + length <= header_size <= size
                and hashlib.sha256(body).digest() == digest
            )
        # The file is only written after the whole journal is on the disk.
        if complete:
            old, new = body[:length], body[length:]
            file.seek(0)
            header = file.read(header_size)
            now = header[start : start + length]
            same_rest = hashlib.sha256(header[:start] + header[start + length :]).digest() == rest
            mixed = len(now) == length and _is_mixture(now, old, new)
            if os.fstat(file.fileno()).st_size != size or not same_rest or not mixed:
                raise GGUFError(
                    f"{path}: the journal {journal} belongs to another file: remove it if you replaced the file"
                )
            _write(file, start, new)
        journal.unlink(missing_ok=True)
    return True


def _is_mixture(now: bytes, *versions: bytes) -> bool:
    """Whether each byte is that of one of the versions."""
    found = [np.frombuffer(now, np.uint8) == np.frombuffer(version, np.uint8) for version in versions]
    return bool(np.logical_or.reduce(found).all())


def _write(file: FileIO, start: int, data: bytes) -> None:
    file.seek(start)
    write_all(file, memoryview(data))
    os.fsync(file.fileno())


def put(partial: Path, target: Path) -> None:
    """Give a finished file its name; an edit of the file that had it before has nothing to finish any more.

    A `target` that is a link is replaced itself.
    """
    journal = hidden(target, "edit-journal")
    interrupted = _read(journal)
    os.replace(partial, target)
    sync_directory(partial.parent)
    # Not before: a header that is half written needs it until the whole file is gone.
    _remove(journal, interrupted)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
