"""Decoding to float32, float16 and bfloat16: every format on every instruction set, beside ggml and gguf-py.

All sides decode the same blocks in turn; medians are shown, in GB/s of floats written. "of write" is the best
instruction set's rate as a share of what the memory takes (the faster of ordinary stores and of those that bypass the
cache, on as many bytes, in the same rounds). ggml and gguf-py decode to float32 only. Example:

    python bench/decode.py --formats Q4_K --dtypes f32 --threads 1 --isa avx2
"""

from __future__ import annotations

from functools import partial

import blockquant as bq
import numpy as np
from bandwidth import Workers, aligned, fills
from timing import Call, Choices, bar_chart, cell, in_turn, option_parser, parse, record, table, where

ROWS, K = 4096, 4096  # 64 MB of float32, beyond the caches
GGUF_ROWS = 64
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def blocks(name: str) -> bq.QuantizedTensor:
    """ROWS rows of blocks, of which only a few differ: encoding is not what is measured."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((16, K)) * 0.03).astype(np.float32)
    imatrix = rng.random(K).astype(np.float32) if bq.formats[name].needs_imatrix else None
    return bq.QuantizedTensor(np.tile(bq.quantize(x, name, imatrix=imatrix).data, (ROWS // 16, 1)), name)


def ours(isa: str, q: bq.QuantizedTensor, dtype: str, out: np.ndarray, threads: int) -> None:
    """Decode on one instruction set."""
    bq.set_isa(isa)
    q.dequantize(DTYPES[dtype], out=out, threads=threads)


def output(dtype: str) -> np.ndarray:
    """An array [ROWS, K] on a page of its own."""
    if dtype == "bf16":
        import ml_dtypes

        kind = np.dtype(ml_dtypes.bfloat16)
    else:
        kind = np.dtype(np.float32 if dtype == "f32" else np.float16)
    return aligned(ROWS * K * kind.itemsize).view(kind).reshape(ROWS, K)


def gguf_rate(q: bq.QuantizedTensor, seconds: float) -> float | None:
    """gguf-py's GB/s, where it has a decoder (of F32 it makes a view)."""
    if q.format == "F32":
        return None
    try:
        import gguf

        kind = gguf.GGMLQuantizationType[q.format.name]
        gguf.quants.dequantize(q.data[:1], kind)
    except (ImportError, KeyError, NotImplementedError):
        return None
    taken = in_turn({"gguf": partial(gguf.quants.dequantize, q.data[:GGUF_ROWS], kind)}, seconds / 5, 1)
    return GGUF_ROWS * K * 4 / 1e9 / taken["gguf"]


def measure(name: str, dtype: str, threads: int, choices: Choices, workers: Workers) -> dict[str, float]:
    """GB/s of every side, and "of write" in percent."""
    q = blocks(name)
    f = q.format
    out = output(dtype)
    calls: dict[str, Call] = {isa: partial(ours, isa, q, dtype, out, threads) for isa in choices.isas}
    ggml = choices.ggml
    if ggml is not None and dtype == "f32" and name != "F32":
        calls["ggml"] = lambda: workers.run(
            ROWS, lambda begin, end: ggml.dequantize(f.ggml_type, q.data[begin:end], out[begin:end])
        )
    ways = fills(out.nbytes, workers)
    calls |= ways
    taken = in_turn(calls, choices.seconds)
    gb = out.nbytes / 1e9
    figures = {side: gb / taken[side] for side in calls if side not in ways}
    figures["write"] = gb / min(taken[way] for way in ways)
    figures["of write"] = 100 * max(figures[isa] for isa in choices.isas) / figures["write"]
    if dtype == "f32" and (rate := gguf_rate(q, choices.seconds)) is not None:
        figures["gguf"] = rate
    return figures


def main() -> None:
    """Measure what was asked for; print, draw or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--dtypes", default="f32,f16,bf16", help="comma-separated outputs: f32, f16, bf16")
    choices = parse(parser, include_float=True)
    dtypes = choices.args.dtypes.split(",")
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for threads in choices.threads:
        workers = Workers(threads)
        for dtype in dtypes:
            compared = dtype == "f32"
            header = ["format", *choices.isas, *(["ggml", "ratio", "gguf-py", "ratio"] if compared else [])]
            header += ["write", "of write"]
            rows = []
            series: dict[str, dict[str, float]] = {}
            for name in choices.formats:
                got = measure(name, dtype, threads, choices, workers)
                best = max(got[isa] for isa in choices.isas)
                row = [name, *(cell(got[isa]) for isa in choices.isas)]
                for side in ("ggml", "gguf") if compared else ():
                    row += [cell(got.get(side), 2), cell(best / got[side] if side in got else None, 2)]
                rows.append([*row, cell(got["write"]), cell(got["of write"], 0, " %")])
                print(" ".join(value.rjust(9) for value in rows[-1]), flush=True)
                for side in (*choices.isas, "ggml", "gguf"):
                    if side in got:
                        series.setdefault(side, {})[name] = got[side]
            body = f"### Decode to {dtype}, GB/s written\n\n{where(threads, choices.ggml)}\n\n{table(header, rows)}"
            print("\n" + body, end="\n\n", flush=True)
            panels[f"{dtype}, {threads} thread(s)"] = series
            if choices.write:
                record(f"decode {dtype} {threads}", body)
    if choices.plot:
        bar_chart(choices.plot, "Decoding", "GB/s written", panels)


if __name__ == "__main__":
    main()
