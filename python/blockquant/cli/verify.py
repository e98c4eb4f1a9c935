"""`blockquant verify`: whether a GGUF file is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blockquant import gguf
from blockquant._text import printable
from blockquant.cli.progress import bar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="verify")(verify)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="GGUF file, or any shard of a set.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that decode; default: all CPUs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a GGUF file: header, offsets, sizes, and that every block decodes to finite numbers.

    Warns of what llama.cpp will not load. Exit status 1 when something is wrong.

    Example: blockquant verify model-Q4_K_M.gguf
    """
    with bar(f"verify {file.name}") as progress:
        report = gguf.verify(file, threads=threads, progress=progress)
    if as_json:
        fields = {
            "file": str(file),
            "ok": report.ok,
            "problems": report.problems,
            "warnings": report.warnings,
            "unchecked": report.unchecked,
            "tensors": report.tensors,
            "nbytes": report.nbytes,
        }
        print(json.dumps(fields))
    else:
        for problem in report.problems:
            print(printable(problem))
        for warning in report.warnings:
            print(f"warning: {printable(warning)}")
        for name, format in report.unchecked.items():
            print(f"not decoded: tensor {printable(name)!r}: {format} is not implemented in this version")
        if report.ok:
            print(f"{file}: sound, {report.tensors} tensors, {report.nbytes:,} bytes decoded to finite numbers")
    if not report.ok:
        raise typer.Exit(1)
