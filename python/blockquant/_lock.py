"""Locks on open files, against other processes and other openings in this one. They end with the process."""

from __future__ import annotations

import contextlib
import os

_BYTE = 1 << 40  # beyond the end of every file: on Windows nobody else can read what is locked


def try_lock(fd: int) -> bool:
    """Lock an open file as a whole, without waiting; False when it is locked already.

    True as well where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return _try_lock_on_windows(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _try_lock_on_windows(fd: int) -> bool:
    import msvcrt

    try:
        os.lseek(fd, _BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def unlock(fd: int) -> None:
    """Let go of a lock, whatever copies of the descriptor a forked process has."""
    with contextlib.suppress(OSError, ImportError):
        if os.name == "nt":
            import msvcrt

            os.lseek(fd, _BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_UN)
