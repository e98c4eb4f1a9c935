"""Writes the tables of docs/formats.md from the registry and from measurements; a test holds the page to them.

    python docs/make_formats.py            # sizes, and errors on gaussian and on real weights (half a minute)
    python docs/make_formats.py --sizes    # sizes only

Real weights are those of two layers of examples/tales-6m; their importance is what these layers' inputs say, measured
while the model reads the beginning of calib.txt, as an importance matrix is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import blockquant as bq
import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
MODEL = ROOT / "examples" / "tales-6m"
LAYERS = (1, 4)

Floats = np.ndarray[Any, np.dtype[np.float32]]
Case = tuple[Floats, Floats]  # weights [n, k], importance [k]

QUANTIZED = [f for f in bq.formats.values() if not f.is_float]


def sizes() -> str:
    """The table of facts of the registry."""
    lines = [
        "| format | ggml id | bits per weight | block | bytes | run | minima | imatrix |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in QUANTIZED:
        minima, imatrix = "yes" if f.has_minima else "", "needed" if f.needs_imatrix else ""
        cells = (f"[{f.name}](#{f.name.lower()})", f.ggml_type, f"{f.bits_per_weight:g}", f.block_size, f.type_size)
        lines.append("| " + " | ".join(map(str, (*cells, f.run, minima, imatrix))) + " |")
    return "\n".join(lines)


def gaussian() -> list[Case]:
    """Standard normal weights, importance spread over two orders of magnitude."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1024), dtype=np.float32)
    return [(x, (10.0 ** rng.uniform(-1, 1, 1024)).astype(np.float32))]


def errors(f: bq.Format, cases: list[Case]) -> list[float]:
    """Percent: relative rmse of the plain encoder (with importance 1 where one is needed), then the rmse weighted by
    importance, of the plain encoder and of the one that knows it.
    """
    totals = np.zeros((3, 2))
    for x, importance in cases:
        ones = np.ones(x.shape[1], np.float32) if f.needs_imatrix else None
        plain = bq.quantize(x, f, imatrix=ones).dequantize().astype(np.float64) - x
        tuned = bq.quantize(x, f, imatrix=importance).dequantize().astype(np.float64) - x
        power = x.astype(np.float64) ** 2
        totals[0] += (plain**2).sum(), power.sum()
        totals[1] += (plain**2 * importance).sum(), (power * importance).sum()
        totals[2] += (tuned**2 * importance).sum(), (power * importance).sum()
    return [float(100 * (noise / signal) ** 0.5) for noise, signal in totals]


def error_table(cases: list[Case]) -> str:
    """The errors of every format."""
    lines = [
        "| format | bits per weight | relative rmse, % | weighted, plain, % | weighted, imatrix, % |",
        "|---|---|---|---|---|",
    ]
    for f in sorted(QUANTIZED, key=lambda f: f.bits_per_weight):
        if f.implemented:
            figures = " | ".join(f"{error:.3g}" for error in errors(f, cases))
            lines.append(f"| {f.name} | {f.bits_per_weight:g} | {figures} |")
    return "\n".join(lines)


def real_weights() -> list[Case]:
    """The matrices of two layers and the mean squares of their inputs."""
    from blockquant.transformer.weights import Linear, Weights

    names: dict[int, str] = {}
    sums: dict[str, Floats] = {}
    make, multiply = Weights.linear, Linear.__call__

    def linear(self: Weights, name: str, n: int, k: int) -> Linear:
        made = make(self, name, n, k)
        names[id(made)] = name
        return made

    def call(self: Linear, x: Floats, out: Floats) -> Floats:
        name = names[id(self)]
        sums[name] = sums.get(name, np.float32(0)) + (x * x).sum(axis=0)
        return multiply(self, x, out)

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        bq.convert(MODEL, path, dtype="f32")
        with mock.patch.object(Weights, "linear", linear), mock.patch.object(Linear, "__call__", call):
            model = bq.Model.open(path)
            tokens = model.tokenizer.encode((MODEL / "calib.txt").read_text(encoding="utf-8")[:20000])
            for begin in range(0, len(tokens) - 511, 512):
                model.logits(tokens[begin : begin + 512])
        with bq.gguf.open(path) as file:
            return [
                (np.array(file.tensors[f"{name}.weight"], np.float32), sums[name] / len(tokens))
                for name in sums
                if name.startswith(tuple(f"blk.{layer}." for layer in LAYERS))
            ]


def sections(sizes_only: bool) -> Iterator[tuple[str, str]]:
    """Names and bodies of the generated parts."""
    yield "sizes", sizes()
    if not sizes_only:
        yield "gaussian", error_table(gaussian())
        yield "weights", error_table(real_weights())


def part(text: str, name: str) -> tuple[int, int]:
    """Where the generated part of this name begins and ends."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    return text.index(begin) + len(begin), text.index(end)


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="store_true", help="leave the measurements as they are")
    text = PAGE.read_text(encoding="utf-8")
    for name, body in sections(parser.parse_args().sizes):
        begin, end = part(text, name)
        text = text[:begin] + body + text[end:]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
