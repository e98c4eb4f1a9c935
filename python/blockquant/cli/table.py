"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Sequence

_WIDEST_RULE = 100


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> None:
    """Print rows under titles; `alignment` has an l or r for each column."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(cells, widths, alignment, strict=True)
        )
        return "  ".join(aligned).rstrip()

    print(line(titles))
    print("  ".join("-" * min(width, _WIDEST_RULE) for width in widths))
    for row in rows:
        print(line(row))
