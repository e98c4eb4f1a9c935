"""The `blockquant` command. One module per command; `main` turns expected failures into one line and status 1."""

from __future__ import annotations

import io
import sys


def main() -> int:
    """Run the command line and return the exit status: 0 done, 1 the work failed, 2 wrong usage."""
    try:
        import typer  # noqa: F401
    except ImportError:
        print("blockquant: the command line needs the 'typer' package: pip install 'blockquant[cli]'", file=sys.stderr)
        return 1
    from blockquant.cli.app import run

    for stream in (sys.stdout, sys.stderr):
        # Names and texts that a terminal cannot show are no failure of the work; \\u and \\x stand for them.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    return run(sys.argv[1:])
