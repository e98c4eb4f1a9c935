"""Hidden files beside a target: what is not finished, and journals."""

from __future__ import annotations

import hashlib
import os
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
