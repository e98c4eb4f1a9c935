"""`blockquant edit`: the metadata of a GGUF file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from blockquant import gguf
from blockquant._text import printable
from blockquant.cli.metadata import entry, parse_assignment, read_text, type_text, value_text
from blockquant.cli.progress import bar

EPILOG = """Examples:

`blockquant edit model.gguf --set 'general.name=string:Fairy tales' --delete general.url`

`blockquant edit model.gguf --set tokenizer.ggml.eos_token_id=2 --set 'general.tags=string[]:["tales", "small"]'`

`blockquant edit model.gguf --set-file tokenizer.chat_template=chat.jinja --output fixed.gguf`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="edit", epilog=EPILOG)(edit)


def edit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="GGUF file, or any shard of a set.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=TYPE:VALUE",
            help="uint8 ... int64, float32, float64, bool, string; TYPE[] takes a JSON array. The type may be left out "
            "for a key that is there.",
        ),
    ] = None,
    set_file: Annotated[
        list[str] | None, typer.Option(metavar="KEY=FILE", help="Set a string to the text of a file.")
    ] = None,
    rename: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Rename a key.")] = None,
    delete: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Delete a key.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="OUT", help="Write a new file, leave FILE alone.")] = None,
    no_rewrite: Annotated[
        bool, typer.Option("--no-rewrite", help="Fail when the tensors would have to be copied.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Allow what makes the file inconsistent.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
) -> None:
    """Set, rename and delete metadata of a GGUF file.

    When the new header takes the same room as the old one, only the header is written, and no crash leaves it half
    done. Otherwise the tensors are copied to a new file that takes the old one's place. Without changes, an edit that
    was interrupted is finished.
    """
    renames = {}
    for text in rename or []:
        old, separator, new = text.partition("=")
        if not separator or not old or not new:
            raise typer.BadParameter(f"{text!r} is not OLD=NEW", param_hint="--rename")
        renames[old] = new
    if not dry_run and gguf.recover(file):
        print(f"finished an interrupted edit of {file}", file=sys.stderr)
    values: dict[str, Any] = {}
    with gguf.open(file) as f:
        for text in set_ or []:
            try:
                key, value = parse_assignment(text, f)
            except gguf.GGUFError:
                raise
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--set") from None
            values[key] = value
    for text in set_file or []:
        try:
            key, value = read_text(text)
        except gguf.GGUFError:
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--set-file") from None
        values[key] = value
    with bar(f"edit {file.name}") as progress:
        report = gguf.edit(
            file,
            set=values,
            rename=renames,
            delete=delete or [],
            output=output,
            allow_rewrite=not no_rewrite,
            force=force,
            dry_run=dry_run,
            progress=progress,
        )
    if as_json:
        _print_json(report, dry_run)
        return
    for change in report.changes:
        name = printable(change.key)
        if change.renamed_from is not None:
            name = f"{printable(change.renamed_from)} -> {name}"
        if change.after is None:
            print(f"delete {name}")
        else:
            shown = entry(change.after)
            print(f"{'rename' if change.renamed_from else 'set'} {name}: {type_text(shown)} {value_text(shown)}")
    what = {
        "in place": f"{report.nbytes:,} bytes of the header {'to write' if dry_run else 'written'} in place",
        "rewritten": f"{report.nbytes:,} bytes {'to write' if dry_run else 'written'}, tensors copied",
        "unchanged": "nothing to change",
    }[report.how]
    print(f"{report.path}: {what}")


def _print_json(report: gguf.EditReport, dry_run: bool) -> None:
    changes = [
        {
            "key": change.key,
            "renamed_from": change.renamed_from,
            "type_before": None if change.before is None else change.before.type.name.lower(),
            "after": None if change.after is None else entry(change.after),
        }
        for change in report.changes
    ]
    fields = {
        "file": str(report.path),
        "how": report.how,
        "written": not dry_run and report.how != "unchanged",
        "nbytes": report.nbytes,
        "changes": changes,
    }
    print(json.dumps(fields, allow_nan=False))
