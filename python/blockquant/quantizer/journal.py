"""What a run has done, on disk beside its output, so that another can go on after it was killed.

A text file of JSON lines. The first binds the journal to the source, the recipe, the importance matrix and the plan of
the output; each other line is the number of steps that are written, or "sync" with the number that the disk is known to
hold. A line torn by a kill is ignored. The file is locked while a run uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import blockquant
from blockquant import gguf
from blockquant._lock import try_lock, unlock
from blockquant.errors import BlockquantError
from blockquant.quantizer.plan import OutputFile, Weights

_MAX_NAME_BYTES = 240


def beside(target: Path, suffix: str) -> Path:
    """The path of a working file of `target`: its name and the suffix, shortened where the system would refuse it."""
    name = target.name + suffix
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f"{target.name[:40]}-{digest}{suffix}"
    return target.with_name(name)


def journal_path(target: str | os.PathLike[str]) -> Path:
    """Where the journal of a target is: beside the file itself when the path is a link to it."""
    return beside(Path(os.path.realpath(target)), ".journal")


def has_journal(target: str | os.PathLike[str]) -> bool:
    """Whether an interrupted run for this target can perhaps be resumed."""
    path = journal_path(target)
    return path.is_file() and path.stat().st_size > 0


class Source:
    """What tells whether the files of the source are still those that a run began with."""

    def __init__(self, file: gguf.GGUFFile) -> None:
        self._paths = file.paths
        begins = [file.data_offset if len(file.paths) == 1 else 0] * len(file.paths)
        for info in file.tensor_infos.values():
            begins[info.shard] = min(begins[info.shard] or info.offset, info.offset)
        self._stats = self._look()
        self._headers = []
        for path, begin in zip(file.paths, begins, strict=True):
            with open(path, "rb") as stream:
                self._headers.append(hashlib.sha256(stream.read(begin or -1)).hexdigest())

    def _look(self) -> list[tuple[int, int]]:
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, self._paths)]

    def identity(self) -> list[list[Any]]:
        """[size, time of modification, hash of the header] of each file."""
        return [[*stat, header] for stat, header in zip(self._stats, self._headers, strict=True)]

    def check_unchanged(self) -> None:
        """ValueError when a file of the source has been written to since the beginning."""
        for path, before, now in zip(self._paths, self._stats, self._look(), strict=True):
            if before != now:
                raise BlockquantError(f"{path} was changed while it was being quantized: run again")


def identity(
    source: Source, recipe: str, weights: dict[str, Weights], outputs: Sequence[OutputFile], piece: int
) -> dict[str, Any]:
    """What a run must have in common with the one that it continues."""
    imatrix = hashlib.sha256()
    for name, values in sorted(weights.items()):
        imatrix.update(f"{name} {values.shape}\n".encode("utf-8", "surrogateescape"))
        imatrix.update(np.ascontiguousarray(values).data)
    plan = hashlib.sha256(str(piece).encode())
    for output in outputs:
        plan.update(output.header)
    return {
        "version": blockquant.__version__,
        "source": source.identity(),
        "recipe": recipe,
        "imatrix": imatrix.hexdigest() if weights else None,
        "plan": plan.hexdigest(),
        "partials": [beside(output.path, ".partial").name for output in outputs],
    }


_DIFFERENCES = {
    "version": "it was begun by another version of blockquant",
    "source": "the source has changed since",
    "recipe": "it was begun with another recipe",
    "imatrix": "it was begun with another importance matrix",
    "plan": "the formats, options or metadata were others",
    "partials": "the names of the output were others",
}


# Of the first line, and of what is torn from it.
_BEGINNING = b'{"version": "'


def _is_first(line: dict[str, Any]) -> bool:
    partials = line.get("partials")
    return (
        all(key in line for key in _DIFFERENCES)
        and isinstance(partials, list)
        and all(isinstance(name, str) for name in partials)
    )


class Journal:
    """The journal at `path`, open and locked. `steps` is what is written, `is_valid` whether there is a first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open_locked(path)
        self._lock = threading.Lock()
        self._end = 0
        self._first: dict[str, Any] = {}
        self.steps = 0
        self.is_finished = False
        try:
            self._read()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def is_valid(self) -> bool:
        return bool(self._first)

    @property
    def old_partials(self) -> list[Path]:
        """The unfinished files of the run that wrote this journal, all beside it."""
        names = self._first.get("partials", [])
        return [self.path.with_name(Path(name).name) for name in names if str(name).endswith(".partial")]

    def _read(self) -> None:
        size = os.fstat(self._fd).st_size
        os.lseek(self._fd, 0, os.SEEK_SET)
        data = b""
        while block := os.read(self._fd, max(1, size - len(data))):
            data += block
        self._end = data.rfind(b"\n") + 1  # what follows the last newline is torn
        lines = data[: self._end].splitlines()
        written = synced = 0
        is_finished = False
        try:
            if any(data) and not data.startswith(_BEGINNING[: len(data)]):
                raise ValueError("it begins otherwise")
            self._first = json.loads(lines[0]) if any(data) and lines else {}
            if lines and self._first and not _is_first(self._first):
                raise ValueError("its first line is another")
            boot = self._first.get("boot")
            for line in lines[1:]:
                kind, count, *more = json.loads(line)
                if kind == "sync":  # by another thread, of what was written when it began
                    synced = int(count)
                else:
                    written = int(count)
                if kind == "boot":
                    (boot,) = more
                is_finished = kind == "finish"
        except (ValueError, TypeError, AttributeError) as error:
            raise BlockquantError(
                f"{self.path} is not a journal of quantize ({error}): remove it, or name another output"
            ) from None
        # After a reboot only what was synced is known to be there; when the process alone dies nothing is lost.
        is_same_boot = bool(boot) and boot == _boot()
        self.steps = written if is_same_boot else synced
        self.is_finished = is_finished and (is_same_boot or synced == written)

    def check(self, wanted: dict[str, Any]) -> None:
        """ValueError when the journal belongs to other work."""
        for key, difference in _DIFFERENCES.items():
            if self._first.get(key) != wanted[key]:
                raise BlockquantError(
                    f"{self.path} cannot be continued: {difference}; run without resume to start over"
                )

    def begin(self, wanted: dict[str, Any]) -> None:
        """Start over: the first line, now that the output's files are there."""
        self.clear()
        self._first = wanted | {"boot": _boot()}
        self._append(self._first)

    def clear(self) -> None:
        """Forget everything."""
        self._first, self.steps, self.is_finished, self._end = {}, 0, False, 0
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def resume(self) -> None:
        """Go on after the last whole line, in this boot of the machine."""
        os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, 0, os.SEEK_END)
        if not self.is_finished:
            self._append(("boot", self.steps, _boot()))

    def wrote(self, steps: int) -> None:
        """So many steps are written: a killed process does not lose them any more."""
        self.steps = steps
        self._append(("done", steps))

    def synced(self, steps: int) -> None:
        """So many steps are on the disk itself: a power cut does not lose them."""
        self._append(("sync", steps))

    def finish(self) -> None:
        """All is written; what is left is to give the files their names."""
        self._append(("finish", self.steps))
        self.is_finished = True

    def remove(self) -> None:
        """Remove the journal: there is nothing to continue."""
        if os.name == "nt":
            self.close()  # open files cannot be removed there
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._fd >= 0:
            unlock(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _append(self, record: object) -> None:
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._fd, line) :]


def remove_files(paths: Iterable[Path]) -> None:
    """Remove what is there of these files."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _boot() -> str:
    """What distinguishes this run of the machine from others; "" where that is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _open_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not try_lock(fd):
                raise BlockquantError(f"another process is writing this output: {path} is locked")
            # Another run may have removed the file between our opening and locking it.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
