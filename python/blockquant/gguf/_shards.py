"""Sets of shards as llama.cpp names and marks them: NAME-00001-of-00003.gguf, split.* metadata.

The first shard has all metadata; the others have the `split.*` keys alone.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blockquant.gguf._header import padded
from blockquant.gguf._types import GGUFError, TypedValue, ValueType

SHARD_NAME = re.compile(r"^(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_MAX_SHARDS = 65535  # split.count is a uint16

# gguf-split counts in thousands; the binary units are for those who ask for them.
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*$", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 5_000_000_000, "5G", "5GB", "500M" (thousands) or "4GiB" (1024s)."""
    if isinstance(size, str):
        match = _SIZE.match(size)
        if match is None or (match[3] and not match[2]):
            raise GGUFError(f"{size!r} is not a size: expected a number of bytes, or such as 500M, 5G, 4GiB")
        value = int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2].upper()])
    else:
        value = operator.index(size)
    if value <= 0:
        raise GGUFError(f"a shard's size must be more than nothing, got {size!r}")
    return value


def shard_prefix(path: Path) -> Path:
    """What the names of a set begin with: the path without .gguf, or without -00001-of-00003.gguf.

    GGUFError for a path without a name.
    """
    if path.name in ("", ".."):
        raise GGUFError(
            f"{path} is a directory: give what the names of the shards begin with, such as {path / 'model'}"
        )
    match = SHARD_NAME.match(path.name)
    if match is not None:
        return path.with_name(match["prefix"])
    return path.with_name(path.name[: -len(".gguf")]) if path.name.endswith(".gguf") and path.stem else path


def shard_path(prefix: Path, index: int, count: int) -> Path:
    """The file of shard `index` (from 0) in a set of `count`."""
    return prefix.with_name(f"{prefix.name}-{index + 1:05}-of-{count:05}.gguf")


def first_shard(path: Path) -> Path:
    """The first file of the set that a file belongs to by its name; the path itself when it has no such name."""
    match = SHARD_NAME.match(path.name)
    return path if match is None else shard_path(path.with_name(match["prefix"]), 0, int(match["count"]))


def group_by_size(sizes: Mapping[str, int], limit: int, alignment: int = 32) -> list[list[str]]:
    """Names of the tensors of each shard, in order, as gguf-split groups them.

    sizes: {tensor name: bytes}. A shard's tensors, padded, take at most `limit` bytes, unless one alone takes more.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, nbytes in sizes.items():
        room = padded(nbytes, alignment)
        if filled + room > limit and groups[-1]:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += room
    return check_count(groups)


def group_by_number(names: Iterable[str], tensors: int) -> list[list[str]]:
    """Names of the tensors of each shard: so many in each, the rest in the last."""
    if tensors <= 0:
        raise GGUFError(f"a shard holds at least one tensor, got {tensors}")
    order = list(names)
    count = max(1, math.ceil(len(order) / tensors))
    return check_count([order[i * tensors : (i + 1) * tensors] for i in range(count)])


def check_count(groups: list[list[str]]) -> list[list[str]]:
    """The groups, when a set can have so many shards."""
    if len(groups) > _MAX_SHARDS:
        raise GGUFError(f"a set of {len(groups)} shards is too many, the limit is {_MAX_SHARDS}: allow larger ones")
    return groups


def shard_metadata(metadata: Mapping[str, Any], index: int, count: int, tensors: int) -> dict[str, Any]:
    """Metadata of shard `index` (from 0) of `count` that hold `tensors` tensors together.

    Keys come in llama-quantize's order; `general.alignment` is in every shard, since each file is read by its own.
    """
    kept = {k: v for k, v in metadata.items() if k not in SPLIT_KEYS and (index == 0 or k == "general.alignment")}
    split = (
        TypedValue(index, ValueType.UINT16),
        TypedValue(count, ValueType.UINT16),
        TypedValue(tensors, ValueType.INT32),
    )
    return kept | dict(zip(SPLIT_KEYS, split, strict=True))
