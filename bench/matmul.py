"""x @ W.T: every format, instruction set and number of activation rows, beside llama.cpp.

All sides do the same product in turn; medians are shown. Up to 8 rows the weights are larger than the caches and the
figure is GB/s of weights, from there on it is 10^9 operations a second (two for each weight and row). "of limit" is the
share of the best instruction set in what the machine reads from memory, or in its int8 peak (for float weights its
float32 peak, or that of AVX-512 BF16), measured beside it. ggml is ggml_mul_mat; "repacked" the same with the weights
laid out as llama.cpp does on loading a model, for the formats where it does. Examples:

    python bench/matmul.py --formats Q4_K --threads 1
    python bench/matmul.py --shapes qwen3-0.6b --rows 1,2,4,8,32,128,512 --quick
    python bench/matmul.py --rows 1,8,512 --roofline roofline.png

For the shapes of a model a last table puts its matrices together: the tokens a second that its layers would allow if
they were nothing but these products. With several thread counts "scaling" is the figure over that of the first one.
"""

from __future__ import annotations

from functools import partial

import blockquant as bq
import numpy as np
from ggml_native import Ggml
from peak import peaks
from timing import Call, bar_chart, cell, in_turn, option_parser, parse, record, table, where

# Layers, and for each of their matrices [N, K] how many a layer has: attention query and output, key and value,
# feed-forward gate and up, and down.
SHAPES: dict[str, tuple[int, list[tuple[int, int, int]]]] = {
    "square": (1, [(4096, 4096, 1)]),
    "qwen3-0.6b": (28, [(2048, 1024, 1), (1024, 2048, 1), (1024, 1024, 2), (3072, 1024, 2), (1024, 3072, 1)]),
    "llama-3.2-1b": (16, [(2048, 2048, 2), (512, 2048, 2), (8192, 2048, 2), (2048, 8192, 1)]),
    "phi-4-mini": (32, [(3072, 3072, 2), (1024, 3072, 2), (8192, 3072, 2), (3072, 8192, 1)]),
    "llama-3-8b": (32, [(4096, 4096, 2), (1024, 4096, 2), (14336, 4096, 2), (4096, 14336, 1)]),
}
ROWS = (1, 512)
FEW = 8  # rows up to which the weights are larger than the caches
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
    few = m <= FEW
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
    if f.is_float:
        peak = "bf16" if name == "BF16" and isas[-1] == "avx512_bf16" else "fma"
    else:
        peak = "vnni" if isas[-1].startswith("avx512") else "maddubs"
    limit = {"read": 1.0} if few else {peak: float(threads)}
    for what, times in limit.items():
        if what in before:
            figures["limit"] = times * max(before[what], after[what])
    return figures


def seconds(name: str, n: int, k: int, m: int, figure: float) -> float:
    """What one product takes, from its figure."""
    work = n * bq.formats[name].row_bytes(k) if m <= FEW else 2.0 * m * n * k
    return work / (figure * 1e9)


def operations(name: str, k: int, m: int, figure: float) -> tuple[float, float]:
    """Operations for each byte of weights, and 10^9 operations a second."""
    intensity = 2.0 * m * k / bq.formats[name].row_bytes(k)
    return intensity, figure * intensity if m <= FEW else figure


