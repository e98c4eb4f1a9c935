"""Which tensors of a model that llama.cpp does not know are quantized: diffusion, speech, vision.

Nothing but names and shapes is known of such a model. Vectors and small tensors stay, and so do those whose names say
that they are worth more than the bits they would save: norms, positions, what leads in and out of the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .tensors import TOKEN_EMBEDDINGS, dimensions

MIN_ELEMENTS = 1024

# Parts of names, between dots and underscores, of tensors that stay.
KEPT_NAMES = re.compile(
    r"(?:^|[._])(?:"
    r"\w*norm\d*|ln\d*|ln_\w+|"  # normalization
    r"pos_?embed\w*|position_?embed\w*|embed_positions|\w*positional_embedding|rel_pos\w*|"  # positions
    r"class_embedding|cls_token|add_embedding|label_emb|y_embedder|"  # labels
    r"time_?emb\w*|timestep_?emb\w*|time_?text_?embed|t_embedder|time_in|time_projection|vector_in|"  # time
    r"guidance_in|guidance_emb\w*|modulation|scale_shift_table|adaln_single|"  # what steers every layer
    r"patch_?embed\w*|patchify_proj|x_embedder|img_in|txt_in|context_embedder|cap_embedder|caption_projection|"
    r"input_blocks\.0|conv_in|"  # the way in
    r"final_layer|proj_out|conv_out|head\.head|"  # the way out
    r"codebook|codebooks|router"
    r")(?=[._]|$)"
)


def is_unknown(names: Iterable[str], metadata: Mapping[str, Any]) -> bool:
    """Whether these tensors are of no model that llama-quantize could take: no layers in names or metadata."""
    architecture = metadata.get("general.architecture")
    if architecture == "clip" or f"{architecture}.block_count" in metadata:
        return False
    return not any(name in TOKEN_EMBEDDINGS or re.match(r"(?:\w+\.)?blk\.\d+\.", name) for name in names)


def number_in_name(name: str) -> int | None:
    """The first part of a name that is a number: the layer, in most models."""
    match = re.search(r"(?:^|\.)(\d{1,9})(?:\.|$)", name)
    return int(match[1]) if match else None


def must_stay(shape: tuple[int, ...], format: str) -> str:
    """Why no rule may change this tensor, or ""."""
    if format.startswith("I") and format[1:].isdigit():
        return "integers"
    if dimensions(shape) < 2:
        return "a vector" if shape else "a single number"
    return ""


def should_stay(name: str, shape: tuple[int, ...]) -> str:
    """Why this tensor stays unless a rule names it, or ""."""
    elements = 1
    for n in shape:
        elements *= n
    if elements < MIN_ELEMENTS:
        return f"fewer than {MIN_ELEMENTS} elements"
    match = KEPT_NAMES.search(name)
    return f"its name has {match[0].strip('._')!r}" if match else ""
