"""A whole model: prompt and generation, time to the first token, and memory, beside llama.cpp.

The model has the shapes of Qwen3-0.6B and random weights; it is made and quantized on first use and kept in
--directory. Both sides run the same file with the same threads in turn; medians are shown. "prompt" is tokens a second
of a prompt, "generation" of single tokens after it. "first" is the time from opening the file (in the page cache) to
the logits of one token. "memory" is the peak of a process that opens the file, evaluates the prompt and generates: what
it takes beyond the file and the KV cache.
Examples:

    python bench/model.py --recipes Q4_K_M --threads 1
    python bench/model.py --write
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blockquant as bq
import numpy as np
from timing import cell, in_turn, load_ggml, option_parser, record, table, where

RECIPES = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "Q2_K", "IQ4_XS", "TQ2_0")
LAYERS, EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, HEAD, VOCABULARY = 28, 1024, 3072, 16, 8, 128, 151936


def make_model(path: Path) -> None:
    """An F16 file with the shapes of Qwen3-0.6B, gaussian weights with some large ones, and no vocabulary."""
    rng = np.random.default_rng(0)
    metadata = {
        "general.architecture": "qwen3",
        "general.file_type": np.uint32(1),
        "qwen3.block_count": np.uint32(LAYERS),
        "qwen3.context_length": np.uint32(40960),
        "qwen3.embedding_length": np.uint32(EMBEDDING),
        "qwen3.feed_forward_length": np.uint32(FEED_FORWARD),
        "qwen3.attention.head_count": np.uint32(HEADS),
        "qwen3.attention.head_count_kv": np.uint32(KV_HEADS),
        "qwen3.attention.key_length": np.uint32(HEAD),
        "qwen3.attention.value_length": np.uint32(HEAD),
        "qwen3.attention.layer_norm_rms_epsilon": np.float32(1e-6),
        "qwen3.rope.freq_base": np.float32(1e6),
        "qwen3.vocab_size": np.uint32(VOCABULARY),
        "tokenizer.ggml.model": "no_vocab",
    }
    matrices = {
        "attn_q": (HEADS * HEAD, EMBEDDING),
        "attn_k": (KV_HEADS * HEAD, EMBEDDING),
        "attn_v": (KV_HEADS * HEAD, EMBEDDING),
        "attn_output": (EMBEDDING, HEADS * HEAD),
        "ffn_gate": (FEED_FORWARD, EMBEDDING),
        "ffn_up": (FEED_FORWARD, EMBEDDING),
        "ffn_down": (EMBEDDING, FEED_FORWARD),
    }
    vectors = {"attn_norm": EMBEDDING, "attn_q_norm": HEAD, "attn_k_norm": HEAD, "ffn_norm": EMBEDDING}

    def matrix(rows: int, columns: int) -> np.ndarray:
        x = rng.standard_normal((rows, columns), np.float32) * np.float32(0.03)
        x[rng.random(x.shape, np.float32) < 0.002] *= 5
        return x.astype(np.float16)

    with bq.gguf.create(path, metadata) as file:
        file.add_tensor("token_embd.weight", matrix(VOCABULARY, EMBEDDING))
        for layer in range(LAYERS):
            for name, size in vectors.items():
                file.add_tensor(f"blk.{layer}.{name}.weight", np.ones(size, np.float32))
            for name, shape in matrices.items():
                file.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
        file.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))


def model_file(directory: Path, recipe: str) -> Path:
    """The model in a recipe, made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / "qwen3-0.6b-shape-F16.gguf"
    if not source.exists():
        print("making the model ...", file=sys.stderr)
        make_model(source)
    if recipe == "F16":
        return source
    path = directory / f"qwen3-0.6b-shape-{recipe}.gguf"
    if not path.exists():
        bq.quantize_file(source, path, recipe)
    return path


