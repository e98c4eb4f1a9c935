"""What a call of matmul costs beside its kernel: Python's part, and the part of the thread pool.

Python's part is the time of a product of one weight row of 32 elements, whose kernel takes some 20 nanoseconds; numpy's
matmul of as many floats is taken in turn. The pool's part is what products of some microseconds take on all threads
more than on one: called one after the other, when the workers are awake, and after a pause of 10 ms, when they sleep
(and the caches have cooled down). Medians are shown, in microseconds. Example:

    python bench/call.py --threads 2
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import blockquant as bq
import numpy as np
from timing import Call, cell, in_turn, option_parser, record, table, where

K = 1024
WEIGHT_ROWS = (8, 32, 128, 512, 2048)
PAUSE = 0.01  # seconds
PAUSES = 100


def of_one_block(seconds: float) -> list[list[str]]:
    """Microseconds of each way to call a product of almost nothing."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((1, 32), dtype=np.float32) for _ in range(2))
    q, out = bq.quantize(w, "Q8_0"), np.empty((1, 1), np.float32)
    p = bq.pack(q)
    transposed = np.ascontiguousarray(w.T)
    calls: dict[str, Call] = {
        "matmul(x, w, out=out)": partial(bq.matmul, x, q, out=out),
        "matmul(x, w)": partial(bq.matmul, x, q),
        "matmul(x, pack(w), out=out)": partial(bq.matmul, x, p, out=out),
        "matmul(x, w, out=out, threads=1)": partial(bq.matmul, x, q, out=out, threads=1),
        "numpy.matmul(x, w, out=out)": partial(np.matmul, x, transposed, out=out),
        "numpy.matmul(x, w)": partial(np.matmul, x, transposed),
    }
    taken = in_turn(calls, seconds)
    return [[name, cell(taken[name] * 1e6, 2)] for name in calls]


def after_pauses(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median seconds of each call, each made after a pause."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def of_small_products(threads: int, seconds: float, rounds: int) -> list[list[str]]:
    """Microseconds of products on one thread and on all, in a row and after pauses."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, K), dtype=np.float32)
    rows = []
    for n in WEIGHT_ROWS:
        q = bq.quantize(rng.standard_normal((n, K), dtype=np.float32), "Q8_0")
        out = np.empty((1, n), np.float32)
        calls: dict[str, Call] = {
            "one": partial(bq.matmul, x, q, out=out, threads=1),
            "all": partial(bq.matmul, x, q, out=out, threads=threads),
        }
        in_a_row, paused = in_turn(calls, seconds), after_pauses(calls, rounds)
        figures = [taken[name] for taken in (in_a_row, paused) for name in calls]
        rows.append([str(n), *(cell(figure * 1e6) for figure in figures)])
    return rows


def main() -> None:
    """Measure; print or record."""
    parser = option_parser(__doc__)
    parser.add_argument("--threads", type=int, default=bq.get_num_threads(), help="default: all CPUs")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each figure")
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--write", action="store_true", help="record the tables in RESULTS.md")
    args = parser.parse_args()
    if args.threads < 2:
        parser.error(f"--threads {args.threads}: the pool has a part from 2 threads on")
    seconds, rounds = (0.02, 3) if args.quick else (args.seconds, PAUSES)
    header = [
        "weight rows",
        "1 thread",
        f"{args.threads} threads",
        "1, after a pause",
        f"{args.threads}, after a pause",
    ]
    parts = [
        "### A call of matmul, microseconds",
        where(args.threads, None),
        "One weight row of 32 elements in Q8_0 (numpy: of float32):",
        table(["call", "us"], of_one_block(seconds)),
        f"One activation row of {K} elements, weights in Q8_0:",
        table(header, of_small_products(args.threads, seconds, rounds)),
    ]
    body = "\n\n".join(parts)
    print(body)
    if args.write:
        record(f"call {args.threads} {bq.available_isas()[-1]}", body)


if __name__ == "__main__":
    main()
