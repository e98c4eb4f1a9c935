"""`blockquant compare`: what quantization did to a model's predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from blockquant.transformer.compare import Comparison


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    baseline: Annotated[Path, typer.Argument(help="GGUF file of the model before quantization.", show_default=False)],
    models: Annotated[list[Path], typer.Argument(help="GGUF files made from it.", show_default=False)],
    text: Annotated[Path, typer.Option(help="Text file, UTF-8.", show_default=False)],
    ctx: Annotated[int, typer.Option(help="Tokens of a window; the second half of each is scored.")] = 512,
    chunks: Annotated[int | None, typer.Option(help="Use only the first so many windows.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all CPUs.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw divergence against bits per weight into this file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure how far models are from their baseline on a text: KL divergence, agreement, perplexity.

    The definitions are those of llama-perplexity --kl-divergence.

    Example: `blockquant compare tales-f16.gguf tales-Q4_K_M.gguf tales-Q2_K.gguf --text eval.txt --chunks 40`
    """
    import blockquant as bq
    from blockquant.cli.figures import finite
    from blockquant.cli.progress import bar
    from blockquant.cli.texts import read_text
    from blockquant.transformer.compare import compare_all

    if plot is not None:
        _check_plot(plot)
    if threads is not None:
        bq.set_num_threads(threads)
    content = read_text(text)
    start = time.perf_counter()
    with bar("comparing", unit="windows") as progress:
        results = compare_all(list(models), baseline, content, ctx, chunks, progress)
    seconds = time.perf_counter() - start
    if plot is not None:
        _draw(plot, baseline, models, results)
    if as_json:
        rows = [{"model": str(model), **finite(result)} for model, result in zip(models, results, strict=True)]
        print(json.dumps({"baseline": str(baseline), "text": str(text), "models": rows, "seconds": round(seconds, 3)}))
    else:
        _show(baseline, models, results, seconds)


def _show(baseline: Path, models: Sequence[Path], results: Sequence[Comparison], seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    title = (
        f"against {baseline.name}: {first['windows']} windows of {first['n_ctx']}, {first['tokens']} tokens scored, "
        f"perplexity {first['ppl_baseline']:.4f}"
    )
    table = Table(title=title, title_justify="left")
    for heading in (
        "model",
        "bits per weight",
        "KL divergence",
        "median",
        "99 %",
        "same top token",
        "perplexity ratio",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model, r in zip(models, results, strict=True):
        table.add_row(
            model.name,
            f"{r['bits_per_weight']:.2f}",
            f"{r['kld_mean']:.6f} ± {r['kld_stderr']:.6f}",
            f"{r['kld_median']:.6f}",
            f"{r['kld_p99']:.4f}",
            f"{100 * r['top1_agreement']:.2f} ± {100 * r['top1_stderr']:.2f} %",
            f"{r['ppl_ratio']:.4f} ± {r['ppl_ratio_stderr']:.4f}",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file or a pipe: do not wrap
    console.print(table)
    console.print(f"{seconds:.1f} s", highlight=False)


def _check_plot(path: Path) -> None:
    """Fail before the work rather than after it."""
    import importlib.util

    from blockquant.errors import MissingExtraError

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: {path.parent} is not a directory")


def _draw(path: Path, baseline: Path, models: Sequence[Path], results: Sequence[Comparison]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5))
    points = sorted(
        (r["bits_per_weight"], r["kld_mean"], r["kld_stderr"], m.stem) for m, r in zip(models, results, strict=True)
    )
    bits, divergence, errors, names = zip(*points, strict=True)
    axis.errorbar(bits, divergence, yerr=errors, fmt="o", capsize=3)
    common = _common_start([baseline.stem, *names])
    for x, y, name in zip(bits, divergence, names, strict=True):
        axis.annotate(name[common:] or name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    if min(divergence) > 0:
        axis.set_yscale("log")
    axis.margins(x=0.12)
    axis.set_xlabel("bits per weight")
    axis.set_ylabel("mean KL divergence, nats")
    axis.set_title(f"Divergence from {baseline.name} ({results[0]['tokens']} tokens)", loc="left", fontsize=11)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _common_start(names: Sequence[str]) -> int:
    """Characters of the longest common beginning that ends with a dash or a dot."""
    shortest = min(map(len, names))
    same = next((i for i in range(shortest) if len({name[i] for name in names}) > 1), shortest)
    return max(names[0].rfind(mark, 0, same) for mark in "-.") + 1
