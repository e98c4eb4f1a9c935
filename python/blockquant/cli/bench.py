"""`blockquant bench`: how fast this machine encodes, decodes, multiplies and runs a model."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import blockquant as bq


class What(Enum):
    """What to measure."""

    encode = "encode"
    decode = "decode"
    matmul = "matmul"
    model = "model"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="bench")(bench)


def bench(
    what: Annotated[What, typer.Argument(help="encode, decode, matmul or model.")],
    model: Annotated[Path | None, typer.Option(help="GGUF file, for `model`.")] = None,
    formats: Annotated[str, typer.Option(help="Formats, separated by commas; default: all.")] = "",
    threads: Annotated[int | None, typer.Option(help="Threads; default: all CPUs of this process.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each figure.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure this machine. For comparisons with llama.cpp see bench/ in the repository.

    Example: blockquant bench matmul --threads 1
    """
    if threads is not None:
        bq.set_num_threads(threads)
    if what is What.model:
        if model is None:
            raise ValueError("`bench model` needs a file: --model MODEL.gguf")
        rows = [_model(model)]
    else:
        names = [name.strip() for name in formats.split(",") if name.strip()]
        ready = [f.name for f in bq.formats.values() if f.implemented and not f.is_float]
        for name in names:
            if name not in ready:
                raise ValueError(f"unknown or unfinished format {name!r}; choose from {', '.join(ready)}")
        measure = {What.encode: _encode, What.decode: _decode, What.matmul: _matmul}[what]
        rows = [{"format": name, **measure(name, seconds)} for name in names or ready]
    if as_json:
        print(json.dumps({"cpu": bq.cpu_info(), "rows": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    info = bq.cpu_info()
    table = Table(title=f"{what.value}: {info['isa']}, {info['threads']} threads", title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for row in rows:
        cells = ("" if value is None else value for value in row.values())
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else str(value) for value in cells))
    Console().print(table)


def _median(call: Callable[[], object], seconds: float) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _gaussian(rows: int, k: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(0).standard_normal((rows, k)) * 0.03).astype(np.float32)


def _quantized(x: np.ndarray[Any, np.dtype[np.float32]], name: str) -> bq.QuantizedTensor:
    """x in a format, with importance where it needs it."""
    ones = np.ones(x.shape[-1], np.float32) if bq.formats[name].needs_imatrix else None
    return bq.quantize(x, name, imatrix=ones)


def _encode(name: str, seconds: float) -> dict[str, float | None]:
    x = _gaussian(128, 4096)
    weights = np.abs(_gaussian(1, 4096))[0]
    million = x.size / 1e6
    needs = bq.formats[name].needs_imatrix
    return {
        "million weights/s": None if needs else million / _median(lambda: bq.quantize(x, name), seconds),
        "with imatrix": million / _median(lambda: bq.quantize(x, name, imatrix=weights), seconds),
    }


def _decode(name: str, seconds: float) -> dict[str, float | None]:
    q = _quantized(_gaussian(64, 4096), name)
    q = bq.QuantizedTensor(np.tile(q.data, (16, 1)), name)
    out = np.empty(q.shape, np.float32)
    half = np.empty(q.shape, np.float16)
    return {
        "float32 GB/s": out.nbytes / 1e9 / _median(lambda: q.dequantize(out=out), seconds),
        "float16 GB/s": half.nbytes / 1e9 / _median(lambda: q.dequantize(np.float16, out=half), seconds),
    }


def _matmul(name: str, seconds: float) -> dict[str, float | None]:
    q = _quantized(_gaussian(64, 4096), name)
    q = bq.QuantizedTensor(np.tile(q.data, (64, 1)), name)
    result: dict[str, float | None] = {}
    for m in (1, 8, 128):
        x = _gaussian(m, 4096)
        out = np.empty((m, 4096), np.float32)
        taken = _median(lambda x=x, out=out: bq.matmul(x, q, out=out), seconds)  # type: ignore[misc]
        if m == 1:
            result["1 row, GB/s of weights"] = q.nbytes / 1e9 / taken
        else:
            result[f"{m} rows, GMAC/s"] = m * q.size / 1e9 / taken
    return result


def _model(path: Path) -> dict[str, Any]:
    began = time.perf_counter()
    model = bq.Model.open(path)
    opened = time.perf_counter() - began
    tokens = 64
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, min(1000, model.n_vocab), 128)]
    session = model.session(len(prompt) + tokens)
    began = time.perf_counter()
    logits = session.eval(prompt)
    prompt_time = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(tokens):
        logits = session.eval([int(logits.argmax())])
    generated = time.perf_counter() - began
    return {
        "format": path.name,
        "open, ms": opened * 1e3,
        "prompt tokens/s": len(prompt) / prompt_time,
        "generated tokens/s": tokens / generated,
    }
