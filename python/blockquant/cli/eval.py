"""`blockquant eval`: perplexity of a model on a text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    model: Annotated[Path, typer.Argument(help="GGUF file.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="Text file, UTF-8.", show_default=False)],
    ctx: Annotated[int, typer.Option(help="Tokens of a window; the second half of each is scored.")] = 512,
    chunks: Annotated[int | None, typer.Option(help="Use only the first so many windows.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all CPUs.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure perplexity on a text, with the windows of llama-perplexity.

    Example: `blockquant eval tales-Q4_K_M.gguf eval.txt --ctx 256 --chunks 40`
    """
    from blockquant.cli.figures import finite
    from blockquant.cli.progress import bar
    from blockquant.cli.texts import read_text
    from blockquant.transformer import Model

    content = read_text(text)
    start = time.perf_counter()
    with Model.open(model, threads=threads) as opened, bar("perplexity", unit="windows") as progress:
        result = opened.perplexity(content, n_ctx=ctx, chunks=chunks, progress=progress)
    seconds = time.perf_counter() - start
    if as_json:
        print(json.dumps({"model": str(model), "text": str(text), **finite(result), "seconds": round(seconds, 3)}))
    else:
        print(
            f"perplexity {result['ppl']:.4f} +/- {result['stderr']:.4f}  "
            f"({result['windows']} windows of {ctx}, {result['tokens']} tokens scored, {seconds:.1f} s)"
        )
