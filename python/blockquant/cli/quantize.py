"""`blockquant quantize`: a GGUF file by a recipe."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

EPILOG = """Examples:

`blockquant quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M`

`blockquant quantize model-f16.gguf out.gguf Q4_K_M --imatrix imatrix.gguf --tensor-type 'attn_v=Q8_0'`
"""


def _overrides(given: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        # The format comes after the last '=': a regular expression may have one too.
        pattern, separator, format = text.rpartition("=")
        if not separator or not pattern or not format:
            raise typer.BadParameter(
                f"{text!r} is not REGEX=FORMAT, such as 'ffn_down=Q6_K'", param_hint="--tensor-type"
            )
        pairs.append((pattern, format))
    return pairs


def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="IN.gguf", help="F32, F16 or BF16 file, or the first shard of one.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write; unused in a dry run.")],
    recipe: Annotated[str, typer.Argument(help="A llama.cpp file type, such as Q4_K_M, Q8_0, Q2_K.")],
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix, .gguf or .dat.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX=FORMAT", help="Format of the tensors whose names match; the first match decides."),
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
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantize a GGUF file. The formats of the tensors and their bytes are those of llama-quantize."""
    from blockquant.cli.progress import bar
    from blockquant.quantizer import quantize_file

    overrides = _overrides(tensor_type or [])
    with bar(f"{source.name} to {recipe}") as progress:
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
            progress,
            allow_requantize,
            dry_run,
        )
    if json:
        print(json_module.dumps(report.as_dict(), indent=1))
        return
    if dry_run:
        for tensor in report.tensors:
            shape = " x ".join(map(str, tensor.shape))
            mark = f"  (instead of {tensor.wanted})" if tensor.is_fallback else ""
            print(f"{tensor.name:40} {shape:>20}  {tensor.source_format:>4} -> {tensor.format}{mark}")
    print(report)
    if report.target is not None:
        print(f"wrote {report.target}, {report.file_bytes:,} bytes")


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(quantize)
