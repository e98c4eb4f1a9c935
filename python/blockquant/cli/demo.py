"""`blockquant demo`: the whole path on one model directory, shown in one table."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import blockquant as bq
from blockquant.cli.figures import finite
from blockquant.cli.progress import bar

RECIPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q2_K")
STORY_PROMPT = "Once upon a time there was a king who had"


@dataclass
class Row:
    """One line of the table."""

    recipe: str
    bits_per_weight: float
    bytes: int
    perplexity: float
    stderr: float
    tokens_per_second: float


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo")(demo)


def demo(
    model_dir: Annotated[Path, typer.Argument(help="Hugging Face model directory with an eval.txt in it.")],
    recipes: Annotated[str, typer.Option(help="Recipes to try, separated by commas.")] = ",".join(RECIPES),
    ctx: Annotated[int, typer.Option(help="Tokens of a perplexity window.")] = 256,
    chunks: Annotated[int, typer.Option(help="Perplexity windows to score; 0 scores the whole text.")] = 40,
    keep: Annotated[Path | None, typer.Option(help="Leave the GGUF files in this directory.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all CPUs of this process.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table and the story as JSON.")] = False,
) -> None:
    """Convert a model, quantize it to several recipes, measure each, and let one tell a story.

    Example: blockquant demo examples/tales-6m
    """
    names = [name.strip() for name in recipes.split(",") if name.strip()]
    known = bq.recipes.names()
    for name in names:
        if name not in known:
            raise ValueError(f"unknown recipe {name!r}; known: {', '.join(known)}")
    if not model_dir.is_dir():
        raise ValueError(
            f"{model_dir} is not a directory; give a Hugging Face model directory, such as examples/tales-6m"
        )
    text_path = model_dir / "eval.txt"
    if not text_path.is_file():
        raise ValueError(f"{model_dir} has no eval.txt; put a text there to measure perplexity on")
    if threads is not None:
        bq.set_num_threads(threads)
    text = text_path.read_text(encoding="utf-8")
    with ExitStack() as stack:
        if keep is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blockquant-demo-")))
        else:
            directory = keep
            directory.mkdir(parents=True, exist_ok=True)
        base = directory / f"{model_dir.resolve().name}-F16.gguf"
        with bar("converting") as progress:
            bq.convert(model_dir, base, dtype="f16", progress=progress)
        rows = []
        story_file = base
        for name in ["F16", *names]:
            path = directory / f"{model_dir.resolve().name}-{name}.gguf"
            if name != "F16":
                with bar(f"quantizing to {name}") as progress:
                    bq.quantize_file(base, path, name, progress=progress)
            rows.append(_measure(path, name, text, ctx, chunks))
            if name == "Q4_K_M" or (story_file == base and "Q4_K_M" not in names):
                story_file = path
        windows = f"{chunks} windows" if chunks else "all windows"
        if not as_json:
            _show(rows, f"{model_dir.name}: perplexity on eval.txt, {windows} of {ctx} tokens")
        story = _tell(story_file, quiet=as_json)
        if as_json:
            print(json.dumps({"table": [finite(asdict(row)) for row in rows], "story": story}, indent=2))
        elif keep is not None:
            print(f"\nThe files are in {directory}", file=sys.stderr)


def _measure(path: Path, recipe: str, text: str, ctx: int, chunks: int) -> Row:
    model = bq.Model.open(path)
    with bar(f"measuring {recipe}", unit="windows") as progress:
        result: dict[str, Any] = model.perplexity(text, n_ctx=ctx, chunks=chunks or None, progress=progress)
    return Row(
        recipe=recipe,
        bits_per_weight=model.bits_per_weight,
        bytes=path.stat().st_size,
        perplexity=result["ppl"],
        stderr=result["stderr"],
        tokens_per_second=_generation_speed(model),
    )


def _generation_speed(model: Any, tokens: int = 96) -> float:
    """Tokens per second of one session that feeds itself, the prompt not counted; the best of three."""
    best = 0.0
    prompt = model.tokenizer.encode(STORY_PROMPT)
    for _ in range(3):
        session = model.session(len(prompt) + tokens)
        logits = session.eval(prompt)
        began = time.perf_counter()
        for _ in range(tokens):
            logits = session.eval([int(logits.argmax())])
        best = max(best, tokens / (time.perf_counter() - began))
    return best


def _show(rows: list[Row], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("format", "bits per weight", "size, bytes", "perplexity", "generation, tokens/s"):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for row in rows:
        table.add_row(
            row.recipe,
            f"{row.bits_per_weight:.2f}",
            f"{row.bytes:,}",
            f"{row.perplexity:.3f} ± {row.stderr:.3f}",
            f"{row.tokens_per_second:,.0f}",
        )
    Console().print(table)


def _tell(path: Path, quiet: bool) -> str:
    model = bq.Model.open(path)
    if not quiet:
        print(f"\nA story by {path.name}:\n\n{STORY_PROMPT}", end="", flush=True)
    pieces = [STORY_PROMPT]
    for piece in model.generate(STORY_PROMPT, max_tokens=160, temperature=0.8, top_p=0.95, seed=7, context_shift=True):
        pieces.append(piece)
        if not quiet:
            print(piece, end="", flush=True)
    if not quiet:
        print()
    return "".join(pieces)
