"""Qwen3 mixture of experts: a router, and the experts' matrices stacked into one tensor each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, ClassVar

from blockquant.converter.families.base import TensorRule
from blockquant.converter.families.qwen3 import Qwen3
from blockquant.converter.general import size_label
from blockquant.converter.makers import stacked
from blockquant.errors import BlockquantError


class Qwen3Moe(Qwen3):
    architectures = ("Qwen3MoeForCausalLM",)
    arch = "qwen3moe"
    embeds = False
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
    }

    def _check(self) -> None:
        super()._check()
        config = self.config
        # transformers 5 writes num_local_experts as well.
        self.experts = config.count("num_experts" if config.get("num_experts") is not None else "num_local_experts")
        self.expert_size = config.count("moe_intermediate_size")
        self.experts_used = config.count("num_experts_per_tok")
        if config.get("mlp_only_layers") or config.get("decoder_sparse_step") != 1:
            raise BlockquantError("config.json: a qwen3moe file has experts in every layer, these weights have not")

    def expert_metadata(self) -> dict[str, Any]:
        keys: dict[str, Any] = {"expert_count": self.experts, "expert_used_count": self.experts_used}
        # GGUF's loop makes the shares of the chosen experts add up to 1, unless the file says otherwise.
        return keys if self.config.flag("norm_topk_prob") else {**keys, "expert_weights_norm": False}

    def late_metadata(self) -> dict[str, Any]:
        return {f"{self.arch}.expert_feed_forward_length": self.expert_size}

    def size_label(self, plan: Mapping[str, tuple[int, ...]]) -> str | None:
        each = sum(prod(shape[1:]) for name, shape in plan.items() if "_exps." in name)
        shared = sum(prod(shape) for name, shape in plan.items() if "_exps." not in name)
        return f"{self.experts}x{size_label(shared + each)}"

    def feed_forward_tensors(self) -> Iterator[TensorRule]:
        experts, n, k = self.experts, self.expert_size, self.hidden
        yield TensorRule("mlp.gate.weight", "ffn_gate_inp.weight", (experts, k), exact=True)
        names = {
            part: [f"mlp.experts.{i}.{part}_proj.weight" for i in range(experts)] for part in ("down", "gate", "up")
        }
        after = tuple(name for part in names.values() for name in part)
        for part, (first, *others) in names.items():
            shape = (k, n) if part == "down" else (n, k)
            also, target = dict.fromkeys(others, shape), f"ffn_{part}_exps.weight"
            yield TensorRule(first, target, shape, also=also, make=stacked, made=(experts, *shape), after=after)
