"""Encode, decode and dot product of every format against llama.cpp's own kernels, in one run.

Both sides do the same work in turn, several times; the medians and their ratio are printed. Example:

    python bench/micro.py --threads 1 --write
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import blockquant as bq
import numpy as np
from ggml_native import Ggml, library_directory

RESULTS = Path(__file__).with_name("RESULTS.md")


def interleave(ours: Callable[[], object], theirs: Callable[[], object] | None, seconds: float) -> tuple[float, float]:
    """Median seconds of each, taken in turn until the time is spent (at least three rounds)."""
    a: list[float] = []
    b: list[float] = []
    ours()
    if theirs:
        theirs()
    end = time.perf_counter() + seconds
    while len(a) < 3 or time.perf_counter() < end:
        t0 = time.perf_counter()
        ours()
        t1 = time.perf_counter()
        if theirs:
            theirs()
        t2 = time.perf_counter()
        a.append(t1 - t0)
        b.append(t2 - t1)
    return statistics.median(a), statistics.median(b) if theirs else float("nan")


def cpu_name() -> str:
    """The CPU as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def encode_rows(ggml: Ggml, names: list[str], threads: int, seconds: float) -> list[list[str]]:
    """Million weights per second, plain and with an importance matrix."""
    generator = np.random.default_rng(0)
    x = (generator.standard_normal((64, 4096)) * 0.03).astype(np.float32)
    imatrix = generator.random(4096).astype(np.float32)
    rows = []
    for name in names:
        kind = bq.formats[name].ggml_type
        out = np.empty((x.shape[0], ggml.row_size(kind, x.shape[1])), np.uint8)
        row = [name]
        for weights in (None, imatrix):
            ours, theirs = interleave(
                lambda w=weights, n=name: bq.quantize(x, n, imatrix=w, threads=threads),
                lambda w=weights, k=kind, o=out: ggml.quantize(k, x, o, w),
                seconds,
            )
            rate = x.size / 1e6
            row += [f"{rate / ours:.1f}", f"{rate / theirs:.1f}", f"{theirs / ours:.2f}"]
        rows.append(row)
    return rows


def decode_rows(ggml: Ggml, names: list[str], threads: int, seconds: float) -> list[list[str]]:
    """GB/s of float32 written, beside a plain fill of the same memory."""
    x = (np.random.default_rng(0).standard_normal((2048, 4096)) * 0.03).astype(np.float32)
    out = np.empty_like(x)
    rows = []
    for name in names:
        q = bq.quantize(x, name)
        kind = bq.formats[name].ggml_type
        theirs = None if name == "F32" else (lambda k=kind, d=q.data: ggml.dequantize(k, d, out))
        a, b = interleave(lambda q=q: q.dequantize(out=out, threads=threads), theirs, seconds)
        fill, _ = interleave(lambda: out.fill(0.0), None, seconds / 4)
        gb = out.nbytes / 1e9
        rows.append([name, f"{gb / a:.1f}", f"{gb / b:.1f}", f"{b / a:.2f}", f"{100 * fill / a:.0f} %"])
    return rows


def dot_rows(ggml: Ggml, names: list[str], threads: int, seconds: float) -> list[list[str]]:
    """One activation row times [4096, 4096] (GB/s of weights), and 32 rows (billion multiply-adds per second)."""
    generator = np.random.default_rng(0)
    w = (generator.standard_normal((4096, 4096)) * 0.03).astype(np.float32)
    rows = []
    for name in names:
        q = bq.quantize(w, name)
        row = [name]
        for m in (1, 32):
            x = generator.standard_normal((m, 4096)).astype(np.float32)
            y = np.empty((m, 4096), np.float32)
            graph = ggml.mul_mat(bq.formats[name].ggml_type, q.data, x)
            a, b = interleave(
                lambda x=x, q=q, y=y: bq.matmul(x, q, out=y, threads=threads), lambda g=graph: g.run(threads), seconds
            )
            error = np.abs(y - graph.result()).max() / np.abs(y).max()
            assert error < 0.05, (name, error)
            graph.close()
            work = q.nbytes / 1e9 if m == 1 else m * w.size / 1e9
            row += [f"{work / a:.1f}", f"{work / b:.1f}", f"{b / a:.2f}"]
        rows.append(row)
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def replace_section(text: str, name: str, body: str) -> str:
    """text with what stands between the markers of this section replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = f"{begin}\n{body}\n{end}"
    if begin in text:
        return text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
    return text.rstrip() + "\n\n" + section + "\n"


def main() -> None:
    """Measure what was asked for and print or record the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["encode", "decode", "dot"], help="encode, decode, dot")
    parser.add_argument("--formats", default="", help="comma-separated; default: all that are implemented")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.6, help="time for each figure")
    parser.add_argument("--isa", help="instruction set to use; default: the best")
    parser.add_argument("--ggml-lib", help="directory of llama.cpp's libggml-*.so")
    parser.add_argument("--write", action="store_true", help=f"record the tables in {RESULTS.name}")
    args = parser.parse_args()
    if args.isa:
        bq.set_isa(args.isa)
    ggml = Ggml(library_directory(args.ggml_lib))
    names = [n for n in args.formats.split(",") if n] or [f.name for f in bq.formats.values() if f.implemented]
    quantized = [n for n in names if not bq.formats[n].is_float]
    info = bq.cpu_info()
    where = (
        f"{cpu_name()}, {args.threads} thread(s), blockquant {bq.__version__} ({info['isa']}, {info['compiler']}), "
        f"ggml {ggml.version} built for this CPU, {time.strftime('%Y-%m-%d')}"
    )
    side = ["ours", "ggml", "ratio"]
    sections = {
        "encode": (
            "Encode, million weights per second (ggml_quantize_chunk, one thread)",
            ["format", *(f"plain {s}" for s in side), *(f"imatrix {s}" for s in side)],
            lambda: encode_rows(ggml, quantized, args.threads, args.seconds),
        ),
        "decode": (
            "Decode to float32, GB/s written (to_float, one thread)",
            ["format", *side, "of fill bandwidth"],
            lambda: decode_rows(ggml, names, args.threads, args.seconds),
        ),
        "dot": (
            "x @ W.T with W [4096, 4096]: one row in GB/s of weights, 32 rows in 10^9 multiply-adds per second "
            "(ggml_mul_mat)",
            ["format", *(f"1 row {s}" for s in side), *(f"32 rows {s}" for s in side)],
            lambda: dot_rows(ggml, names, args.threads, args.seconds),
        ),
    }
    for what in args.what:
        title, header, measure = sections[what]
        body = f"### {title}\n\n{where}\n\n{table(header, measure())}"
        print(body, end="\n\n", flush=True)
        if args.write:
            text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Measured\n"
            key = f"micro {what} {args.threads} {info['isa']}"
            RESULTS.write_text(replace_section(text, key, body), encoding="utf-8")


if __name__ == "__main__":
    main()
