"""`blockquant inspect`: what a GGUF file holds."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from blockquant import gguf
from blockquant._text import printable
from blockquant.cli.metadata import SHOWN_ITEMS, entry, type_text, value_text
from blockquant.cli.table import print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="inspect")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="GGUF file, or any shard of a set.")],
    tensors: Annotated[bool, typer.Option("--tensors/--no-tensors", help="List every tensor.")] = True,
    full: Annotated[bool, typer.Option("--full", help="Whole texts and arrays instead of their beginnings.")] = False,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Print this metadata value alone, whole and as it is.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the metadata, tensors, sizes and bits per weight of a GGUF file.

    Example: blockquant inspect model-Q4_K_M.gguf --no-tensors
    """
    with gguf.open(file) as f:
        if key is not None:
            _print_value(f, key, as_json)
            return
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
    print_table(
        ["metadata", "type", "value"],
        [[printable(name), type_text(shown), value_text(shown, full)] for name, shown in report["metadata"].items()],
        "lll",
    )
    if tensors and report["tensors"]:
        print()
        print_table(
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
        print_table(["format", "tensors", "parameters", "bytes", "share", "bits/weight"], rows, "lrrrrr")


def _print_value(f: gguf.GGUFFile, key: str, as_json: bool) -> None:
    if key not in f.metadata:
        raise gguf.GGUFError(f"{f.path} has no metadata {key!r}")
    shown = entry(f.typed_value(key), full=True)
    if as_json:
        print(json.dumps(shown, allow_nan=False))
    elif sys.stdout.isatty() or shown["type"] != "string":
        print(value_text(shown, full=True))
    else:
        # Into a file or another program: the bytes of the text, whatever they are.
        sys.stdout.buffer.write(shown["value"].encode("utf-8", "surrogateescape"))


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
        "metadata": {key: _metadata_entry(f, key, full) for key in f.metadata},
        "tensors": tensors,
        "formats": sorted(formats.values(), key=lambda entry: -entry["nbytes"]),
        "total": total,
    }


def _metadata_entry(f: gguf.GGUFFile, key: str, full: bool) -> dict[str, Any]:
    # Of a vocabulary only what is shown is decoded.
    return entry(f.typed_value(key, None if full else SHOWN_ITEMS), full, f.metadata_info(key).count)


def _bits(counts: dict[str, Any]) -> str:
    bits = counts["bits_per_weight"]
    return "" if bits is None else f"{bits:.4g}"
