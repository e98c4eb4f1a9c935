"""`blockquant imatrix-info` and `imatrix-merge`: what is in an importance matrix, and several as one."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from blockquant._text import printable
from blockquant.recipes.tensors import file_order

INFO_EPILOG = """Examples:

`blockquant imatrix-info imatrix.gguf`

`blockquant imatrix-info imatrix.dat --model model-f16.gguf`
"""
MERGE_EPILOG = """Examples:

`blockquant imatrix-merge all.gguf english.gguf code.gguf old.dat`

`blockquant imatrix-merge imatrix.dat imatrix.gguf` (another format)
"""
_SHOWN = 8


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Importance matrix, .gguf or .dat.")],
    model: Annotated[Path | None, typer.Option(help="GGUF file: tell which of its tensors the matrix covers.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what an importance matrix was made of, and each tensor's statistics."""
    from blockquant import gguf, imatrix

    matrix = imatrix.load(file)
    report: dict[str, Any] = {
        "path": str(file),
        "datasets": matrix.datasets,
        "chunks": matrix.chunk_count,
        "chunk_size": matrix.chunk_size,
        "entries": [_entry(name, matrix) for name in sorted(matrix, key=file_order)],
    }
    if model is not None:
        with gguf.open(model) as opened:
            found = imatrix.coverage(matrix, opened.tensor_infos, str(opened.architecture))
        report["coverage"] = {
            "complete": found.is_complete,
            "missing": list(found.missing),
            "partial": {name: list(counts) for name, counts in found.partial.items()},
            "mismatched": {name: list(sizes) for name, sizes in found.mismatched.items()},
            "unused": list(found.unused),
        }
    if json:
        print(json_module.dumps(report, indent=1))
        return
    tokens = f" of {matrix.chunk_size} tokens" if matrix.chunk_size else ""
    print(f"{file}: {len(matrix)} tensors, {matrix.chunk_count} chunks{tokens}")
    for dataset in matrix.datasets:
        print(f"  from {printable(dataset)}")
    print(f"{'tensor':<40} {'weights':>12} {'counts':>17} {'mean':>11} {'largest':>11} {'zeros':>7} {'entropy':>8}")
    for entry in report["entries"]:
        experts = f"{entry['experts']} x " if entry["experts"] > 1 else ""
        low, high = entry["counts"]
        counts = str(low) if low == high else f"{low} to {high}"
        print(
            f"{printable(entry['name']):<40} {experts + str(entry['weights'] // entry['experts']):>12} {counts:>17} "
            f"{entry['mean']:>11.4g} {entry['largest']:>11.4g} {100 * entry['zeros']:>5.1f} % {entry['entropy']:>8.4f}"
        )
    starved = [e for e in report["entries"] if e["experts_without_data"]]
    for entry in starved[:_SHOWN]:
        print(f"{printable(entry['name'])}: {entry['experts_without_data']} of {entry['experts']} experts saw no data")
    if len(starved) > _SHOWN:
        print(f"... and {len(starved) - _SHOWN} more tensors")
    if model is not None:
        _print_coverage(report["coverage"], model)


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .gguf, or .dat for the old format.")],
    files: Annotated[list[Path], typer.Argument(metavar="IN...", help="Importance matrices of one model.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Add importance matrices up, as llama-imatrix does, or write one in the other format."""
    from blockquant import imatrix

    merged = imatrix.merge([imatrix.load(file) for file in files])
    merged.save(out)
    if json:
        fields = {"path": str(out), "tensors": len(merged), "chunks": merged.chunk_count, "datasets": merged.datasets}
        print(json_module.dumps(fields))
        return
    print(f"{out}: {len(merged)} tensors, {merged.chunk_count} chunks, from {len(files)} files")


def _entry(name: str, matrix: Any) -> dict[str, Any]:
    """Statistics of the mean squares of one tensor; the entropy is 1 where all weights are equal."""
    entry, values = matrix.entries[name], matrix[name].astype(np.float64).reshape(-1)
    total = float(values.sum())
    shares = values[values > 0] / total if total > 0 else np.ones(1)
    entropy = float(-(shares * np.log2(shares)).sum()) / max(np.log2(values.size), 1)
    return {
        "name": name,
        "weights": values.size,
        "experts": entry.counts.size,
        "experts_without_data": int((entry.counts == 0).sum()) if entry.counts.size > 1 else 0,
        "counts": [int(entry.counts.min()), int(entry.counts.max())],
        "mean": float(values.mean()),
        "smallest": float(values.min()),
        "largest": float(values.max()),
        "deviation": float(values.std()),
        "zeros": float((values == 0).mean()),
        "entropy": entropy,
    }


def _print_coverage(found: dict[str, Any], model: Path) -> None:
    if found["complete"]:
        print(f"covers {model}")
    for kind, text in (
        ("missing", "nothing for"),
        ("partial", "experts without data in"),
        ("mismatched", "weights of another size for"),
        ("unused", "not in the model:"),
    ):
        names = list(found[kind])
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            print(f"{text} {', '.join(map(printable, names[:_SHOWN]))}{more}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="imatrix-info", epilog=INFO_EPILOG)(info)
    app.command(name="imatrix-merge", epilog=MERGE_EPILOG)(merge)
