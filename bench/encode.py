"""Encoding: every format on every instruction set and thread count, beside ggml and gguf-py.

All sides encode the same rows in turn; medians are shown, in million weights per second. "of copy" is the traffic of
the best instruction set, floats read and blocks written, as a share of what copying the same floats moves in the same
time, measured in the same rounds. Example:

    python bench/encode.py --formats Q4_K,Q6_K --isa avx2 --threads 1
"""

from __future__ import annotations

import time
from functools import partial

import blockquant as bq
import numpy as np
from bandwidth import Workers, copies
from ggml_native import Ggml
from timing import Call, bar_chart, cell, in_turn, option_parser, parse, record, table, where

K = 4096
ROWS = (64, 256, 2048)  # the more, the faster the format: up to 32 MB of floats, beyond the caches
GGUF_ROWS = 32

Figures = dict[str, float]  # by side: instruction sets, "ggml", "gguf", "copy"


def gaussian(rows: int) -> np.ndarray:
    """Weights-like float32 [rows, K]."""
    return (np.random.default_rng(0).standard_normal((rows, K), np.float32) * np.float32(0.03)).astype(np.float32)


def ours(isa: str, x: np.ndarray, name: str, imatrix: np.ndarray | None, threads: int, out: np.ndarray) -> None:
    """Encode on one instruction set."""
    bq.set_isa(isa)
    bq.quantize(x, name, imatrix=imatrix, threads=threads, out=out)


def theirs(ggml: Ggml, kind: int, x: np.ndarray, out: np.ndarray, imatrix: np.ndarray | None, workers: Workers) -> None:
    """ggml_quantize_chunk over the rows, shared among threads as llama-quantize does."""
    workers.run(len(x), lambda begin, end: ggml.quantize(kind, x[begin:end], out[begin:end], imatrix))


def gguf_call(name: str, x: np.ndarray) -> Call | None:
    """gguf-py's encoder, where it has one."""
    try:
        import gguf

        kind = gguf.GGMLQuantizationType[name]
        gguf.quants.quantize(x[:1], kind)
    except (ImportError, KeyError, NotImplementedError):
        return None
    return partial(gguf.quants.quantize, x, kind)


def measure(
    name: str,
    isas: list[str],
    threads: int,
    ggml: Ggml | None,
    x: np.ndarray,
    imatrix: np.ndarray | None,
    seconds: float,
    workers: Workers,
) -> Figures:
    """Million weights per second of every side, and the share of copy bandwidth of the best ("of copy", percent)."""
    f = bq.formats[name]
    out = np.zeros((len(x), f.row_bytes(K)), np.uint8)
    began = time.perf_counter()
    ours(isas[-1], x[: ROWS[0]], name, imatrix, threads, out[: ROWS[0]])
    rate = ROWS[0] * K / (time.perf_counter() - began)
    rows = next((n for n in reversed(ROWS) if n * K / rate < 0.1), ROWS[0])
    x, out = x[:rows], out[:rows]
    calls: dict[str, Call] = {isa: partial(ours, isa, x, name, imatrix, threads, out) for isa in isas}
    if ggml is not None:
        calls["ggml"] = partial(theirs, ggml, f.ggml_type, x, out, imatrix, workers)
    ways = copies(x.nbytes, workers)
    calls |= ways
    taken = in_turn(calls, seconds)
    million = x.size / 1e6
    figures = {side: million / taken[side] for side in calls if side not in ways}
    copying = min(taken[way] for way in ways)
    moved = (x.nbytes + rows * f.row_bytes(K)) / (2 * x.nbytes)
    figures["of copy"] = 100 * moved * copying / min(taken[isa] for isa in isas)
    if imatrix is None and (call := gguf_call(name, x[:GGUF_ROWS])) is not None:
        figures["gguf"] = GGUF_ROWS * K / 1e6 / in_turn({"gguf": call}, seconds / 5, 1)["gguf"]
    return figures


def main() -> None:
    """Measure what was asked for; print, draw or record it."""
    choices = parse(option_parser(__doc__), include_float=False)
    x = gaussian(ROWS[-1])
    importance = np.random.default_rng(1).random(K).astype(np.float32)
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for threads in choices.threads:
        workers = Workers(threads)
        for kind, imatrix in (("plain", None), ("imatrix", importance)):
            header = ["format", *choices.isas, "ggml", "ratio", "gguf-py", "of copy"]
            rows = []
            series: dict[str, dict[str, float]] = {}
            for name in choices.formats:
                if imatrix is None and bq.formats[name].needs_imatrix:
                    continue
                got = measure(name, choices.isas, threads, choices.ggml, x, imatrix, choices.seconds, workers)
                best = max(got[isa] for isa in choices.isas)
                ratio = best / got["ggml"] if "ggml" in got else None
                row = [name, *(cell(got[isa]) for isa in choices.isas), cell(got.get("ggml")), cell(ratio, 2)]
                rows.append([*row, cell(got.get("gguf")), cell(got["of copy"], 0, " %")])
                print(" ".join(value.rjust(9) for value in rows[-1]), flush=True)
                for side in (*choices.isas, "ggml", "gguf"):
                    if side in got:
                        series.setdefault(side, {})[name] = got[side]
            title = f"Encode, {'with an imatrix' if imatrix is not None else 'plain'}, million weights per second"
            body = f"### {title}\n\n{where(threads, choices.ggml)}\n\n{table(header, rows)}"
            print("\n" + body, end="\n\n", flush=True)
            panels[f"{kind}, {threads} thread(s)"] = series
            if choices.write:
                record(f"encode {kind} {threads}", body)
    if choices.plot:
        bar_chart(choices.plot, "Encoding", "million weights / s", panels)


if __name__ == "__main__":
    main()
