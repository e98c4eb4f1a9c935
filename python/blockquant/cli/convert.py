"""`blockquant convert`: a Hugging Face model directory, or weights of any kind, to a GGUF file."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

import blockquant as bq
from blockquant._text import printable
from blockquant.cli.options import overrides_of
from blockquant.cli.progress import bar

EPILOG = """Examples:

`blockquant convert ./Qwen3-0.6B qwen3-0.6b-q4_k_m.gguf --dtype Q4_K_M`

`blockquant convert flux1-dev.safetensors flux1-dev-q4_k.gguf --dtype Q4_K_S --architecture flux`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="convert", epilog=EPILOG)(convert)


def convert(
    src_dir: Annotated[
        Path,
        typer.Argument(
            help="Folder with config.json, model.safetensors and tokenizer.json; or any .safetensors file, index or "
            "folder of them."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="File to write.")],
    dtype: Annotated[
        str, typer.Option(help="bf16, f16, f32, auto (the checkpoint's own), a recipe such as Q4_K_M, or a .toml file.")
    ] = "bf16",
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix, .gguf or .dat, for a recipe.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX=FORMAT", help="Format of the tensors whose names match, or 'keep'."),
    ] = None,
    output_tensor_type: Annotated[str | None, typer.Option(metavar="FORMAT", help="Format of output.weight.")] = None,
    token_embedding_type: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of the token embedding.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="The recipe's base format for every tensor.")] = False,
    architecture: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep names and shapes as they are, in a file of this kind.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all CPUs of this process.")] = None,
    pre_tokenizer: Annotated[
        str | None, typer.Option(help="Name of the text splitting (tokenizer.ggml.pre) when it is not recognized.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a Hugging Face model directory to GGUF, or weights of any other kind under their own names."""
    overrides = overrides_of(tensor_type or [])
    began = time.perf_counter()
    with bar() as progress:
        done = bq.convert(
            src_dir,
            out,
            dtype,
            threads,
            progress,
            pre_tokenizer=pre_tokenizer,
            architecture=architecture,
            imatrix=imatrix,
            overrides=overrides,
            pure=pure,
            output_tensor_type=output_tensor_type,
            token_embedding_type=token_embedding_type,
        )
    seconds = time.perf_counter() - began
    if as_json:
        print(json.dumps(_as_dict(done, seconds)))
        return
    bits = f" ({8 * done.nbytes / done.parameters:.2f} bits each)" if done.parameters else ""
    print(
        f"{done.path}: {done.architecture}, {done.dtype}, {done.tensors} tensors, {done.parameters / 1e6:,.1f} million "
        f"parameters, {done.nbytes / 1e6:,.1f} MB{bits}, {seconds:.1f} s"
    )
    for line in notes(done):
        print(printable(line))


def _as_dict(done: Any, seconds: float) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "architecture": done.architecture,
        "dtype": done.dtype,
        "tensors": done.tensors,
        "parameters": done.parameters,
        "bytes": done.nbytes,
        "seconds": round(seconds, 3),
        "formats": done.format_counts,
        "kept": {choice.name: choice.reason for choice in done.kept},
        "fallbacks": {choice.name: f"{choice.format}: {choice.reason}" for choice in done.fallbacks},
        "without_weights": list(done.unweighted),
        "renamed": dict(done.renamed),
        "reshaped": {name: list(shape) for name, shape in done.reshaped.items()},
        "left_out": list(done.left_out),
    }


def notes(done: Any) -> list[str]:
    """What a person should know of a conversion: formats, and what was not quantized as the recipe says."""
    lines = []
    if done.choices:
        lines.append(", ".join(f"{count} {format}" for format, count in done.format_counts.items()))
    for reason, count in Counter(c.reason for c in done.kept if c.reason != "a vector").items():
        first = next(c.name for c in done.kept if c.reason == reason)
        lines.append(f"{_tensors(count)} left as stored ({reason}): {first}{' ...' if count > 1 else ''}")
    for (got, reason), count in Counter((str(c.format), c.reason) for c in done.fallbacks if c.quantized).items():
        lines.append(f"{_tensors(count)} {got} instead ({reason})")
    if done.unweighted:
        count = len(done.unweighted)
        lines.append(f"the importance matrix has nothing for {_tensors(count)}: {done.unweighted[0]} ...")
    for original, name in done.renamed.items():
        lines.append(f"{original} is too long a name: {name}")
    for name, shape in done.reshaped.items():
        lines.append(f"{name}: the first of the dimensions {' x '.join(map(str, shape))} are merged")
    lines += [f"left out: {line}" for line in done.left_out]
    return lines


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
