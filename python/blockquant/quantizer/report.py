"""What `quantize_file` did, or would do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockquant._text import printable


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor. `wanted` is the recipe's choice, which `format` replaces where it does not fit."""

    name: str
    shape: tuple[int, ...]
    source_format: str
    format: str
    wanted: str
    source_bytes: int
    nbytes: int
    reason: str = ""  # why it stays, or why it has another format than the one wanted

    @property
    def is_fallback(self) -> bool:
        return self.format != self.wanted


@dataclass(frozen=True, repr=False)
class QuantizationReport:
    """What `quantize_file` did, or would do. Bytes are those of the tensors alone, without headers."""

    source: Path
    target: Path | None  # None: a dry run
    recipe: str
    tensors: tuple[TensorReport, ...]
    needs_imatrix: tuple[str, ...]  # in a dry run: tensors that the real run would refuse without one
    seconds: float
    file_bytes: int  # of all files of the target, headers included; in a dry run, what they would have
    paths: tuple[Path, ...] = ()  # the target's files: itself, or its shards
    requantized: tuple[str, ...] = ()  # tensors that are decoded from a quantized format
    unweighted: tuple[str, ...] = ()  # tensors that are encoded without weights although there is a matrix
    resumed_bytes: int = 0  # of the source, done by an earlier run that was interrupted
    resumed_tensors: int = 0  # wholly done by it

    @property
    def source_bytes(self) -> int:
        return sum(t.source_bytes for t in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @property
    def elements(self) -> int:
        return sum(int(np.prod(t.shape, dtype=np.int64)) for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(self.elements, 1)

    @property
    def source_bits_per_weight(self) -> float:
        return 8 * self.source_bytes / max(self.elements, 1)

    @property
    def fallbacks(self) -> tuple[TensorReport, ...]:
        return tuple(t for t in self.tensors if t.is_fallback)

    @property
    def format_counts(self) -> dict[str, int]:
        """Tensors of each format, the most frequent first."""
        return dict(Counter(str(t.format) for t in self.tensors).most_common())

    @property
    def bytes_per_second(self) -> float:
        """Of the source, in this run."""
        return (self.source_bytes - self.resumed_bytes) / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "source": str(self.source),
            "target": str(self.target) if self.target else None,
            "paths": [str(path) for path in self.paths],
            "recipe": self.recipe,
            "source_bytes": self.source_bytes,
            "bytes": self.nbytes,
            "file_bytes": self.file_bytes,
            "elements": self.elements,
            "bits_per_weight": self.bits_per_weight,
            "source_bits_per_weight": self.source_bits_per_weight,
            "format_counts": self.format_counts,
            "seconds": self.seconds,
            "resumed_bytes": self.resumed_bytes,
            "resumed_tensors": self.resumed_tensors,
            "needs_imatrix": list(self.needs_imatrix),
            "requantized": list(self.requantized),
            "unweighted": list(self.unweighted),
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "source_format": str(t.source_format),
                    "format": str(t.format),
                    "wanted": str(t.wanted),
                    "reason": t.reason,
                    "source_bytes": t.source_bytes,
                    "bytes": t.nbytes,
                }
                for t in self.tensors
            ],
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.format_counts.items())
        recipe = printable(self.recipe)
        lines = [
            f"{recipe}: {size_text(self.source_bytes)} ({self.source_bits_per_weight:.2f} bits per weight) to "
            f"{size_text(self.nbytes)} ({self.bits_per_weight:.2f})"
            + (f" in {self.seconds:.2f} s, {size_text(int(self.bytes_per_second))}/s" if self.target else ", dry run"),
            f"{len(self.tensors)} tensors: {counts}",
        ]
        for (wanted, got, row), count in Counter((t.wanted, t.format, t.shape[-1]) for t in self.fallbacks).items():
            tensors = "1 tensor has" if count == 1 else f"{count} tensors have"
            lines.append(f"fallback: {tensors} rows of {row}, which {wanted} does not fit: {got} instead")
        if self.resumed_tensors or self.resumed_bytes:
            done = f"{size_text(self.resumed_bytes)} of the source"
            lines.append(f"resumed: an earlier run had done {self.resumed_tensors} tensors, {done}")
        if self.unweighted:
            shown = ", ".join(map(printable, self.unweighted[:3])) + (" ..." if len(self.unweighted) > 3 else "")
            lines.append(f"without weights in the importance matrix: {shown}")
        if self.requantized:
            lines.append(
                f"{len(self.requantized)} tensors are already quantized: encoding them again loses quality twice"
            )
        if self.needs_imatrix:
            lines.append(f"{len(self.needs_imatrix)} tensors need an importance matrix in this recipe")
        return "\n".join(lines)


def size_text(count: int) -> str:
    """Bytes for people, in units of 1000."""
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB" if count < 1_000_000_000 else f"{count / 1_000_000_000:.2f} GB"
