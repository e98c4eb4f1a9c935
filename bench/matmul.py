"""x @ W.T: every format, instruction set and number of activation rows, beside llama.cpp and ik_llama.cpp.

All sides do the same product in turn; medians are shown. "packed" are weights that `bq.pack` laid out. Up to 8 rows the
weights are larger than the caches and the figure is GB/s of weights, from there on it is 10^9 operations a second (two
for each weight and row). ggml is ggml_mul_mat; "repacked" the same with the weights laid out as llama.cpp does it on
loading a model, for the formats where it does; "ik" is ik_llama.cpp's, "ik repacked" that with interleaved rows. The
"ratio" (to llama.cpp), "to ik" and "of limit" take the better layout of either side. The limit is what the machine
reads from memory, measured in turn with the products, or its int8 peak (for float weights its float32 peak, or that of
products of bfloat16), measured before each format. Examples:

    python bench/matmul.py --formats Q4_K --threads 1
    python bench/matmul.py --shapes qwen3-0.6b,llama-3-8b --rows 1,2,4,8,32,128,512 --threads 2
    python bench/matmul.py --rows 1,8,512 --roofline roofline.png

For the shapes of a model all its matrices are put together: the tokens a second that its layers would allow if they
were nothing but these products, on the best instruction set. With several thread counts "scaling" is the figure over
that of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import blockquant as bq
import numpy as np
from bandwidth import read
from ggml_native import Ggml, Weights
from ik_native import Ik
from peak import peaks
from timing import Call, Choices, bar_chart, cell, in_turn, need_matplotlib, option_parser, parse, record, table, where

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
BEYOND_CACHES = 128 << 20  # bytes of weights for few rows; half of that for whole models
DISTINCT_ROWS = 64  # quantizing whole matrices would take longer than multiplying them

# By side: the instruction sets, the same and " packed", "ggml", "repacked", "ik", "ik repacked", and the better
# layout of each.
Figures = dict[str, float]
OURS, LLAMA, IK, LIMIT = "ours", "llama.cpp", "ik_llama.cpp", "limit"
SIDES = {LLAMA: ("ggml", "repacked"), IK: ("ik", "ik repacked")}


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


def peak_of(name: str, isa: str, known: Mapping[str, float]) -> str:
    """Which of the peaks bounds products of many rows."""
    if name == "BF16" and isa.endswith("bf16") and "bf16" in known:
        return "bf16"
    if bq.formats[name].is_float:
        return "fma"
    return "vnni" if isa.startswith("avx512") else "maddubs"


@cache
def reading(nbytes: int, threads: int) -> Call | None:
    """A call that reads as many bytes as the weights for few rows have."""
    return read(nbytes, threads)


class Matrix:
    """Weights [N, K] in every layout of every side; for few rows `few` bytes of them, which the caches do not hold."""

    def __init__(self, name: str, n: int, k: int, few: int, isas: Sequence[str], others: Sequence[Ggml]) -> None:
        f = bq.formats[name]
        self.name, self.k, self.few, self.isas = name, k, few, isas
        self.n = max(n, few // f.row_bytes(k) // 64 * 64)
        self.data = weights(name, self.n, k)
        stored = bq.QuantizedTensor(self.data, name)
        self.ours: dict[str, tuple[str, bq.QuantizedTensor | bq.PackedWeight]] = {}
        for isa in isas:
            bq.set_isa(isa)
            self.ours[isa] = isa, stored
            packed = bq.pack(stored, rows=2)  # also where one row does not gain
            if "strips" in repr(packed):
                self.ours[f"{isa} packed"] = isa, packed
        self.theirs: dict[str, Weights] = {}
        for other in others:
            kind, sides = f.ggml_type, SIDES[IK if isinstance(other, Ik) else LLAMA]
            if isinstance(other, Ik) and not other.has(kind):
                continue
            self.theirs[sides[0]] = other.weights(kind, self.data, k)
            if (repacked := other.repacked(kind, self.data, k)) is not None:
                self.theirs[sides[1]] = repacked

    def measure(self, m: int, threads: int, known: Mapping[str, float], seconds: float) -> Figures:
        """Figures by side for m rows, with the peaks of the CPU known."""
        x = np.random.default_rng(m).standard_normal((m, self.k), np.float32)
        out = np.empty((m, self.n), np.float32)
        calls: dict[str, Call] = {s: partial(ours, isa, x, w, out, threads) for s, (isa, w) in self.ours.items()}
        graphs = {side: other.times(x) for side, other in self.theirs.items()}
        calls |= {side: partial(graph.run, threads) for side, graph in graphs.items()}
        if self.few and (reads := reading(self.few, threads)) is not None:
            calls[LIMIT] = reads
        taken = in_turn(calls, seconds, settle=0.01 if threads > 1 else 0.0)
        for side, graph in graphs.items():
            # Whether it is the same product at all: ik_llama.cpp rounds some weights once more on the way.
            error = np.abs(out - graph.result()).max() / np.abs(out).max()
            assert error < 0.2, (self.name, side, error)
            graph.close()
        work = self.data.nbytes / 1e9 if self.few else 2.0 * m * self.n * self.k / 1e9
        figures = {side: work / spent for side, spent in taken.items()}
        if LIMIT in taken:
            figures[LIMIT] = self.few / 1e9 / taken[LIMIT]
        best = self.isas[-1]
        figures[OURS] = max(figures[best], figures.get(f"{best} packed", 0.0))
        for whose, sides in SIDES.items():
            if found := [figures[side] for side in sides if side in figures]:
                figures[whose] = max(found)
        if not self.few and (peak := peak_of(self.name, best, known)) in known:
            figures[LIMIT] = threads * known[peak]
        return figures

    def close(self) -> None:
        """Free what others hold."""
        for made in self.theirs.values():
            made.close()


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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 6.5))
    every = [x for line in points.values() for x, _ in line]
    ends = np.array([min(every) / 2, max(every) * 2])
    peaks_here = sorted((roofs[what], what) for what in ("vnni", "maddubs", "bf16", "fma") if what in roofs)
    top = min(ends[1], peaks_here[-1][0] / roofs["read"]) if peaks_here else ends[1]
    memory = np.array([ends[0], top])
    axis.plot(memory, memory * roofs["read"], "k-", lw=1, label=f"memory, {roofs['read']:.0f} GB/s")
    for i, (rate, what) in enumerate(peaks_here):
        axis.axhline(rate, color="k", lw=1, ls="--")
        near = i > 0 and rate < 1.1 * peaks_here[i - 1][0]
        axis.text(ends[0], rate, f" {what}", va="bottom" if near else "top", fontsize=8)
    for i, (name, line) in enumerate(points.items()):
        axis.plot(*zip(*line, strict=True), "osv^"[i // 10 % 4], ms=5, color=f"C{i % 10}", label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations for each byte of weights")
    axis.set_ylabel("10^9 operations a second")
    axis.legend(fontsize=7, ncols=3, loc="lower right")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


class Report:
    """What has been measured, printed and recorded table by table."""

    def __init__(self, chosen: Choices, others: Sequence[Ggml]) -> None:
        self.chosen, self.others = chosen, others
        self.charts: dict[str, dict[str, dict[str, float]]] = {}
        self.points: dict[str, list[tuple[float, float]]] = {}  # of the roofline
        self.first: dict[tuple[str, int, int, int], float] = {}  # our figures of the first thread count
        self.known: dict[tuple[str, int, int, int, bool], dict[int, Figures]] = {}
        self._peaks: tuple[tuple[str, int], Mapping[str, float]] = ("", 0), {}

    def peaks(self, name: str, threads: int) -> Mapping[str, float]:
        """Those of the CPU, measured anew for each format."""
        if self._peaks[0] != (name, threads):
            self._peaks = (name, threads), peaks(threads, 0.05)
        return self._peaks[1]

    def measure(
        self, name: str, n: int, k: int, rows: list[int], threads: int, brief: bool = False
    ) -> dict[int, Figures]:
        """One format and matrix by numbers of rows, remembered; briefly on the best instruction set alone."""
        isas = self.chosen.isas[-1:] if brief else self.chosen.isas
        found: dict[int, Figures] = {}
        for few in (True, False):
            # For few rows there are as many weight rows as the caches do not hold, whatever n is.
            key = name, 0 if few else n, k, threads, brief
            known = self.known.setdefault(key, {})
            if wanted := [m for m in rows if (m <= FEW) == few and m not in known]:
                beyond = BEYOND_CACHES // (2 if brief else 1) if few else 0
                matrix = Matrix(name, n, k, beyond, isas, self.others)
                limits = {} if few else self.peaks(name, threads)
                for m in wanted:
                    known[m] = matrix.measure(m, threads, limits, 0.0 if brief else self.chosen.seconds)
                matrix.close()
            found |= {m: got for m, got in known.items() if m in rows}
        for m, got in found.items():
            self.first.setdefault((name, n, k, m), got[OURS])
            if threads == self.chosen.threads[-1]:
                self.points.setdefault(name, []).append(operations(name, k, m, got[OURS]))
        return found

    def show(
        self, section: str, title: str, threads: int, tables: Mapping[str, tuple[list[str], list[list[str]]]]
    ) -> None:
        """Print tables under one title, and record them if that was asked for."""
        parts = [f"### {title}\n\n{where(threads, self.others)}"]
        for what, (header, lines) in tables.items():
            parts += [what] * bool(what) + [table(header, lines)]
        body = "\n\n".join(parts)
        print(body, end="\n\n", flush=True)
        if self.chosen.write:
            record(section, body)

    def matrix(self, shape: str, rows: list[int], threads: int) -> None:
        """The tables of one matrix, all sides: one for each number of rows."""
        [(n, k, _)] = SHAPES[shape][1]
        isas = self.chosen.isas
        again = threads != self.chosen.threads[0]
        lines: dict[int, list[list[str]]] = {m: [] for m in rows}
        sides = [side for isa in isas for side in (isa, f"{isa} packed")]
        compared = [(LLAMA, "ratio"), (IK, "to ik")][: len(self.others)]
        sides += [side for whose, _ in compared for side in SIDES[whose]]
        titles = {
            m: f"{shape} [{n}, {k}], rows {m}, threads {threads}: "
            + ("GB/s of weights" if m <= FEW else "10^9 operations/s")
            for m in rows
        }
        for name in self.chosen.formats:
            if k % bq.formats[name].block_size:
                continue
            for m, got in self.measure(name, n, k, rows, threads).items():
                line = [name, *(cell(got.get(side)) for side in sides)]
                line += [cell(over(got, whose), 2) for whose, _ in compared] + [cell(over(got, LIMIT, 100), 0, " %")]
                lines[m].append([*line, cell(got[OURS] / self.first[name, n, k, m], 2)] if again else line)
                for side in sides:
                    if side in got:
                        self.charts.setdefault(titles[m], {}).setdefault(side, {})[name] = got[side]
        header = ["format", *sides, *(title for _, title in compared), "of limit", *["scaling"] * again]
        for m in rows:
            section = f"matmul {n} {k} {m} {threads} {isas[-1]}"
            self.show(section, titles[m], threads, {"": (header, lines[m])})

    def layers(self, shape: str, rows: list[int], threads: int) -> None:
        """The tables of a model's layers: a line for each format, a column for each number of rows."""
        layers, matrices = SHAPES[shape]
        compared = [(LLAMA, "Ratio to llama.cpp:"), (IK, "Ratio to ik_llama.cpp:")][: len(self.others)]
        lines: dict[str, list[list[str]]] = {what: [] for what in (OURS, *(whose for whose, _ in compared), LIMIT)}
        for name in self.chosen.formats:
            if any(k % bq.formats[name].block_size for _, k, _ in matrices):
                continue
            spent: dict[int, Figures] = {m: {} for m in rows}
            for n, k, count in matrices:
                for m, got in self.measure(name, n, k, rows, threads, brief=True).items():
                    for side in lines:
                        if side in got:
                            took = count * seconds(name, n, k, m, got[side])
                            spent[m][side] = spent[m].get(side, 0.0) + took
            lines[OURS].append([name, *(cell(m / (layers * spent[m][OURS]), 0 if m > 1 else 1) for m in rows)])
            for side, digits, factor, unit in [(whose, 2, 1, "") for whose, _ in compared] + [(LIMIT, 0, 100, " %")]:
                ratios = [factor * spent[m][side] / spent[m][OURS] if side in spent[m] else None for m in rows]
                lines[side].append([name, *(cell(ratio, digits, unit) for ratio in ratios)])
        header = ["format", *(f"{m} row{'s' * (m > 1)}" for m in rows)]
        titles = {OURS: "Tokens-equivalent a second:", **dict(compared), LIMIT: "Share of the limit:"}
        section = f"matmul {shape} {threads} {self.chosen.isas[-1]}"
        tables = {titles[side]: (header, found) for side, found in lines.items()}
        self.show(section, f"Layers of {shape}, threads {threads}", threads, tables)


