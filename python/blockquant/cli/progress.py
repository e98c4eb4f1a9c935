"""One progress bar for all long work: drawn on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]


@contextmanager
def bar(description: str = "", *, unit: str = "bytes") -> Iterator[Progress]:
    """Yield a callback (label, done, total) that draws a bar with speed and time left on standard error.

    `unit` is "bytes" (shown as sizes and MB/s) or the plural of what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda label, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    counters: tuple[ProgressColumn, ...]
    counters = (
        (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    )
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        *counters,
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[label]}"),
        console=Console(stderr=True),
        transient=True,
    ) as drawn:
        task = drawn.add_task(description, total=None, label="")

        def update(label: str, done: int, total: int) -> None:
            drawn.update(task, completed=done, total=total, label=label)

        yield update
