"""Dot products of every format against llama.cpp's own kernels, in one run.

Both sides do the same work in turn, several times; the medians and their ratio are printed. Example:

    python bench/micro.py --threads 1 --write
"""

from __future__ import annotations

import blockquant as bq
import numpy as np
from ggml_native import Ggml, library_directory
from timing import RESULTS, in_turn, option_parser, record, table, where


def dot_rows(ggml: Ggml, names: list[str], threads: int, seconds: float) -> list[list[str]]:
    """One activation row times [4096, 4096] (GB/s of weights), and 32 rows (billion multiply-adds per second)."""
    generator = np.random.default_rng(0)
    w = (generator.standard_normal((4096, 4096)) * 0.03).astype(np.float32)
    rows = []
    for name in names:
        needs = np.ones(4096, np.float32) if bq.formats[name].needs_imatrix else None
        q = bq.quantize(w, name, imatrix=needs)
        row = [name]
        for m in (1, 32):
            x = generator.standard_normal((m, 4096)).astype(np.float32)
            y = np.empty((m, 4096), np.float32)
            graph = ggml.mul_mat(bq.formats[name].ggml_type, q.data, x)
            taken = in_turn(
                {
                    "ours": lambda x=x, q=q, y=y: bq.matmul(x, q, out=y, threads=threads),
                    "ggml": lambda g=graph: g.run(threads),
                },
                seconds / 2,
            )
            a, b = taken["ours"], taken["ggml"]
            error = np.abs(y - graph.result()).max() / np.abs(y).max()
            assert error < 0.05, (name, error)
            graph.close()
            work = q.nbytes / 1e9 if m == 1 else m * w.size / 1e9
            row += [f"{work / a:.1f}", f"{work / b:.1f}", f"{b / a:.2f}"]
        rows.append(row)
    return rows


def main() -> None:
    """Measure what was asked for and print or record the table."""
    parser = option_parser(__doc__)
    parser.add_argument("--formats", default="", help="comma-separated; default: all that are implemented")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.6, help="time for each figure")
    parser.add_argument("--isa", help="instruction set to use; default: the best")
    parser.add_argument("--ggml-lib", help="directory of llama.cpp's libggml-*.so")
    parser.add_argument("--write", action="store_true", help=f"record the table in {RESULTS.name}")
    args = parser.parse_args()
    if args.isa:
        bq.set_isa(args.isa)
    ggml = Ggml(library_directory(args.ggml_lib))
    names = [n for n in args.formats.split(",") if n] or [f.name for f in bq.formats.values() if f.implemented]
    isa = bq.cpu_info()["isa"]
    side = ["ours", "ggml", "ratio"]
    header = ["format", *(f"1 row {s}" for s in side), *(f"32 rows {s}" for s in side)]
    body = (
        f"### x @ W.T with W [4096, 4096]: one row in GB/s of weights, 32 rows in 10^9 multiply-adds per second, {isa} "
        f"(ggml_mul_mat)\n\n{where(args.threads, ggml)}\n\n"
        f"{table(header, dot_rows(ggml, names, args.threads, args.seconds))}"
    )
    print(body, flush=True)
    if args.write:
        record(f"micro dot {args.threads} {isa}", body)


if __name__ == "__main__":
    main()
