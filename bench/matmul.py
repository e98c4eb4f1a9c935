"""x @ W.T: every format, instruction set and number of activation rows, beside llama.cpp.

All sides do the same product in turn; medians are shown. "packed" are weights that `bq.pack` laid out. Up to 8 rows the
weights are larger than the caches and the figure is GB/s of weights, from there on it is 10^9 operations a second (two
for each weight and row). ggml is ggml_mul_mat; "repacked" the same with the weights laid out as llama.cpp does it on
loading a model, for the formats where it does. "ratio" and "of limit" take the better layout of either side: the ratio
to llama.cpp, and the share in what the machine reads from memory, or in its int8 peak (for float weights in its float32
peak, or in that of products of bfloat16), measured beside it. Examples:

    python bench/matmul.py --formats Q4_K --threads 1
    python bench/matmul.py --shapes qwen3-0.6b,llama-3-8b --rows 1,2,4,8,32,128,512 --threads 2
    python bench/matmul.py --rows 1,8,512 --roofline roofline.png

For the shapes of a model one table puts all its matrices together: the tokens a second that its layers would allow if
they were nothing but these products, the ratio to llama.cpp's and the share of the limit. With several thread counts
"scaling" is the figure over that of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import blockquant as bq
import numpy as np
from ggml_native import Ggml
from peak import peaks
from timing import Call, Choices, bar_chart, cell, in_turn, option_parser, parse, record, table, where

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

# By side: the instruction sets, the same and " packed", "ggml", "repacked", and "limit".
Figures = dict[str, float]
OURS, THEIRS = "ours", "llama.cpp"  # the better layout of either


def weights(name: str, n: int, k: int) -> np.ndarray:
    """Bytes [n, row_bytes] of gaussian weights, a few rows again and again."""
    f = bq.formats[name]
    x = (np.random.default_rng(0).standard_normal((DISTINCT_ROWS, k)) * 0.03).astype(np.float32)
    data = bq.quantize(x, name, imatrix=np.ones(k, np.float32) if f.needs_imatrix else None).data
    return np.ascontiguousarray(np.tile(data, (-(-n // DISTINCT_ROWS), 1))[:n])


def ours(isa: str, x: np.ndarray, w: bq.QuantizedTensor | bq.PackedWeight, out: np.ndarray, threads: int) -> None:
    """Multiply on one instruction set."""
    bq.set_isa(isa)
    bq.matmul(x, w, out=out, threads=threads)


def our_calls(isas: list[str], x: np.ndarray, w: bq.QuantizedTensor, out: np.ndarray, threads: int) -> dict[str, Call]:
    """Each instruction set with weights as they are stored, and packed where it lays them out."""
    calls: dict[str, Call] = {}
    for isa in isas:
        bq.set_isa(isa)
        calls[isa] = partial(ours, isa, x, w, out, threads)
        packed = bq.pack(w, rows=2)  # also where one row does not gain
        if "strips" in repr(packed):
            calls[f"{isa} packed"] = partial(ours, isa, x, packed, out, threads)
    return calls


def peak_of(name: str, isa: str, known: Mapping[str, float]) -> str:
    """Which of the peaks bounds products of many rows."""
    if name == "BF16" and isa.endswith("bf16") and "bf16" in known:
        return "bf16"
    if bq.formats[name].is_float:
        return "fma"
    return "vnni" if isa.startswith("avx512") else "maddubs"


def measure(
    name: str,
    n: int,
    k: int,
    m: int,
    isas: list[str],
    threads: int,
    ggml: Ggml | None,
    seconds: float,
    known: Mapping[str, float] | None = None,
) -> Figures:
    """Figures by side; with the peaks already known, twice in turn instead of three times and more."""
    f = bq.formats[name]
    few = m <= FEW
    if few:
        n = max(n, BEYOND_CACHES // f.row_bytes(k) // 64 * 64)
    data = weights(name, n, k)
    x = np.random.default_rng(m).standard_normal((m, k), np.float32)
    out = np.empty((m, n), np.float32)
    calls = our_calls(isas, x, bq.QuantizedTensor(data, name), out, threads)
    graphs = {}
    if ggml is not None:
        graphs["ggml"] = ggml.mul_mat(f.ggml_type, data, x)
        if (repacked := ggml.mul_mat(f.ggml_type, data, x, repack=True)) is not None:
            graphs["repacked"] = repacked
        calls |= {side: partial(graph.run, threads) for side, graph in graphs.items()}
    before = known or peaks(threads)
    taken = in_turn(calls, seconds, 2 if known else 3, settle=0.01 if threads > 1 else 0.0)
    after = known or peaks(threads)
    for graph in graphs.values():
        error = np.abs(out - graph.result()).max() / np.abs(out).max()
        assert error < 0.05, (name, error)
        graph.close()
    work = data.nbytes / 1e9 if few else 2.0 * m * n * k / 1e9
    figures = {side: work / spent for side, spent in taken.items()}
    figures[OURS] = max(figures[isas[-1]], figures.get(f"{isas[-1]} packed", 0.0))
    if graphs:
        figures[THEIRS] = max(figures[side] for side in graphs)
    limit = {"read": 1.0} if few else {peak_of(name, isas[-1], before): float(threads)}
    for what, times in limit.items():
        if what in before:
            figures["limit"] = times * max(before[what], after[what])
    return figures


def seconds(name: str, n: int, k: int, m: int, figure: float) -> float:
    """What one product takes, from its figure."""
    work = n * bq.formats[name].row_bytes(k) if m <= FEW else 2.0 * m * n * k
    return work / (figure * 1e9)


def over(got: Figures, side: str, factor: float = 1.0) -> float | None:
    """Our figure over another one."""
    return factor * got[OURS] / got[side] if side in got else None


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


class Report:
    """What has been measured, printed and recorded table by table."""

    def __init__(self, chosen: Choices) -> None:
        self.chosen = chosen
        self.charts: dict[str, dict[str, dict[str, float]]] = {}
        self.points: dict[str, list[tuple[float, float]]] = {}  # of the roofline
        self.first: dict[tuple[str, int, int, int], float] = {}  # our figures of the first thread count

    def measure(
        self, name: str, n: int, k: int, m: int, threads: int, known: Mapping[str, float] | None = None
    ) -> Figures:
        """One format, remembered; with the peaks known, briefly and on the best instruction set alone."""
        isas = self.chosen.isas[-1:] if known else self.chosen.isas
        seconds = 0.0 if known else self.chosen.seconds
        got = measure(name, n, k, m, isas, threads, self.chosen.ggml, seconds, known)
        self.first.setdefault((name, n, k, m), got[OURS])
        self.points.setdefault(name, []).append(operations(name, k, m, got[OURS]))
        return got

    def show(self, section: str, title: str, threads: int, header: list[str], lines: list[list[str]]) -> None:
        """Print a table, and record it if that was asked for."""
        body = f"### {title}\n\n{where(threads, self.chosen.ggml)}\n\n{table(header, lines)}"
        print(body, end="\n\n", flush=True)
        if self.chosen.write:
            record(section, body)

    def matrix(self, shape: str, m: int, threads: int) -> None:
        """The table of one matrix, all sides."""
        [(n, k, _)] = SHAPES[shape][1]
        isas = self.chosen.isas
        sides = [side for isa in isas for side in (isa, f"{isa} packed")]
        sides += ["ggml", "repacked"] if self.chosen.ggml else []
        header = ["format", *sides, "ratio", "of limit"]
        again = threads != self.chosen.threads[0]
        unit = "GB/s of weights" if m <= FEW else "10^9 operations/s"
        title = f"{shape} [{n}, {k}], rows {m}, threads {threads}: {unit}"
        lines = []
        for name in self.chosen.formats:
            if k % bq.formats[name].block_size:
                continue
            got = self.measure(name, n, k, m, threads)
            line = [name, *(cell(got.get(side)) for side in sides)]
            line += [cell(over(got, THEIRS), 2), cell(over(got, "limit", 100), 0, " %")]
            lines.append([*line, cell(got[OURS] / self.first[name, n, k, m], 2)] if again else line)
            for side in sides:
                if side in got:
                    self.charts.setdefault(title, {}).setdefault(side, {})[name] = got[side]
        self.show(f"matmul {n} {k} {m} {threads} {isas[-1]}", title, threads, header + ["scaling"] * again, lines)

    def layers(self, shape: str, rows: list[int], threads: int) -> None:
        """The table of a model's layers on the best instruction set: a line for each format, columns for rows."""
        layers, matrices = SHAPES[shape]
        known = peaks(threads)
        lines = []
        for name in self.chosen.formats:
            used = [(n, k, count) for n, k, count in matrices if k % bq.formats[name].block_size == 0]
            if len(used) < len(matrices):
                continue
            line = [name]
            for m in rows:
                spent: Figures = {}
                for n, k, count in used:
                    got = self.measure(name, n, k, m, threads, known)
                    for side in (OURS, THEIRS, "limit"):
                        if side in got:
                            spent[side] = spent.get(side, 0.0) + count * seconds(name, n, k, m, got[side])
                line.append(cell(m / (layers * spent[OURS]), 0 if m > 1 else 1))
                line.append(cell(spent[THEIRS] / spent[OURS] if THEIRS in spent else None, 2))
                line.append(cell(100 * spent["limit"] / spent[OURS] if "limit" in spent else None, 0, " %"))
            lines.append(line)
        header = ["format", *(text for m in rows for text in (f"{m} rows", "ratio", "of limit"))]
        title = f"Layers of {shape}, threads {threads}: tokens-equivalent a second"
        self.show(f"matmul {shape} {threads} {self.chosen.isas[-1]}", title, threads, header, lines)


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
    if not chosen.args.isa:
        # Plain loops take minutes a table, and what has extensions is the better of two.
        skipped = {"baseline"} | ({"avx512"} if "avx512_bf16" in chosen.isas else set())
        chosen.isas = [isa for isa in chosen.isas if isa not in skipped] or chosen.isas
    report = Report(chosen)
    for threads in chosen.threads:
        for shape in shapes:
            if len(SHAPES[shape][1]) > 1:
                report.layers(shape, rows, threads)
            else:
                for m in rows:
                    report.matrix(shape, m, threads)
    if chosen.args.roofline:
        limits = peaks(chosen.threads[-1])
        if not limits:
            parser.error("--roofline needs a C++ compiler to measure the peaks")
        roofs = {what: rate * (1 if what == "read" else chosen.threads[-1]) for what, rate in limits.items()}
        draw_roofline(chosen.args.roofline, report.points, roofs)
    if chosen.plot:
        bar_chart(chosen.plot, "x @ W.T", "", report.charts)


if __name__ == "__main__":
    main()
