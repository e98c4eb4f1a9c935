"""Gemma 3, the text part: local and global layers, four norms a layer that multiply by 1 + weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from blockquant.converter.config import Config
from blockquant.converter.families.base import Family, TensorRule
from blockquant.converter.makers import plus_one
from blockquant.errors import BlockquantError

_PERIOD = 6  # every so many layers one is global, unless the file has a list
_LAYERS_OF_27B = 62  # whose queries are scaled by hidden / heads instead of the head size
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


class Gemma3(Family):
    """`Gemma3ForConditionalGeneration` is the same model beside an image encoder, which is left out."""

    architectures = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    arch = "gemma3"
    activations = ("gelu_pytorch_tanh",)
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    }
    rope_types = ("default", "linear")

    def _check(self) -> None:
        super()._check()
        config = self.config
        if config.get("attn_logit_softcapping") is not None:
            raise BlockquantError("config.json: attn_logit_softcapping has no place in a gemma3 file")
        if config.flag("use_bidirectional_attention"):
            raise BlockquantError("config.json: use_bidirectional_attention has no place in a gemma3 file")

    @cached_property
    def local(self) -> list[bool]:
        """Which layers see a sliding window only. Not looked at before the checkpoint has that many layers."""
        kinds = self.config.get("layer_types")
        if kinds is None:
            named = self.config.get("sliding_window_pattern") is not None
            period = self.config.count("sliding_window_pattern") if named else _PERIOD
            return [(i + 1) % period != 0 for i in range(self.block_count)]
        names = ("sliding_attention", "full_attention")
        if not isinstance(kinds, list) or len(kinds) != self.block_count or any(kind not in names for kind in kinds):
            raise BlockquantError(f"config.json: layer_types must name {' or '.join(names)} for every layer")
        return [kind == names[0] for kind in kinds]

    def _local_theta(self) -> float:
        parameters = self.config.get("rope_parameters")
        local = parameters.get("sliding_attention") if isinstance(parameters, Mapping) else None
        values = dict(local) if isinstance(local, Mapping) else {}
        if values.get("rope_type", "default") != "default":
            raise BlockquantError("config.json: the rotation of local layers cannot be scaled in a gemma3 file")
        values["rope_theta"] = values.get("rope_theta", self.config.get("rope_local_base_freq"))
        return Config(values).number("rope_theta")

    def rope_metadata(self) -> dict[str, Any]:
        return {**super().rope_metadata(), "rope.freq_base_swa": self._local_theta()}

    def late_metadata(self) -> dict[str, Any]:
        config = self.config
        keys: dict[str, Any] = {}
        if config.get("final_logit_softcapping"):
            keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
        keys["attention.sliding_window"] = config.count("sliding_window") if any(self.local) else 0
        if self.local != [(i + 1) % _PERIOD != 0 for i in range(self.block_count)]:
            keys["attention.sliding_window_pattern"] = self.local
        usual = self.hidden // self.heads if self.block_count == _LAYERS_OF_27B else self.head_dim
        scalar = config.number("query_pre_attn_scalar")
        if not scalar > 0:
            raise BlockquantError(f"config.json: 'query_pre_attn_scalar' must be positive, found {scalar}")
        if scalar != usual:
            keys["attention.scale"] = scalar**-0.5
        return {f"{self.arch}.{key}": value for key, value in keys.items()}

    def tokenizer_metadata(self, vocabulary: Mapping[str, Any]) -> dict[str, Any]:
        is_sentencepiece = vocabulary["tokenizer.ggml.model"] == "llama"
        return {"tokenizer.ggml.add_space_prefix": False} if is_sentencepiece else {}

    def canonical(self, name: str) -> str | None:
        if name.startswith(_OTHER_PARTS):
            return None
        # language_model.model.layers... in older files, model.language_model.layers... in newer ones.
        return name.replace("language_model.", "", 1)

    def tensors(self) -> Iterator[TensorRule]:
        for rule in super().tensors():
            yield dataclasses.replace(rule, make=plus_one) if rule.source.endswith("norm.weight") else rule

    def layer_tensors(self) -> Iterator[TensorRule]:
        yield TensorRule("input_layernorm.weight", "attn_norm.weight", (self.hidden,))
        yield TensorRule("post_attention_layernorm.weight", "post_attention_norm.weight", (self.hidden,))
        yield TensorRule("pre_feedforward_layernorm.weight", "ffn_norm.weight", (self.hidden,))
        yield TensorRule("post_feedforward_layernorm.weight", "post_ffw_norm.weight", (self.hidden,))
        yield from self.attention_tensors()
        yield TensorRule("self_attn.q_norm.weight", "attn_q_norm.weight", (self.head_dim,))
        yield TensorRule("self_attn.k_norm.weight", "attn_k_norm.weight", (self.head_dim,))
        yield from self.feed_forward_tensors()
