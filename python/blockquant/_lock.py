"""Locks on open files, against other processes and other openings in this one. They end with the process."""

from __future__ import annotations

import contextlib
import errno
import os
import struct

# Beyond the end of every file: on Windows, and on its shares, nobody else can read what is locked.
_BYTE = 1 << 40


def try_lock(fd: int) -> bool:
    """Lock a file that is open for writing, without waiting; False when it is locked already.

    True as well where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return _try_lock_on_windows(fd)
    try:
        if not _lock_byte(fd, fcntl.F_WRLCK):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _lock_byte(fd: int, kind: int) -> bool:
    """Lock or unlock one byte for this opening of the file; False where the system cannot."""
    import fcntl

    command = getattr(fcntl, "F_OFD_SETLK", None)  # Linux
    if command is None or struct.calcsize("P") != 8:
        return False
    try:
        # struct flock: type, from where, start, length, process, and what aligns its end.
        fcntl.fcntl(fd, command, struct.pack("@hhqqi0q", kind, os.SEEK_SET, _BYTE, 1, 0))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise
        return False
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

            if not _lock_byte(fd, fcntl.F_UNLCK):
                fcntl.flock(fd, fcntl.LOCK_UN)
