"""Writes the format table of the README from the registry; a test holds the README to it.

python bench/readme_table.py
"""

from __future__ import annotations

from pathlib import Path

import blockquant as bq

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- formats -->\n", "<!-- /formats -->\n"


def table() -> str:
    """The Markdown table: every format with its size and what this version can do with it."""
    lines = ["| format | bits per weight | block | bytes of a block | what it is |", "|---|---|---|---|---|"]
    for f in bq.formats.values():
        later = "" if f.implemented else " (not yet: read and listed only)"
        lines.append(f"| {f.name} | {f.bits_per_weight:g} | {f.block_size} | {f.type_size} | {f.description}{later} |")
    return "\n".join(lines)


def in_readme() -> str:
    """The table that stands in the README."""
    text = README.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].rstrip("\n")


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    README.write_text(head + table() + "\n" + tail, encoding="utf-8")
