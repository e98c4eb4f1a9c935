"""Texts of files as people see them."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, without anything that would steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
