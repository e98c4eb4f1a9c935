"""`blockquant quantize`: a GGUF file by a recipe."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockquant._text import printable
from blockquant.cli.options import overrides_of, size_of

if TYPE_CHECKING:
    from blockquant.quantizer import QuantizationReport

EPILOG = """Examples:

`blockquant quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M`

`blockquant quantize model-f16.gguf out.gguf Q4_K_M --imatrix imatrix.gguf --tensor-type 'attn_v=Q8_0'`

`blockquant quantize model-f16-00001-of-00009.gguf model.gguf Q4_K_M --resume --max-shard-size 5G`
"""


def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="IN.gguf", help="F32, F16 or BF16 file, or the first shard of one.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write; unused in a dry run.")],
    recipe: Annotated[str, typer.Argument(help="A llama.cpp file type, such as Q4_K_M, Q8_0, Q2_K, or a .toml file.")],
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix, .gguf or .dat.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=FORMAT", help="Format (or 'keep') of tensors whose names match; the first match decides."
        ),
    ] = None,
    output_tensor_type: Annotated[str | None, typer.Option(metavar="FORMAT", help="Format of output.weight.")] = None,
    token_embedding_type: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of the token embedding.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="The recipe's base format for every tensor.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the bytes do not depend on it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show formats and sizes, write nothing.")] = False,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Decode tensors that are already quantized; loses quality twice.")
    ] = False,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="Write shards with the same tensors as the input's.")
    ] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Write OUT-00001-of-0000N.gguf of at most this, such as 5G, 500M, 4GiB."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a killed or failed run stopped, and keep what is done on failure."),
    ] = False,
    keep_partial: Annotated[
        bool, typer.Option("--keep-partial", help="Keep the partial file after a failure, for --resume.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantize a GGUF file. The formats of the tensors and their bytes are those of llama-quantize.

    Until OUT.gguf is whole the data is in OUT.gguf.partial; OUT.gguf.journal says how far it is. A killed run leaves
    both, and --resume continues it.
    """
    from blockquant.cli.progress import bar
    from blockquant.quantizer import has_journal, quantize_file, size_text

    overrides = overrides_of(tensor_type or [])
    if max_shard_size is not None:
        size_of("--max-shard-size", max_shard_size)
    if not (resume or dry_run) and has_journal(target):
        print(f"an interrupted run for {target} is dropped; --resume would continue it", file=sys.stderr)
    with bar(printable(Path(recipe).name)) as progress:
        report = quantize_file(
            source,
            target,
            recipe,
            imatrix,
            overrides,
            pure,
            output_tensor_type,
            token_embedding_type,
            threads,
            lambda name, done, total: progress(printable(name), done, total),
            allow_requantize,
            dry_run,
            keep_split=keep_split,
            max_shard_size=max_shard_size,
            resume=resume,
            keep_partial=keep_partial,
        )
    if json:
        print(json_module.dumps(report.as_dict(), indent=1))
        return
    if dry_run:
        for tensor in report.tensors:
            shape = " x ".join(map(str, tensor.shape))
            sizes = f"{size_text(tensor.source_bytes):>9} -> {size_text(tensor.nbytes):>9}"
            mark = f"  (instead of {tensor.wanted}: {tensor.reason})" if tensor.is_fallback else ""
            if tensor.reason and not tensor.is_fallback:
                mark = f"  ({printable(tensor.reason)})"
            print(
                f"{printable(tensor.name):40} {shape:>20}  {sizes}  {tensor.source_format:>4} -> {tensor.format}{mark}"
            )
    print(report)
    if dry_run and report.requantized and not allow_requantize:
        print("quantizing them needs --allow-requantize")
    if dry_run:
        print(f"would write {_files(report)}, {report.file_bytes:,} bytes")
    else:
        print(f"wrote {_files(report)}, {report.file_bytes:,} bytes")


def _files(report: QuantizationReport) -> str:
    first, *others = report.paths
    return f"{first} to {others[-1].name}" if others else str(first)


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(quantize)
