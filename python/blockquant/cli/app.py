"""The typer application: global options, the list of commands, and how failures are shown."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import blockquant

# typer carries click inside in some versions and depends on it in others: reach its error class through typer.
_UsageError: Any = typer.BadParameter.__mro__[1]

COMMANDS = (
    "demo",
    "convert",
    "quantize",
    "inspect",
    "verify",
    "split",
    "merge",
    "edit",
    "diff",
    "recipes",
    "run",
    "eval",
    "compare",
    "imatrix",
    "imatrix_tools",
    "bench",
)

app = typer.Typer(
    name="blockquant",
    help="Quantize, inspect, convert and run models in GGUF's block formats.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"blockquant {blockquant.__version__}")
        raise typer.Exit()


@app.callback()
def _globals(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback when a command fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _name in COMMANDS:
    importlib.import_module(f"blockquant.cli.{_name}").register(app)


def run(argv: Sequence[str]) -> int:
    """Run one command line. Returns 0 when it is done, 1 when the work failed, 2 for wrong usage."""
    debug = "--debug" in argv
    # --debug is taken anywhere on the line: people add it at the end.
    arguments = [a for a in argv if a != "--debug"]
    try:
        result = app(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except _UsageError as error:
        error.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("blockquant: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (such as `| head`): stop quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        if debug:
            raise
        print(f"blockquant: {describe(error)}", file=sys.stderr)
        return 1


def describe(error: BaseException) -> str:
    """The one line that a person sees."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*names, error.strerror])
    if isinstance(error, MemoryError):
        return "out of memory"
    return " ".join(str(error).split()) or type(error).__name__