class Ours:
    """blockquant, with the calls that LlamaModel has."""

    pack = False

    def __init__(self, path: str, n_ctx: int, threads: int) -> None:
        self._model = bq.Model.open(path, threads=threads, n_ctx=n_ctx, pack=self.pack)
        self.session = self._model.session()

    def eval(self, tokens: list[int]) -> None:
        """Append tokens."""
        self.session.eval(tokens)

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on."""
        self.session.truncate(position)

    def close(self) -> None:
        """Free everything."""
        self._model.close()


def measure(path: Path, threads: int, prompt: list[int], tokens: int, rounds: int, theirs: type | None) -> list[str]:
    """A row of the table."""
    sides = {"ours": Ours} | ({"theirs": theirs} if theirs else {})
    n_ctx = len(prompt) + tokens
    first: dict[str, Callable[[], object]] = {}
    for name, side in sides.items():

        def open_and_eval(side: type = side) -> None:
            model = side(str(path), n_ctx, threads)
            model.eval(prompt[:1])
            model.close()

        first[name] = open_and_eval
    started = in_turn(first, 0, rounds)
    models = {name: side(str(path), n_ctx, threads) for name, side in sides.items()}

    def read(model: Ours) -> None:
        model.truncate(0)
        model.eval(prompt)

    def generate(model: Ours) -> None:
        model.truncate(len(prompt))
        for token in prompt[:tokens]:
            model.eval([token])

    prompts = in_turn({name: lambda m=model: read(m) for name, model in models.items()}, 0, rounds)
    singles = in_turn({name: lambda m=model: generate(m) for name, model in models.items()}, 0, rounds)
    cache = models["ours"].session.cache_bytes
    for model in models.values():
        model.close()
    beyond = (peak_bytes(path, threads, len(prompt), tokens) - path.stat().st_size - cache) / 1e6
    row = []
    for taken, work in ((prompts, len(prompt)), (singles, tokens)):
        rates = {name: work / spent for name, spent in taken.items()}
        other = rates.get("theirs")
        row += [cell(rates["ours"]), cell(other), cell(rates["ours"] / other if other else None, 2)]
    row += [cell(1e3 * started["ours"], 0), cell(1e3 * started["theirs"] if theirs else None, 0), cell(beyond, 0)]
    return row


def peak_bytes(path: Path, threads: int, prompt: int, tokens: int) -> int:
    """The largest resident size of a process that runs the model, from /proc: getrusage would count this one's, too."""
    code = (
        "import re, sys, blockquant as bq\n"
        f"m = bq.Model.open(sys.argv[1], threads={threads}, n_ctx={prompt + tokens}, pack={Ours.pack})\n"
        f"s = m.session(); s.eval([i % 1000 for i in range({prompt})])\n"
        f"for i in range({tokens}): s.eval([i])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    return int(said) * 1024


def main() -> None:
    """Measure what was asked for; print or record it."""
    parser = option_parser(__doc__)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--threads", default=str(bq.get_num_threads()), help="comma-separated counts")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs")
    parser.add_argument("--pack", action="store_true", help="lay the weights out first")
    parser.add_argument("--directory", type=Path, default=Path("build/bench-models"), help="where the models are kept")
    parser.add_argument("--write", action="store_true", help="record the tables in RESULTS.md")
    args: argparse.Namespace = parser.parse_args()
    Ours.pack = args.pack
    recipes = [name for name in args.recipes.split(",") if name]
    if args.write and args.recipes != parser.get_default("recipes"):
        parser.error("--write records whole tables: leave out --recipes")
    ggml = load_ggml(None)
    theirs: type | None = None
    if ggml is not None:
        from llama_native import LlamaModel

        theirs = LlamaModel
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, VOCABULARY, args.prompt)]
    header = ["recipe", "prompt, tokens/s", "llama.cpp", "ratio", "generation, tokens/s", "llama.cpp", "ratio"]
    header += ["first, ms", "llama.cpp", "memory, MB"]
    for threads in (int(n) for n in args.threads.split(",")):
        lines = []
        for recipe in recipes:
            began = time.perf_counter()
            lines.append(
                [
                    recipe,
                    *measure(model_file(args.directory, recipe), threads, prompt, args.tokens, args.rounds, theirs),
                ]
            )
            print(f"{recipe}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        title = f"Qwen3-0.6B's shapes, prompt of {args.prompt} tokens, {args.tokens} generated, threads {threads}"
        title += ", packed" * args.pack
        body = f"### {title}\n\n{where(threads, ggml)}\n\n{table(header, lines)}"
        print(body, end="\n\n", flush=True)
        if args.write:
            record(f"model {threads} {bq.cpu_info()['isa']}{' packed' * args.pack}", body)


if __name__ == "__main__":
    main()
