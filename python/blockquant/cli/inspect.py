"""`blockquant inspect`: what a GGUF file holds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from blockquant import gguf

_SHOWN_ITEMS = 4
_SHOWN_CHARACTERS = 100


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="inspect")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="GGUF file, or any shard of a set.")],
    tensors: Annotated[bool, typer.Option("--tensors/--no-tensors", help="List every tensor.")] = True,
    full: Annotated[bool, typer.Option("--full", help="Whole texts and arrays instead of their beginnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the metadata, tensors, sizes and bits per weight of a GGUF file.

    Example: blockquant inspect model-Q4_K_M.gguf --no-tensors
    """
    with gguf.open(file) as f:
        report = describe(f, full)
    if as_json:
        if not tensors:
            del report["tensors"]
        print(json.dumps(report, allow_nan=False))
        return
    print(f"{', '.join(report['files'])}")
    print(
        f"GGUF version {report['version']}, {report['endianness']}-endian, {report['file_size']:,} bytes, "
        f"tensors aligned to {report['alignment']}"
    )
    print()
    _table(
        ["metadata", "type", "value"],
        [[printable(key), _type_text(entry), _value_text(entry, full)] for key, entry in report["metadata"].items()],
        "lll",
    )
    if tensors and report["tensors"]:
        print()
        _table(
            ["tensor", "shape", "format", "bits/weight", "bytes"],
            [
                [
                    printable(t["name"]),
                    " x ".join(map(str, t["shape"])) or "scalar",
                    t["format"],
                    _bits(t),
                    f"{t['nbytes']:,}",
                ]
                for t in report["tensors"]
            ],
            "lrlrr",
        )
    if report["formats"]:
        print()
        rows = [
            [
                entry["format"],
                f"{entry['tensors']:,}",
                f"{entry['parameters']:,}",
                f"{entry['nbytes']:,}",
                f"{100 * entry['nbytes'] / max(report['total']['nbytes'], 1):.1f} %",
                _bits(entry),
            ]
            for entry in [*report["formats"], {"format": "all", **report["total"]}]
        ]
        _table(["format", "tensors", "parameters", "bytes", "share", "bits/weight"], rows, "lrrrrr")


def describe(f: gguf.GGUFFile, full: bool = False) -> dict[str, Any]:
    """Everything but the data, made of what JSON has; arrays cut to their beginning unless `full`."""
    tensors = [
        {
            "name": info.name,
            "shape": list(info.shape),
            "format": str(info.format),
            "parameters": math.prod(info.shape),
            "nbytes": info.nbytes,
            "offset": info.offset,
            "shard": info.shard,
        }
        for info in f.tensor_infos.values()
    ]
    formats: dict[str, dict[str, Any]] = {}
    total: dict[str, Any] = {"tensors": 0, "parameters": 0, "nbytes": 0}
    for tensor in tensors:
        entry = formats.setdefault(
            str(tensor["format"]), {"format": tensor["format"], "tensors": 0, "parameters": 0, "nbytes": 0}
        )
        for counts in (entry, total):
            counts["tensors"] += 1
            counts["parameters"] += tensor["parameters"]
            counts["nbytes"] += tensor["nbytes"]
    for counts in (*tensors, *formats.values(), total):
        counts["bits_per_weight"] = 8 * counts["nbytes"] / counts["parameters"] if counts["parameters"] else None
    return {
        "files": [str(path) for path in f.paths],
        "architecture": f.architecture,
        "version": f.version,
        "endianness": f.endianness,
        "alignment": f.alignment,
        "file_size": f.file_size,
        "metadata": {key: _entry(value, full) for key, value in f.typed_metadata().items()},
        "tensors": tensors,
        "formats": sorted(formats.values(), key=lambda entry: -entry["nbytes"]),
        "total": total,
    }


def _entry(typed: gguf.TypedValue, full: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": typed.type.name.lower()}
    if typed.element_type is None:
        return entry | {"value": _json_value(typed.value)}
    values = typed.value if full else typed.value[:_SHOWN_ITEMS]
    return entry | {
        "element_type": typed.element_type.name.lower(),
        "count": len(typed.value),
        "value": [_json_value(value, full) for value in values],
    }


def _json_value(value: Any, full: bool = True) -> Any:
    if isinstance(value, gguf.TypedValue):
        return _entry(value, full)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    return value


def _type_text(entry: dict[str, Any]) -> str:
    return f"{entry['element_type']}[{entry['count']}]" if "element_type" in entry else str(entry["type"])


def _value_text(entry: dict[str, Any], full: bool) -> str:
    value = entry["value"]
    if "element_type" not in entry:
        text = printable(value) if isinstance(value, str) else str(value)
    else:
        items = [_value_text(v, full) if isinstance(v, dict) else repr(v) for v in value]
        text = "[" + ", ".join(items) + (", ..." if len(value) < entry["count"] else "") + "]"
    return text if full or len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _bits(counts: dict[str, Any]) -> str:
    bits = counts["bits_per_weight"]
    return "" if bits is None else f"{bits:.4g}"


def printable(text: str) -> str:
    """The text on one line, without anything that would steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> None:
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(cells, widths, alignment, strict=True)
        )
        return "  ".join(aligned).rstrip()

    print(line(titles))
    print("  ".join("-" * min(width, _SHOWN_CHARACTERS) for width in widths))
    for row in rows:
        print(line(row))
