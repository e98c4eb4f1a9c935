"""x @ W.T: every format, instruction set and number of activation rows, beside llama.cpp.

All sides do the same product in turn; medians are shown. Up to 8 rows the weights are larger than the caches and the
figure is GB/s of weights, from there on it is 10^9 operations a second (two for each weight and row). "of limit" is the
share of the best instruction set in what the machine reads from memory, or in its int8 peak (its float32 peak for float
weights), measured beside it. ggml is ggml_mul_mat; "repacked" the same with the weights laid out as llama.cpp does on
loading a model, for the formats where it does. Examples:

    python bench/matmul.py --formats Q4_K --rows 1,512 --threads 1
    python bench/matmul.py --shapes qwen3-0.6b --quick
"""

from __future__ import annotations

from functools import partial

import blockquant as bq
import numpy as np
from ggml_native import Ggml
from peak import peaks
from timing import Call, bar_chart, cell, in_turn, option_parser, parse, record, table, where

SHAPES = {  # weights [N, K]: attention output, feed-forward up and down
    "square": [(4096, 4096)],
    "qwen3-0.6b": [(1024, 2048), (3072, 1024), (1024, 3072)],
    "llama-3.2-1b": [(2048, 2048), (8192, 2048), (2048, 8192)],
    "phi-4-mini": [(3072, 3072), (16384, 3072), (3072, 8192)],
    "llama-3-8b": [(4096, 4096), (14336, 4096), (4096, 14336)],
}
ROWS = (1, 2, 4, 8, 32, 128, 512)
BEYOND_CACHES = 192 << 20  # bytes of weights for few rows
DISTINCT_ROWS = 64  # quantizing whole matrices would take longer than multiplying them

Figures = dict[str, float]


def weights(name: str, n: int, k: int) -> np.ndarray:
    """Bytes [n, row_bytes] of gaussian weights, a few rows again and again."""
    f = bq.formats[name]
    x = (np.random.default_rng(0).standard_normal((DISTINCT_ROWS, k)) * 0.03).astype(np.float32)
    data = bq.quantize(x, name, imatrix=np.ones(k, np.float32) if f.needs_imatrix else None).data
    return np.ascontiguousarray(np.tile(data, (-(-n // DISTINCT_ROWS), 1))[:n])


def ours(isa: str, x: np.ndarray, w: bq.QuantizedTensor, out: np.ndarray, threads: int) -> None:
    """Multiply on one instruction set."""
    bq.set_isa(isa)
    bq.matmul(x, w, out=out, threads=threads)


def measure(
    name: str, n: int, k: int, m: int, isas: list[str], threads: int, ggml: Ggml | None, seconds: float
) -> Figures:
    """Figures by side: instruction sets, "ggml", "repacked", and "limit"."""
    f = bq.formats[name]
    few = m <= 8
    if few:
        n = max(n, BEYOND_CACHES // f.row_bytes(k) // 64 * 64)
    data = weights(name, n, k)
    w = bq.QuantizedTensor(data, name)
    x = np.random.default_rng(m).standard_normal((m, k), np.float32)
    out = np.empty((m, n), np.float32)
    calls: dict[str, Call] = {isa: partial(ours, isa, x, w, out, threads) for isa in isas}
    graphs = {}
    if ggml is not None:
        graphs["ggml"] = ggml.mul_mat(f.ggml_type, data, x)
        if (repacked := ggml.mul_mat(f.ggml_type, data, x, repack=True)) is not None:
            graphs["repacked"] = repacked
        calls |= {side: partial(graph.run, threads) for side, graph in graphs.items()}
    before = peaks(threads)
    taken = in_turn(calls, seconds)
    after = peaks(threads)
    for graph in graphs.values():
        error = np.abs(out - graph.result()).max() / np.abs(out).max()
        assert error < 0.05, (name, error)
        graph.close()
    work = data.nbytes / 1e9 if few else 2.0 * m * n * k / 1e9
    figures = {side: work / spent for side, spent in taken.items()}
    peak = "fma" if f.is_float else "vnni" if isas[-1].startswith("avx512") else "maddubs"
    limit = {"read": 1.0} if few else {peak: float(threads)}
    for what, times in limit.items():
        if what in before:
            figures["limit"] = times * max(before[what], after[what])
    return figures


def main() -> None:
    """Measure what was asked for; print, plot or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--shapes", default="square", help=f"comma-separated: {', '.join(SHAPES)}")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="comma-separated numbers of activation rows")
    chosen = parse(parser, include_float=True)
    shapes = [name for name in chosen.args.shapes.split(",") if name]
    if unknown := [name for name in shapes if name not in SHAPES]:
        parser.error(f"unknown shapes {unknown[0]}; choose from {', '.join(SHAPES)}")
    rows = [int(m) for m in chosen.args.rows.split(",") if m]
    if not chosen.args.isa and len(chosen.isas) > 1:
        chosen.isas.remove("baseline")  # plain loops: minutes a table
    charts: dict[str, dict[str, dict[str, float]]] = {}
    for threads in chosen.threads:
        for shape in shapes:
            for n, k in SHAPES[shape]:
                for m in rows:
                    sides = [*chosen.isas, *(["ggml", "repacked"] if chosen.ggml else [])]
                    lines = []
                    unit = "GB/s of weights" if m <= 8 else "10^9 operations/s"
                    title = f"{shape} [{n}, {k}], rows {m}, threads {threads}"
                    for name in chosen.formats:
                        if k % bq.formats[name].block_size:
                            continue
                        got = measure(name, n, k, m, chosen.isas, threads, chosen.ggml, chosen.seconds)
                        best = got[chosen.isas[-1]]
                        ratio = best / max(got.get("ggml", 0), got.get("repacked", 0)) if "ggml" in got else None
                        share = 100 * best / got["limit"] if "limit" in got else None
                        lines.append([name, *(cell(got.get(s)) for s in sides), cell(ratio, 2), cell(share, 0, " %")])
                        for side in sides:
                            if side in got:
                                charts.setdefault(f"{title}, {unit}", {}).setdefault(side, {})[name] = got[side]
                    header = ["format", *sides, "ratio", "of limit"]
                    body = f"### {title}: {unit}\n\n{where(threads, chosen.ggml)}\n\n{table(header, lines)}"
                    print(body, end="\n\n", flush=True)
                    if chosen.write:
                        record(f"matmul {n} {k} {m} {threads} {chosen.isas[-1]}", body)
    if chosen.plot:
        bar_chart(chosen.plot, "x @ W.T", "", charts)


if __name__ == "__main__":
    main()
