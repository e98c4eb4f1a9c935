"""`blockquant diff`: what is different between two GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from blockquant import gguf
from blockquant._text import printable
from blockquant.cli.metadata import entry, json_value, type_text, value_text
from blockquant.cli.progress import bar
from blockquant.cli.table import print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="diff")(diff)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="GGUF file or any shard of a set: the reference.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The file to compare with it.")],
    values: Annotated[
        bool, typer.Option("--values/--no-values", help="Decode tensors and measure the error, or compare bytes alone.")
    ] = True,
    show_all: Annotated[bool, typer.Option("--all", help="List identical tensors as well.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when the files differ.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that decode; default: all CPUs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare two GGUF files: metadata, and for each tensor the error of B against A.

    Exit status 0 whether they differ or not, as `git diff`; with --exit-code 1 when they do.

    Example: blockquant diff model-f16.gguf model-Q4_K_M.gguf
    """
    with bar(f"diff {a.name} {b.name}") as progress:
        report = gguf.diff(a, b, values=values, threads=threads, progress=progress)
    if as_json:
        print(json.dumps(_json(report), allow_nan=False))
    else:
        _print(report, show_all)
    if exit_code and not report.identical:
        raise typer.Exit(1)


def _entry(value: gguf.TypedValue | None, count: int) -> dict[str, Any] | None:
    return None if value is None else entry(value, count=count)


def _json(report: gguf.DiffReport) -> dict[str, Any]:
    fields = report.as_dict()
    fields["metadata"] = [
        {"key": d.key, "a": _entry(d.a, d.count_a), "b": _entry(d.b, d.count_b)} for d in report.metadata
    ]
    for errors in [*(tensor["error"] for tensor in fields["tensors"]), fields["overall"]]:
        for name in errors or ():
            errors[name] = json_value(errors[name])
    return fields


def _print(report: gguf.DiffReport, show_all: bool) -> None:
    if report.identical:
        print(f"identical: metadata and {len(report.tensors)} tensors")
    for difference in report.metadata:
        sides = []
        for shown in (_entry(difference.a, difference.count_a), _entry(difference.b, difference.count_b)):
            sides.append("absent" if shown is None else f"{type_text(shown)} {value_text(shown)}")
        print(f"{printable(difference.key)}\n  A: {sides[0]}\n  B: {sides[1]}")
    for names, side in ((report.only_a, "A"), (report.only_b, "B")):
        for name in names:
            print(f"tensor {printable(name)} is in {side} alone")
    if not report.same_order:
        print("the tensors come in another order")
    rows = [
        [
            printable(t.name),
            " x ".join(map(str, t.shape_a))
            + ("" if t.shape_a == t.shape_b else f" / {' x '.join(map(str, t.shape_b))}"),
            t.format_a if t.format_a == t.format_b else f"{t.format_a} -> {t.format_b}",
            *(["identical"] + [""] * 4 if t.identical else _figures(t.error)),
        ]
        for t in report.tensors
        if show_all or not t.identical
    ]
    if not rows:
        return
    print()
    if report.overall is not None:
        rows.append(["all tensors", "", "", *_figures(report.overall)])
    print_table(["tensor", "shape", "format", "rmse", "relative", "max abs", "cosine", "SNR dB"], rows, "lrlrrrrr")
    same = sum(t.identical for t in report.tensors)
    print(f"{same} of {len(report.tensors)} tensors of both are identical")


def _figures(error: dict[str, float] | None) -> list[str]:
    if error is None:
        return ["not compared", "", "", "", ""]
    return [
        f"{error['rmse']:.4g}",
        f"{error['relative_rmse']:.4g}",
        f"{error['max_abs']:.4g}",
        f"{error['cosine']:.6f}",
        f"{error['snr_db']:.2f}",
    ]
