"""The files of the output while they are made: NAME.partial beside NAME, whole when it gets its name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blockquant.gguf import GGUFError
from blockquant.gguf._hidden import create_like
from blockquant.gguf._journal import put
from blockquant.quantizer.journal import beside, remove_files
from blockquant.quantizer.plan import OutputFile

# What the system says when there is no room: disk, quota, limit on a file's size.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


class Output:
    """The partial files of a run. `create` or `reopen` them, `write`, then `commit` or `close`."""

    def __init__(self, files: Sequence[OutputFile]) -> None:
        self.files = files
        self.partials = [beside(file.path, ".partial") for file in files]
        self._fds: list[int] = []
        self._own: list[Path] = []  # the partial files that this run has made or continues

    def create(self) -> None:
        """Make all files in their full size with their headers; OSError now if the disk has no room for them.

        FileExistsError when a file of a partial file's name is there that no run has made.
        """
        for file, partial in zip(self.files, self.partials, strict=True):
            if _is_beginning(partial, file.header):
                remove_files([partial])
            create_like(partial, file.path).close()
            self._own.append(partial)
            fd = os.open(partial, _FLAGS | getattr(os, "O_NOFOLLOW", 0))
            self._fds.append(fd)
            _reserve(fd, file.size, partial)
            self.write(len(self._fds) - 1, 0, np.frombuffer(file.header, np.uint8))

    def reopen(self) -> bool:
        """Open the files of an earlier run; False unless all are there with their headers and sizes."""
        for file, partial in zip(self.files, self.partials, strict=True):
            try:
                fd = os.open(partial, _FLAGS | getattr(os, "O_NOFOLLOW", 0))
            except OSError:
                return False
            self._fds.append(fd)
            self._own.append(partial)
            if os.fstat(fd).st_size != file.size or os.read(fd, len(file.header)) != file.header:
                return False
        return True

    def write(self, index: int, at: int, data: np.ndarray[Any, Any]) -> None:
        """Write bytes, uint8 [n], at an offset of a file. One thread at a time."""
        fd, view = self._fds[index], memoryview(data)  # type: ignore[arg-type]
        os.lseek(fd, at, os.SEEK_SET)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self) -> None:
        """Wait until the disk has what is written."""
        for fd in self._fds:
            (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)

    def commit(self) -> None:
        """Give the files their names. Those that have theirs already are left alone, as after a kill."""
        self.close()
        for file, partial in zip(self.files, self.partials, strict=True):
            if partial.exists():
                put(partial, file.path)

    def is_complete(self) -> bool:
        """Whether every file is there, under one of its names: what a kill during `commit` leaves."""
        for file, partial in zip(self.files, self.partials, strict=True):
            path = partial if partial.exists() else file.path
            try:
                with open(path, "rb") as stream:
                    if os.fstat(stream.fileno()).st_size != file.size or stream.read(len(file.header)) != file.header:
                        return False
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close the files; does nothing the second time."""
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())

    def remove(self) -> None:
        """Close and remove the partial files of this run."""
        self.close()
        remove_files(self._own)


_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _is_beginning(path: Path, header: bytes) -> bool:
    """Whether a file is what a run leaves that is killed before its journal begins: nothing, zeros, or the header."""
    try:
        with open(path, "rb") as stream:
            found = stream.read(len(header))
    except OSError:
        return False
    return header.startswith(found) or not any(found)


def check_target(files: Sequence[OutputFile], sources: Sequence[Path], journal: Path) -> None:
    """ValueError when an output is one of the sources or not a regular file, OSError when its folder is missing."""
    for file in files:
        for path in (file.path, beside(file.path, ".partial"), journal):
            if not path.exists():
                continue
            if any(os.path.samefile(path, source) for source in sources):
                raise GGUFError(f"{path} is the input: quantize to another file")
            if not stat.S_ISREG(path.stat().st_mode):
                raise GGUFError(f"{path} exists and is not a regular file")
        if not file.path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(file.path.parent))


def _reserve(fd: int, size: int, path: Path) -> None:
    """Give the file its size, with room on the disk for all of it where the system can promise that."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:
            if error.errno in FULL:
                raise
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    os.ftruncate(fd, size)