def draw_roofline(path: str, points: dict[str, list[tuple[float, float]]], roofs: dict[str, float]) -> None:
    """Points of each format below the roofs: bytes read, int8 or float32 operations. Needs matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--roofline needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 6.5))
    every = [x for line in points.values() for x, _ in line]
    ends = np.array([min(every) / 2, max(every) * 2])
    axis.plot(ends, ends * roofs["read"], "k-", lw=1, label=f"memory, {roofs['read']:.0f} GB/s")
    for what in ("vnni", "maddubs", "bf16", "fma"):
        if what in roofs:
            axis.axhline(roofs[what], color="k", lw=1, ls="--")
            axis.text(ends[1], roofs[what], f" {what}", va="center", fontsize=8)
    markers = "osv^<>DPX*"
    for i, (name, line) in enumerate(points.items()):
        axis.plot(*zip(*line, strict=True), markers[i % len(markers)], ms=5, color=f"C{i % 10}", label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations for each byte of weights")
    axis.set_ylabel("10^9 operations a second")
    axis.legend(fontsize=7, ncols=3)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure what was asked for; print, plot or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--shapes", default="square", help=f"comma-separated: {', '.join(SHAPES)}")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="comma-separated numbers of activation rows")
    parser.add_argument("--roofline", metavar="FILE", help="draw operations a second over operations a byte")
    chosen = parse(parser, include_float=True)
    shapes = [name for name in chosen.args.shapes.split(",") if name]
    if unknown := [name for name in shapes if name not in SHAPES]:
        parser.error(f"unknown shapes {unknown[0]}; choose from {', '.join(SHAPES)}")
    rows = [int(m) for m in chosen.args.rows.split(",") if m]
    if not chosen.args.isa and len(chosen.isas) > 1:
        chosen.isas.remove("baseline")  # plain loops: minutes a table
    charts: dict[str, dict[str, dict[str, float]]] = {}
    points: dict[str, list[tuple[float, float]]] = {}
    first: dict[tuple[str, int, int, int], float] = {}  # the figures of the first thread count
    for threads in chosen.threads:
        sides = [*chosen.isas, *(["ggml", "repacked"] if chosen.ggml else [])]
        best = chosen.isas[-1]
        for shape in shapes:
            layers, matrices = SHAPES[shape]
            for m in rows:
                layer: dict[str, dict[str, float]] = {}  # seconds by format and side
                for n, k, count in matrices:
                    lines = []
                    unit = "GB/s of weights" if m <= FEW else "10^9 operations/s"
                    title = f"{shape} [{n}, {k}], rows {m}, threads {threads}"
                    for name in chosen.formats:
                        if k % bq.formats[name].block_size:
                            continue
                        got = measure(name, n, k, m, chosen.isas, threads, chosen.ggml, chosen.seconds)
                        theirs = max(got.get("ggml", 0), got.get("repacked", 0))
                        ratio = got[best] / theirs if theirs else None
                        share = 100 * got[best] / got["limit"] if "limit" in got else None
                        one = first.setdefault((name, n, k, m), got[best])
                        scaling = got[best] / one if threads != chosen.threads[0] else None
                        line = [name, *(cell(got.get(s)) for s in sides), cell(ratio, 2), cell(share, 0, " %")]
                        lines.append([*line, cell(scaling, 2)])
                        for side in sides:
                            if side in got:
                                charts.setdefault(f"{title}, {unit}", {}).setdefault(side, {})[name] = got[side]
                        points.setdefault(name, []).append(operations(name, k, m, got[best]))
                        spent = layer.setdefault(name, {"ours": 0.0, "llama.cpp": 0.0})
                        spent["ours"] += count * seconds(name, n, k, m, got[best])
                        if theirs:
                            spent["llama.cpp"] += count * seconds(name, n, k, m, theirs)
                    header = ["format", *sides, "ratio", "of limit", "scaling"]
                    if threads == chosen.threads[0]:
                        header, lines = header[:-1], [line[:-1] for line in lines]
                    body = f"### {title}: {unit}\n\n{where(threads, chosen.ggml)}\n\n{table(header, lines)}"
                    print(body, end="\n\n", flush=True)
                    if chosen.write:
                        record(f"matmul {n} {k} {m} {threads} {best}", body)
                if len(matrices) > 1:
                    lines = []
                    for name, spent in layer.items():
                        speeds = {side: m / (layers * s) if s else None for side, s in spent.items()}
                        lines.append([name, *map(cell, speeds.values())])
                    title = f"{shape}, rows {m}, threads {threads}: tokens-equivalent a second"
                    body = f"### {title}\n\n{where(threads, chosen.ggml)}\n\n"
                    body += table(["format", "ours", "llama.cpp"], lines)
                    print(body, end="\n\n", flush=True)
                    if chosen.write:
                        record(f"matmul {shape} {m} {threads} {best}", body)
    if chosen.args.roofline:
        limits = peaks(chosen.threads[-1])
        if not limits:
            parser.error("--roofline needs a C++ compiler to measure the peaks")
        roofs = {what: rate * (1 if what == "read" else chosen.threads[-1]) for what, rate in limits.items()}
        draw_roofline(chosen.args.roofline, points, roofs)
    if chosen.plot:
        bar_chart(chosen.plot, "x @ W.T", "", charts)


if __name__ == "__main__":
    main()
