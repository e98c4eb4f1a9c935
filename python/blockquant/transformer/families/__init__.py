"""One module per model family: a `Decoder` subclass that holds only what differs from the common loop."""

from __future__ import annotations

from blockquant.errors import BlockquantError
from blockquant.transformer.decoder import Decoder
from blockquant.transformer.families.llama import Llama
from blockquant.transformer.families.qwen2 import Qwen2
from blockquant.transformer.families.qwen3 import Qwen3

FAMILIES: dict[str, type[Decoder]] = {family.architecture: family for family in (Llama, Qwen2, Qwen3)}


def find_family(architecture: str) -> type[Decoder]:
    """The family of a file's `general.architecture`; ValueError lists those that exist."""
    if architecture not in FAMILIES:
        raise BlockquantError(
            f"architecture {architecture!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[architecture]