def main() -> None:
    """Measure what was asked for; print, plot or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--shapes", default="square", help=f"comma-separated: {', '.join(SHAPES)}")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="comma-separated numbers of activation rows")
    parser.add_argument("--roofline", metavar="FILE", help="draw operations a second over operations a byte")
    parser.add_argument("--ik-lib", metavar="FILE", help="libggml.so of ik_llama.cpp, to compare with it too")
    chosen = parse(parser, include_float=True)
    limits: Mapping[str, float] = {}
    if chosen.args.roofline:
        need_matplotlib("--roofline")
        if not (limits := peaks(chosen.threads[-1])):
            parser.error("--roofline needs a C++ compiler to measure the peaks")
    shapes = [name for name in chosen.args.shapes.split(",") if name]
    if unknown := [name for name in shapes if name not in SHAPES]:
        parser.error(f"unknown shapes {unknown[0]}; choose from {', '.join(SHAPES)}")
    rows = [int(m) for m in chosen.args.rows.split(",") if m]
    if not chosen.args.isa:
        # Plain loops take minutes a table, and what has extensions is the better of two.
        skipped = {"baseline"} | ({"avx512"} if "avx512_bf16" in chosen.isas else set())
        chosen.isas = [isa for isa in chosen.isas if isa not in skipped] or chosen.isas
    others = [chosen.ggml] if chosen.ggml else []
    if chosen.args.ik_lib:
        if not others:
            parser.error("--ik-lib compares with llama.cpp too: install it or give --ggml-lib")
        others.append(Ik(Path(chosen.args.ik_lib)))
    report = Report(chosen, others)
    for threads in chosen.threads:
        for shape in shapes:
            (report.layers if len(SHAPES[shape][1]) > 1 else report.matrix)(shape, rows, threads)
    if chosen.args.roofline:
        roofs = {what: rate * (1 if what == "read" else chosen.threads[-1]) for what, rate in limits.items()}
        draw_roofline(chosen.args.roofline, report.points, roofs)
    if chosen.plot:
        bar_chart(chosen.plot, "x @ W.T", "", report.charts)


if __name__ == "__main__":
    main()
