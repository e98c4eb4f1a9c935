"""BitNet b1.58: ternary matrices, as bytes of four weights or as floats that are rounded here, and sub-norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from blockquant.converter.families.base import Family, TensorRule
from blockquant.converter.makers import ternary, unpacked_ternary
from blockquant.errors import BlockquantError


class BitNet(Family):
    """Packed checkpoints keep a scale beside each matrix: what to multiply by, or to divide by in the older kind."""

    architectures = ("BitNetForCausalLM", "BitnetForCausalLM")
    arch = "bitnet"
    activations = ("relu2", "silu")
    packed = ("bitnet",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 2048,
        "num_key_value_heads": 5,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "relu2",
    }

    @property
    def is_packed(self) -> bool:
        return bool(self.quantization) and self.quantization.get("quantization_mode", "offline") == "offline"

    def late_metadata(self) -> dict[str, Any]:
        keys: dict[str, Any] = {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}
        if self.config.get("hidden_act") != "relu2":
            keys["hidden_activation"] = self.config.get("hidden_act")
        return {f"{self.arch}.{key}": value for key, value in keys.items()}

    def layer_tensors(self) -> Iterator[TensorRule]:
        for rule in super().layer_tensors():
            yield from self._ternary(rule) if rule.source.endswith("_proj.weight") else (rule,)
        yield TensorRule("self_attn.attn_sub_norm.weight", "attn_sub_norm.weight", (self.heads * self.head_dim,))
        yield TensorRule("mlp.ffn_sub_norm.weight", "ffn_sub_norm.weight", (self.feed_forward,))

    def _ternary(self, rule: TensorRule) -> Iterator[TensorRule]:
        if not self.is_packed:
            yield dataclasses.replace(rule, make=ternary)
            return
        n, k = rule.shape
        if n % 4:
            raise BlockquantError(f"config.json: {n} rows of {rule.source!r} are not packed by four")
        # The older kind of layer divides by the scale.
        make = unpacked_ternary(self.quantization.get("linear_class") != "autobitlinear")
        also = {f"{rule.source}_scale": (1,)}
        yield dataclasses.replace(rule, shape=(n // 4, k), also=also, make=make, made=(n, k))

    def canonical(self, name: str) -> str | None:
        # What the first models called the sub-norms.
        return name.replace("self_attn.inner_attn_ln.", "self_attn.attn_sub_norm.").replace(
            "mlp.ffn_layernorm.", "mlp.ffn_sub_norm."
        )
