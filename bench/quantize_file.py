"""Whole files: quantize_file beside llama-quantize on the same file with the same threads, in turn.

The model is made up, of Qwen3-0.6B's shapes (F16, 1.2 GB; fewer layers with --layers), and lies in the page cache.
Medians of wall time, and of the processor time of all threads, which other load on the machine disturbs less. Neither
side waits for the disk at the end. Needs llama-cpp-python built from source. Example:

    python bench/quantize_file.py --recipes Q4_K_M,Q8_0 --layers 8
"""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blockquant as bq
import numpy as np
from ggml_native import Ggml, library_directory
from timing import cell, option_parser, record, table, where

RECIPES = "Q4_K_M,Q2_K,IQ4_XS,Q8_0"
VOCAB, WIDTH, WIDE, HEAD, HEADS, KV_HEADS = 151_936, 1024, 3072, 128, 16, 8


def make_model(path: Path, layers: int) -> None:
    """A file of Qwen3-0.6B's shapes, weights of a normal distribution that repeats."""
    pool = (np.random.default_rng(0).standard_normal(3 << 20) * 0.03).astype(np.float16)
    shapes = {"token_embd.weight": (VOCAB, WIDTH)}
    for i in range(layers):
        shapes |= {
            f"blk.{i}.attn_q.weight": (HEADS * HEAD, WIDTH),
            f"blk.{i}.attn_k.weight": (KV_HEADS * HEAD, WIDTH),
            f"blk.{i}.attn_v.weight": (KV_HEADS * HEAD, WIDTH),
            f"blk.{i}.attn_output.weight": (WIDTH, HEADS * HEAD),
            f"blk.{i}.ffn_gate.weight": (WIDE, WIDTH),
            f"blk.{i}.ffn_up.weight": (WIDE, WIDTH),
            f"blk.{i}.ffn_down.weight": (WIDTH, WIDE),
        }
    norms = {"output_norm.weight": WIDTH}
    for i in range(layers):
        norms |= {f"blk.{i}.attn_norm.weight": WIDTH, f"blk.{i}.ffn_norm.weight": WIDTH}
        norms |= {f"blk.{i}.attn_q_norm.weight": HEAD, f"blk.{i}.attn_k_norm.weight": HEAD}
    metadata: dict[str, str | int | float] = {
        "general.architecture": "qwen3",
        "qwen3.block_count": layers,
        "qwen3.context_length": 40960,
        "qwen3.embedding_length": WIDTH,
        "qwen3.feed_forward_length": WIDE,
        "qwen3.attention.head_count": HEADS,
        "qwen3.attention.head_count_kv": KV_HEADS,
        "qwen3.attention.key_length": HEAD,
        "qwen3.attention.value_length": HEAD,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3.rope.freq_base": 1e6,
        "qwen3.vocab_size": VOCAB,
    }
    plan = {name: (shape, "F16") for name, shape in shapes.items()} | {n: ((k,), "F32") for n, k in norms.items()}
    with bq.gguf.create(path, metadata, tensors=plan) as out:
        for name, shape in shapes.items():
            rows = pool.reshape(-1, shape[1])
            for start in range(0, shape[0], len(rows)):
                out.add_rows(name, rows[: min(len(rows), shape[0] - start)])
        for name, k in norms.items():
            out.add_tensor(name, np.ones(k, np.float32))


def llama_quantize() -> Callable[[Path, Path, int, int], None]:
    """llama_model_quantize as a function of source, target, file type and threads."""
    try:
        import llama_cpp
    except ImportError:
        raise SystemExit("no llama_cpp: install llama-cpp-python from source (third_party/README.md)") from None

    @llama_cpp.llama_log_callback
    def silent(_level: int, _text: bytes, _user: object) -> None:
        pass

    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()

    def call(source: Path, target: Path, file_type: int, threads: int, _silent: object = silent) -> None:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, threads
        if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)):
            raise SystemExit("llama_model_quantize failed")

    return call


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure what was asked for; print or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--recipes", default=RECIPES, help=f"comma-separated (default {RECIPES})")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of both sides (default: all CPUs)")
    parser.add_argument("--layers", type=int, default=28, help="of the model (default 28)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default 3)")
    parser.add_argument("--dir", help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--write", action="store_true", help="record a section of bench/RESULTS.md")
    args = parser.parse_args()
    if args.write and (args.layers != 28 or args.recipes != RECIPES):
        parser.error("--write records the whole model and the usual recipes: leave out --layers and --recipes")
    theirs = llama_quantize()
    ggml = Ggml(library_directory(None))
    header = ["recipe", "blockquant s", "llama-quantize s", "ratio", "CPU s", "their CPU s", "ratio ", "MB/s", "out MB"]
    rows = []
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        make_model(folder / "in.gguf", args.layers)
        for recipe in args.recipes.split(","):
            kind = bq.recipes.get(recipe).file_type
            sides: dict[str, Callable[[], object]] = {
                "ours": lambda r=recipe: bq.quantize_file(folder / "in.gguf", folder / "ours", r, threads=args.threads),
                "theirs": lambda k=kind: theirs(folder / "in.gguf", folder / "theirs", k, args.threads),
            }
            taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for _ in range(args.rounds):
                for side, call in sides.items():
                    (folder / side).unlink(missing_ok=True)
                    os.sync() if hasattr(os, "sync") else None  # what the last one wrote is not this one's load
                    taken[side].append(timed(call))
            if (folder / "ours").read_bytes() != (folder / "theirs").read_bytes():
                raise SystemExit(f"{recipe}: the files differ")
            wall, cpu = ({s: statistics.median(t[i] for t in times) for s, times in taken.items()} for i in (0, 1))
            rows.append(
                [
                    recipe,
                    *(cell(wall[s], 2) for s in sides),
                    cell(wall["theirs"] / wall["ours"], 2),
                    *(cell(cpu[s], 2) for s in sides),
                    cell(cpu["theirs"] / cpu["ours"], 2),
                    cell((folder / "in.gguf").stat().st_size / wall["ours"] / 1e6, 0),
                    cell((folder / "ours").stat().st_size / 1e6, 0),
                ]
            )
            print(" ".join(value.rjust(12) for value in rows[-1]), flush=True)
    body = f"### Whole files, Qwen3-0.6B's shapes from F16\n\n{where(args.threads, ggml)}\n\n{table(header, rows)}"
    print("\n" + body)
    if args.write:
        record("quantize_file", body)


if __name__ == "__main__":
    main()
