"""`blockquant merge`: a set of shards to one GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blockquant import gguf
from blockquant.cli.progress import bar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="merge")(merge)


def merge(
    shard: Annotated[Path, typer.Argument(metavar="SHARD", help="Any shard of the set; the others lie beside it.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Join a set of shards into one GGUF file; tensors and metadata are copied as they are.

    Example: blockquant merge model-00001-of-00003.gguf model.gguf
    """
    with bar(f"merge {shard.name}") as progress:
        path = gguf.merge(shard, output, progress=progress)
    with gguf.open(path) as f:
        tensors, size = len(f.tensor_infos), f.file_size
    if as_json:
        print(json.dumps({"file": str(path), "tensors": tensors, "file_size": size}))
    else:
        print(f"wrote {path}, {tensors} tensors, {size:,} bytes")
