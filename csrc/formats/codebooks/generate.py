"""Writes grids.hpp beside this script from the codebooks that the gguf package publishes.

python csrc/formats/codebooks/generate.py
"""

from __future__ import annotations

from pathlib import Path

import gguf.quants
import numpy as np

GRIDS = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")

HEAD = """\
// The codebooks of the grid formats. Written by generate.py from the values of the gguf package; do not edit.
// A word is a grid point: the indices of its elements into the levels, element 0 in the lowest bits, two bits
// for each of eight elements or three bits for each of four. The words are in ascending order.
// clang-format off
#pragma once

#include <cstdint>

namespace bq::codebooks {
"""


def packed_grid(name: str) -> tuple[list[int], int, list[int]]:
    """The levels of a codebook, how many elements a point has, and its points."""
    published = getattr(gguf.quants, name)
    published.init_grid()
    points, elements = published.grid_shape
    levels = np.array(published.grid_map, dtype=int)
    indices = np.searchsorted(levels, published.grid.reshape(points, elements).astype(int))
    bits = {8: 2, 4: 3}[elements]
    words = (indices << bits * np.arange(elements)).sum(axis=1)
    assert (np.diff(words) > 0).all()
    return levels.tolist(), elements, words.tolist()


def rows(words: list[int], per_line: int = 12) -> str:
    lines = [words[i : i + per_line] for i in range(0, len(words), per_line)]
    return "".join("    " + " ".join(f"0x{word:04x}," for word in line) + "\n" for line in lines)


def header() -> str:
    parts = [HEAD]
    for name in GRIDS:
        levels, elements, words = packed_grid(name)
        users = "IQ1_S and IQ1_M" if name == "IQ1_S" else name
        parts += [
            f"// {users}: {len(words)} points of {elements} elements.",
            f"namespace {name.lower()} {{",
            f"static constexpr int8_t kLevels[{len(levels)}] = {{{', '.join(map(str, levels))}}};",
            f"static constexpr uint16_t kGrid[{len(words)}] = {{\n{rows(words)}}};",
            f"}}  // namespace {name.lower()}\n",
        ]
    parts.append("}  // namespace bq::codebooks\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("grids.hpp").write_text(header())
