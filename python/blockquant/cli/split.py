"""`blockquant split`: one GGUF file to a set of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blockquant import gguf
from blockquant.cli.options import size_of
from blockquant.cli.progress import bar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="split")(split)


def split(
    file: Annotated[Path, typer.Argument(metavar="IN", help="GGUF file, or any shard of a set.")],
    prefix: Annotated[Path, typer.Argument(metavar="OUT_PREFIX", help="What the names of the shards begin with.")],
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes of tensors in a shard: 4G, 500M, 4GiB.")
    ] = None,
    max_tensors: Annotated[int | None, typer.Option(min=1, help="Tensors in a shard. [default: 128]")] = None,
    no_tensor_first_split: Annotated[
        bool, typer.Option("--no-tensor-first-split", help="Leave the first shard to the metadata.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the shards, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the shards as JSON.")] = False,
) -> None:
    """Split a GGUF file into OUT_PREFIX-00001-of-0000N.gguf, as llama-gguf-split does.

    Tensors are copied as they are. `blockquant merge` joins the shards again.

    Example: blockquant split model.gguf part --max-shard-size 4G
    """
    if max_shard_size is not None and max_tensors is not None:
        raise typer.BadParameter("give --max-shard-size or --max-tensors, not both", param_hint="--max-tensors")
    size = None if max_shard_size is None else size_of("--max-shard-size", max_shard_size)
    with bar(f"split {file.name}") as progress:
        shards = gguf.split(
            file,
            prefix,
            max_shard_size=size,
            max_tensors=max_tensors,
            metadata_only_first=no_tensor_first_split,
            dry_run=dry_run,
            progress=progress,
        )
    if as_json:
        rows = [{"file": str(s.path), "tensors": len(s.tensors), "nbytes": s.nbytes} for s in shards]
        print(json.dumps({"written": not dry_run, "shards": rows}))
        return
    for shard in shards:
        print(f"{shard.path}: {len(shard.tensors)} tensors, {shard.nbytes:,} bytes")
    print(f"{'would write' if dry_run else 'wrote'} {len(shards)} shards")
