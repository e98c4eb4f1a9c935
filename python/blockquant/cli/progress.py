"""One progress bar for all long work: drawn on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    from rich.table import Column
    from rich.text import Text

    class Shrinking(ProgressColumn):
        """Text that gives way on a narrow terminal, so that everything stays on one line."""

        def __init__(self, field: str, style: str = "") -> None:
            super().__init__()
            self._field, self._style = field, style

        def render(self, task: Any) -> Text:
            text = task.fields[self._field]
            return Text(text, style=self._style, no_wrap=True, overflow="ellipsis")

    whole = Column(no_wrap=True)
    counters: tuple[ProgressColumn, ...]
    counters = (
        (DownloadColumn(table_column=whole), TransferSpeedColumn(table_column=whole.copy()))
        if unit == "bytes"
        else (MofNCompleteColumn(table_column=whole), TextColumn(unit, table_column=whole.copy()))
    )
    with Bar(
        Shrinking("what"),
        BarColumn(bar_width=16),
        *counters,
        TimeRemainingColumn(table_column=whole.copy()),
        Shrinking("label", "dim"),
        console=Console(stderr=True),
        transient=True,
    ) as drawn:
        task = drawn.add_task("", total=None, what=description, label="")

        def update(label: str, done: int, total: int) -> None:
            drawn.update(task, completed=done, total=total, label=label)

        yield update
