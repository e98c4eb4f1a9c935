"""One module per model family: a `Decoder` subclass that holds only what differs from the common loop."""

from __future__ import annotations

from blockquant.errors import BlockquantError
from blockquant.transformer.decoder import Decoder
from blockquant.transformer.families.bitnet import BitNet
from blockquant.transformer.families.gemma3 import Gemma3
from blockquant.transformer.families.llama import Llama
from blockquant.transformer.families.phi3 import Phi3
from blockquant.transformer.families.qwen2 import Qwen2
from blockquant.transformer.families.qwen3 import Qwen3
from blockquant.transformer.families.qwen3moe import Qwen3Moe

FAMILIES: dict[str, type[Decoder]] = {
    family.architecture: family for family in (BitNet, Gemma3, Llama, Phi3, Qwen2, Qwen3, Qwen3Moe)
}


def find_family(architecture: str) -> type[Decoder]:
    """The family of a file's `general.architecture`; ValueError lists those that exist."""
    if architecture not in FAMILIES:
        raise BlockquantError(
            f"architecture {architecture!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[architecture]
