"""Texts that commands read."""

from __future__ import annotations

from pathlib import Path

from blockquant.errors import BlockquantError


def read_text(path: Path) -> str:
    """The whole file, line ends as they are; ValueError when it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise BlockquantError(f"{path} is not UTF-8 text: byte {error.start} cannot be read") from None
