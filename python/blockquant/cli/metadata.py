"""Metadata values on the command line: how they are read from an argument and how they are shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from blockquant import gguf
from blockquant._text import printable
from blockquant.gguf import GGUFError, TypedValue, ValueType

SHOWN_ITEMS = 4
SHOWN_CHARACTERS = 100

_TYPES = {kind.name.lower(): kind for kind in ValueType if kind is not ValueType.ARRAY}
_TYPES |= {"str": ValueType.STRING, "f32": ValueType.FLOAT32, "f64": ValueType.FLOAT64}
_TYPES |= {
    f"{letter}{bits}": _TYPES[f"{name}{bits}"]
    for letter, name in (("u", "uint"), ("i", "int"))
    for bits in (8, 16, 32, 64)
}
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def parse_assignment(text: str, file: gguf.GGUFFile) -> tuple[str, TypedValue]:
    """`key=type:value` to the key and its value; ValueError when it is no such thing.

    The type may be left out for a key that the file has. Arrays are `key=type[]:JSON`.
    """
    key, separator, rest = text.partition("=")
    if not separator or not key:
        raise ValueError(f"{text!r} is not KEY=TYPE:VALUE, such as general.name=string:Tales")
    name, separator, value = rest.partition(":")
    base = name.strip().lower()
    depth = 0
    while base.endswith("[]"):
        base, depth = base[:-2], depth + 1
    if separator and base in _TYPES:
        return key, _parse(key, value, _TYPES[base], depth)
    if key not in file.metadata:
        raise ValueError(
            f"{text!r}: {key} is not in the file, so its type has to be given: {key}=TYPE:VALUE with one of "
            f"{', '.join(kind.name.lower() for kind in ValueType if kind is not ValueType.ARRAY)}, TYPE[] for arrays"
        )
    info = file.metadata_info(key)
    if info.element_type is ValueType.ARRAY:
        raise ValueError(f"{key} is an array of arrays: give its type, such as {key}=int32[][]:[[1],[2]]")
    if info.element_type is not None:
        return key, _parse(key, rest, info.element_type, 1)
    return key, _parse(key, rest, info.type, 0)


def _parse(key: str, text: str, kind: ValueType, depth: int) -> TypedValue:
    if depth == 0:
        return TypedValue(_scalar(key, text, kind), kind)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: an array is given as JSON, such as [1, 2, 3], got {text!r:.60} ({error})") from None
    return _array(key, items, kind, depth)


def _array(key: str, items: Any, kind: ValueType, depth: int) -> TypedValue:
    if not isinstance(items, list):
        raise ValueError(f"{key}: expected a JSON array, got {items!r:.60}")
    if depth > 1:
        inner = [_array(key, item, kind, depth - 1) for item in items]
        return TypedValue(inner, ValueType.ARRAY, ValueType.ARRAY)
    wanted = str if kind is ValueType.STRING else bool if kind is ValueType.BOOL else int | float
    for item in items:
        if not isinstance(item, wanted) or (wanted is not bool and isinstance(item, bool)):
            raise ValueError(f"{key}: {item!r:.60} is not a {kind.name.lower()}")
    return TypedValue(items, ValueType.ARRAY, kind)


def _scalar(key: str, text: str, kind: ValueType) -> Any:
    if kind is ValueType.STRING:
        return text
    stripped = text.strip()
    try:
        if kind is ValueType.BOOL:
            return _BOOLS[stripped.lower()]
        if kind in (ValueType.FLOAT32, ValueType.FLOAT64):
            return float(stripped)
        return int(stripped, 0)
    except (ValueError, KeyError):
        raise ValueError(f"{key}: {text!r:.60} is not a {kind.name.lower()}") from None


def read_text(assignment: str) -> tuple[str, TypedValue]:
    """`key=FILE` to the key and the text of the file as a string; OSError when it cannot be read."""
    key, separator, name = assignment.partition("=")
    if not separator or not key or not name:
        raise ValueError(f"{assignment!r} is not KEY=FILE, such as tokenizer.chat_template=chat.jinja")
    try:
        return key, TypedValue(Path(name).read_text(encoding="utf-8"), ValueType.STRING)
    except UnicodeDecodeError as error:
        raise GGUFError(f"{name} is not UTF-8: {error.reason}") from None


def entry(typed: TypedValue, full: bool = False, count: int | None = None) -> dict[str, Any]:
    """A value with its type, of what JSON has; arrays are cut to their beginning unless `full`."""
    found: dict[str, Any] = {"type": typed.type.name.lower()}
    if typed.element_type is None:
        return found | {"value": json_value(typed.value)}
    values = typed.value if full else typed.value[:SHOWN_ITEMS]
    return found | {
        "element_type": typed.element_type.name.lower(),
        "count": len(typed.value) if count is None else count,
        "value": [json_value(value, full) for value in values],
    }


def json_value(value: Any, full: bool = True) -> Any:
    """A value that JSON has: numbers that are not finite become their names."""
    if isinstance(value, TypedValue):
        return entry(value, full)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    return value


def type_text(shown: dict[str, Any]) -> str:
    """The type of an `entry`, such as uint32 or string[50]."""
    return f"{shown['element_type']}[{shown['count']}]" if "element_type" in shown else str(shown["type"])


def value_text(shown: dict[str, Any], full: bool = False) -> str:
    """The value of an `entry` on one line, cut unless `full`."""
    value = shown["value"]
    if "element_type" not in shown:
        text = printable(value) if isinstance(value, str) else str(value)
    else:
        items = [value_text(v, full) if isinstance(v, dict) else printable(repr(v)) for v in value]
        text = "[" + ", ".join(items) + (", ..." if len(value) < shown["count"] else "") + "]"
    return text if full or len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
