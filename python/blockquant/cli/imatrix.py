"""`blockquant imatrix`: collect an importance matrix for quantizing a model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockquant.errors import BlockquantError

if TYPE_CHECKING:
    from blockquant.imatrix import Imatrix


def register(app: typer.Typer) -> None:
    app.command("imatrix")(collect)


def collect(
    model: Annotated[Path, typer.Argument(help="GGUF file, the less quantized the better.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="Text like what the model will see, UTF-8.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="NAME.gguf, or NAME.dat for llama.cpp's old format.", show_default=False)],
    ctx: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    chunks: Annotated[int | None, typer.Option(help="Use only the first so many windows.", show_default=False)] = None,
    output: Annotated[bool, typer.Option("--output", help="Collect for the output matrix, too.")] = False,
    merge: Annotated[
        list[Path] | None,
        typer.Option(help="Add this importance matrix of the model (repeatable).", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all CPUs.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was collected as JSON.")] = False,
) -> None:
    """Collect an importance matrix over a text, as llama-imatrix does.

    Example: `blockquant imatrix tales-f16.gguf calib.txt tales.imatrix.gguf --chunks 100`
    """
    from blockquant import imatrix
    from blockquant.cli.progress import bar
    from blockquant.cli.texts import read_text
    from blockquant.transformer import Model

    if out.suffix not in (".gguf", ".dat"):
        raise BlockquantError(f"cannot tell the format of {out}: name it .gguf or .dat")
    if not out.parent.is_dir():
        raise BlockquantError(f"cannot write {out}: {out.parent} is not a directory")
    if out.is_dir():
        raise BlockquantError(f"cannot write {out}: it is a directory")
    content = read_text(text)
    others = [imatrix.load(path) for path in merge or ()]
    _check_merge(model, merge or (), others)
    start = time.perf_counter()
    with Model.open(model, threads=threads) as opened, bar("collecting", unit="windows") as progress:
        matrix = imatrix.collect(opened, content, ctx, chunks, output, str(text), progress)
    windows = matrix.chunk_count
    if others:
        try:
            matrix = imatrix.merge([*others, matrix])
        except BlockquantError as error:
            spare = out
            if out.exists() and any(os.path.samefile(path, out) for path in merge or ()):
                spare = out.with_name(f"{out.stem}.collected{out.suffix}")
            matrix.save(spare)
            raise BlockquantError(f"{error}; {spare} holds what was collected, without what was to be merged") from None
    matrix.save(out)
    seconds = time.perf_counter() - start
    if as_json:
        found = {"tensors": len(matrix), "windows": windows, "n_ctx": ctx, "chunks": matrix.chunk_count}
        print(
            json.dumps({"model": str(model), "text": str(text), "out": str(out), **found, "seconds": round(seconds, 3)})
        )
    else:
        merged = f", {matrix.chunk_count} with what was merged" if others else ""
        print(f"wrote {out}: {len(matrix)} tensors, {windows} windows of {ctx}{merged}, {seconds:.1f} s")


def _check_merge(model: Path, paths: Sequence[Path], matrices: Sequence[Imatrix]) -> None:
    """Fail before the work rather than after it."""
    from blockquant import gguf, imatrix

    if not matrices:
        return
    with gguf.open(model) as file:
        for path, matrix in zip(paths, matrices, strict=True):
            for name, (has, needs) in imatrix.coverage(matrix, file.tensor_infos).mismatched.items():
                raise BlockquantError(
                    f"cannot merge {path}, which is of another model: {name!r} has {has} weights there, {needs} here"
                )
    imatrix.merge(matrices)
