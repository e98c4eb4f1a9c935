"""Errors that blockquant raises on purpose. All are ValueErrors, so that one except clause catches them."""

from __future__ import annotations


class BlockquantError(ValueError):
    """Base of the package's own errors; the message is one line that says what to do."""


class FormatNotImplementedError(BlockquantError, NotImplementedError):
    """A format that the registry knows and this version cannot encode or decode yet."""


class MissingExtraError(ImportError):
    """A feature needs a package that the base install leaves out."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the {package!r} package: pip install 'blockquant[{extra}]'")
