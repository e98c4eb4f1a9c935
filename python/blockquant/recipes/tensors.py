"""What a tensor's name and shape say: its role in the model, and whether it is quantized at all."""

from __future__ import annotations

import re
from functools import lru_cache

TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
OUTPUT = "output.weight"

# The role of a tensor is that of the first part that its name contains.
_ROLES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)

# Names, and parts of names, of tensors that stay in the type they have: too small or too sensitive.
_KEPT_NAMES = frozenset({"position_embd.weight", "token_types.weight"})
_KEPT_PARTS = (
    "_norm.weight",
    # expert routing
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    # Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    # short convolutions
    "ssm_conv1d",
    "shortconv.conv.weight",
    # sparse attention indexers
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    # RWKV
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    # T5 relative positions
    "attn_rel_b.weight",
    # vision and audio encoders
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_PARTS_OF = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}


@lru_cache(maxsize=1 << 14)
def role_of(name: str) -> str:
    """The field of `Recipe` that speaks about this tensor, "output", or "other"."""
    if name == OUTPUT:
        return "output"
    if name in TOKEN_EMBEDDINGS:
        return "token_embd"
    return next((role for part, role in _ROLES if part in name), "other")


def dimensions(shape: tuple[int, ...]) -> int:
    """As ggml counts: leading dimensions of 1 do not count, and there is always one."""
    dims = len(shape)
    while dims > 1 and shape[len(shape) - dims] == 1:
        dims -= 1
    return max(dims, 1)


@lru_cache(maxsize=1 << 14)
def why_kept(name: str, shape: tuple[int, ...], architecture: str) -> str:
    """Why a recipe may not change the type of this tensor, or "" when it may."""
    if dimensions(shape) < 2:
        return "a vector"
    # llama.cpp's search for the suffix also succeeds for any name one byte shorter than it.
    if not (name.endswith("weight") or len(name.encode("utf-8", "surrogateescape")) == 5):
        return "its name does not end in 'weight'"
    if name in _KEPT_NAMES:
        return f"{name!r} always stays"
    part = next((part for part in _KEPT_PARTS + _KEPT_PARTS_OF.get(architecture, ()) if part in name), None)
    return f"its name has {part!r}" if part else ""


def is_quantized(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether a recipe may change the type of this tensor; norms, biases, routers and other small ones stay."""
    return not why_kept(name, shape, architecture)


@lru_cache(maxsize=1 << 14)
def file_order(name: str) -> tuple[int, str]:
    """Sort key of the order in which llama.cpp writes tensors: by layer, the others first, then by name."""
    match = re.match(r"blk\.(\d+)", name)
    return (int(match[1]) if match else -1, name)
