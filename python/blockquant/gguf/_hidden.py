"""Hidden files beside a target, for what is not finished and journals: their names, making and filling them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from io import FileIO
from pathlib import Path

_MOST_BYTES = 200  # of a target's name; file systems take 255, and suffixes come after it


def hidden(target: Path, suffix: str) -> Path:
    """`.<name>.<suffix>` beside the target; of a very long name, its beginning and a hash."""
    name = os.fsencode(target.name)
    if len(name) <= _MOST_BYTES:
        return target.with_name(f".{target.name}.{suffix}")
    digest = hashlib.sha256(name).hexdigest()[:16]
    # Cut between characters.
    stem = name[: _MOST_BYTES - len(digest) - 1].decode("utf-8", "ignore")
    return target.with_name(f".{stem}~{digest}.{suffix}")


def hidden_once(target: Path, suffix: str) -> Path:
    """The same with a name that no other process or call gives."""
    return hidden(target, f"{os.getpid()}-{os.urandom(4).hex()}.{suffix}")


def create_private(path: Path) -> FileIO:
    """A new file that only its owner can read."""
    return FileIO(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600))


def create_like(path: Path, like: Path, replaces: bool = True) -> FileIO:
    """A new file with the owner and permissions of another, if that is there and as far as the system lets us.

    Of a file that it does not replace it takes no more than who may read and write.
    """
    try:
        status = os.stat(like)
    except FileNotFoundError:
        return FileIO(path, "x")
    file = create_private(path)
    if os.name == "posix":
        with contextlib.suppress(OSError):  # only an administrator can give files away
            if replaces:
                os.chown(path, status.st_uid, status.st_gid)
        with contextlib.suppress(OSError):
            os.chmod(path, stat.S_IMODE(status.st_mode) & (0o7777 if replaces else 0o666))
    return file


def write_all(file: FileIO, data: memoryview) -> None:
    """Write all of the bytes: a file without a buffer may take a part of them at a time."""
    while data:
        data = data[file.write(data) :]
