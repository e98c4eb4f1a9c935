"""The formats, read from the one registry in the core."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from blockquant import _core
from blockquant.errors import BlockquantError, FormatNotImplementedError


class Format(str):
    """A GGUF tensor format. It is the string of its name, with the registry's facts as attributes.

    Attributes:
        name: ggml's name, such as ``"Q4_K"``.
        ggml_type: the id that GGUF files store.
        block_size: elements of a block; a row is a whole number of blocks.
        type_size: bytes of a block.
        run: elements that share one scale in the common form (0 for the float formats).
        has_minima: whether ``value = scale * q - minimum`` rather than ``scale * q``.
        needs_imatrix: whether quantizing refuses to work without an importance matrix.
        implemented: whether this version can encode, decode and multiply it.
        description: one line.
    """

    __slots__ = (
        "block_size",
        "description",
        "ggml_type",
        "has_minima",
        "implemented",
        "name",
        "needs_imatrix",
        "run",
        "type_size",
    )
    name: str
    ggml_type: int
    block_size: int
    type_size: int
    run: int
    has_minima: bool
    needs_imatrix: bool
    implemented: bool
    description: str

    def __new__(cls, *facts: Any) -> Format:
        self = super().__new__(cls, facts[0])
        (
            self.name,
            self.ggml_type,
            self.block_size,
            self.type_size,
            self.run,
            self.has_minima,
            self.needs_imatrix,
            self.implemented,
            self.description,
        ) = facts
        return self

    @property
    def bits_per_weight(self) -> float:
        """Bits that one element takes, scales included."""
        return 8.0 * self.type_size / self.block_size

    @property
    def is_float(self) -> bool:
        """Whether this is F32, F16 or BF16."""
        return self.run == 0

    def row_bytes(self, k: int) -> int:
        """Bytes of a row of k elements; ValueError when k is not a whole number of blocks."""
        if k % self.block_size:
            raise BlockquantError(
                f"{self.name} needs rows of a multiple of {self.block_size} elements, this one has {k}; "
                f"choose a format with smaller blocks or pad the rows"
            )
        return k // self.block_size * self.type_size

    def require_implemented(self) -> None:
        """Raise FormatNotImplementedError for a format that this version only knows by name and size."""
        if not self.implemented:
            ready = ", ".join(f.name for f in formats.values() if f.implemented)
            raise FormatNotImplementedError(
                f"{self.name} is a known format, but this version cannot encode or decode it yet; it can do: {ready}"
            )

    def __repr__(self) -> str:
        return (
            f"Format({self.name!r}, ggml_type={self.ggml_type}, block_size={self.block_size}, "
            f"type_size={self.type_size}, bits_per_weight={self.bits_per_weight:g})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (find_format, (self.name,))


class _Formats(Mapping[str, Format]):
    def __init__(self) -> None:
        self._by_name = {row[0]: Format(*row) for row in _core.format_table()}

    def __getitem__(self, name: str) -> Format:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<{len(self)} formats: {', '.join(self)}>"


formats: Mapping[str, Format] = _Formats()
_BY_ID = {f.ggml_type: f for f in formats.values()}
_BY_UPPER = {f.name.upper(): f for f in formats.values()}


def find_format(format: object) -> Format:
    """The Format of a name (in any case), a Format, a ggml type id or a ``gguf.GGMLQuantizationType``.

    Raises ValueError with the nearest names when there is none, TypeError for anything else.
    """
    if isinstance(format, Format):
        return format
    if isinstance(format, str):
        found = _BY_UPPER.get(format.upper())
        if found is None:
            import difflib

            near = difflib.get_close_matches(format.upper(), _BY_UPPER, n=4, cutoff=0.5) or list(_BY_UPPER)
            raise BlockquantError(
                f"unknown format {format!r}; near names: {', '.join(_BY_UPPER[n].name for n in near)} "
                f"(blockquant.formats lists all)"
            )
        return found
    try:
        number = operator.index(format)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"expected a format as a name such as 'Q4_K' or a ggml type id, got {type(format).__name__}"
        ) from None
    if number not in _BY_ID:
        raise BlockquantError(f"unknown ggml type id {number}; known ids: {', '.join(map(str, _BY_ID))}")
    return _BY_ID[number]
