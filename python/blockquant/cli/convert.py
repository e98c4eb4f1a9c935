"""`blockquant convert`: a Hugging Face model directory to a GGUF file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

import blockquant as bq
from blockquant.cli.progress import bar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="convert")(convert)


def convert(
    src_dir: Annotated[Path, typer.Argument(help="Folder with config.json, model.safetensors and tokenizer.json.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="File to write.")],
    dtype: Annotated[
        str, typer.Option(help="bf16, f16, f32, auto (the checkpoint's own), or a recipe such as Q4_K_M.")
    ] = "bf16",
    threads: Annotated[int | None, typer.Option(help="Threads; default: all CPUs of this process.")] = None,
    pre_tokenizer: Annotated[
        str | None, typer.Option(help="Name of the text splitting (tokenizer.ggml.pre) when it is not recognized.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a Hugging Face model directory (Qwen2, Qwen3, Llama, Mistral) to GGUF.

    Example: blockquant convert ./Qwen3-0.6B qwen3-0.6b-q4_k_m.gguf --dtype Q4_K_M
    """
    began = time.perf_counter()
    with bar() as progress:
        done = bq.convert(src_dir, out, dtype, threads, progress, pre_tokenizer=pre_tokenizer)
    seconds = time.perf_counter() - began
    if as_json:
        fields = {
            "path": str(done.path),
            "architecture": done.architecture,
            "dtype": done.dtype,
            "tensors": done.tensors,
            "parameters": done.parameters,
            "bytes": done.nbytes,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(fields))
        return
    bits = 8 * done.nbytes / done.parameters
    print(
        f"{done.path}: {done.architecture}, {done.dtype}, {done.tensors} tensors, {done.parameters / 1e6:,.1f} million "
        f"parameters, {done.nbytes / 1e6:,.1f} MB ({bits:.2f} bits each), {seconds:.1f} s"
    )
