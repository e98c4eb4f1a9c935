"""What every decoder family shares: the tensors of a Llama-shaped layer and the metadata keys they come with.

A family is a subclass that says what differs. `tensors()` lists every tensor its checkpoints may hold; the converter
refuses a checkpoint that lacks a required one, holds another, or holds one of another shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blockquant.converter.config import Config
from blockquant.converter.makers import Maker
from blockquant.errors import BlockquantError


@dataclass(frozen=True)
class TensorRule:
    """How one or several checkpoint tensors become one GGUF tensor.

    `source` is its name in the checkpoint and `target` in the file, `shape` what it must be (rows first). Stored row i
    is source row `row_order[i]` when an order is given. `also` lists further sources, name -> shape, and `make` says
    how the tensor of shape `made` (default `shape`) comes of all of them. Its place in the file is that of its last
    source, or of the last of `after`. A tensor that is `exact` is float32 in a file of any float type.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    required: bool = True
    row_order: NDArray[np.intp] | None = None
    also: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    make: Maker | None = None
    made: tuple[int, ...] | None = None
    after: tuple[str, ...] = ()
    exact: bool = False

    @property
    def sources(self) -> dict[str, tuple[int, ...]]:
        """All sources, name -> shape."""
        return {self.source: self.shape, **self.also}

    def inside(self, source: str, target: str) -> TensorRule:
        """The same rule for names that stand behind the prefixes `source` and `target`."""
        also = {source + name: shape for name, shape in self.also.items()}
        after = tuple(source + name for name in self.after)
        return replace(self, source=source + self.source, target=target + self.target, also=also, after=after)


class Family:
    """A model architecture, made from its config.json. Raises ValueError for a config it cannot represent."""

    architectures: ClassVar[tuple[str, ...]] = ()
    """Values of config.json's `architectures[0]` that this family converts."""

    arch: ClassVar[str] = ""
    """GGUF's `general.architecture`."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """What the family's configuration class assumes for keys that config.json leaves out."""

    rope_types: ClassVar[tuple[str, ...]] = ("default", "linear", "yarn", "dynamic")

    activations: ClassVar[tuple[str, ...]] = ("silu", "swish")
    """Values of `hidden_act` that the architecture stands for; the first is assumed where config.json has none."""

    packed: ClassVar[tuple[str, ...]] = ()
    """Quantized checkpoints that can be read, by `quantization_config.quant_method`."""

    embeds: ClassVar[bool] = False
    """Whether there are embedding models of this family, whose files say how the states of a text become one."""

    experts: int = 0
    """Experts of a layer; 0 where a layer has none."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        config = self.config = Config(values, self.defaults)
        self.block_count = config.count("num_hidden_layers")
        self.hidden = config.count("hidden_size")
        self.heads = config.count("num_attention_heads")
        self.kv_heads = self.heads if config.get("num_key_value_heads") is None else config.count("num_key_value_heads")
        self.vocab_size = config.count("vocab_size")
        self.feed_forward = config.count("intermediate_size")
        self.head_dim = self._head_dim()
        self.rope = config.rope
        self._check()

    def _head_dim(self) -> int:
        return self.hidden // self.heads if self.config.get("head_dim") is None else self.config.count("head_dim")

    def _check(self) -> None:
        if self.heads % self.kv_heads:
            raise BlockquantError(
                f"config.json: {self.heads} attention heads are not a multiple of {self.kv_heads} key-value heads"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise BlockquantError(
                f"config.json: a head of {self.head_dim} values cannot be rotated; head_dim must be even"
            )
        activation = self.config.get("hidden_act") or self.config.get("hidden_activation")
        if activation not in (None, *self.activations):
            raise BlockquantError(
                f"config.json: hidden_act {activation!r}; a {self.arch} file can only say {self.activations[0]!r}"
            )
        method = self.quantization.get("quant_method")
        if self.quantization and method not in self.packed:
            raise BlockquantError(
                f"config.json: the checkpoint is already quantized ({method}); convert the original weights"
            )
        if self.rope.type not in self.rope_types:
            raise BlockquantError(
                f"config.json: rope type {self.rope.type!r} of a {self.arch} model is not supported; "
                f"supported are {', '.join(self.rope_types)}"
            )
        self.check_rotation()

    def check_rotation(self) -> None:
        """Raises ValueError where only a part of a head is rotated, which most architectures cannot say."""
        if self.rotated != self.head_dim:
            raise BlockquantError(f"config.json: partial_rotary_factor must be 1 for a {self.arch} model")

    @property
    def quantization(self) -> Mapping[str, Any]:
        """`quantization_config`, {} where there is none."""
        found = self.config.get("quantization_config")
        return found if isinstance(found, Mapping) else {}

    @property
    def rotated(self) -> int:
        """Leading elements of a head that are rotated."""
        return int(min(self.rope.positive("partial_rotary_factor", 1.0), 2.0) * self.head_dim)

    # ---- metadata

    def first_metadata(self) -> dict[str, Any]:
        """`<arch>.*` keys that llama.cpp writes before all others."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """The `<arch>.*` keys, in llama.cpp's order; ints are written as uint32, floats as float32."""
        config = self.config
        keys: dict[str, Any] = {"block_count": self.block_count}
        if config.get("max_position_embeddings") is not None:
            keys["context_length"] = config.count("max_position_embeddings")
        keys["embedding_length"] = self.hidden
        keys["feed_forward_length"] = self.feed_forward
        keys["attention.head_count"] = self.heads
        keys["attention.head_count_kv"] = self.kv_heads
        keys.update(self.rope_metadata())
        keys["attention.layer_norm_rms_epsilon"] = config.number("rms_norm_eps")
        keys.update(self.expert_metadata())
        if config.get("head_dim") is not None:
            keys["attention.key_length"] = self.head_dim
            keys["attention.value_length"] = self.head_dim
        return {f"{self.arch}.{key}": value for key, value in keys.items()}

    def rope_metadata(self) -> dict[str, Any]:
        """Frequency base and scaling; "dynamic" and "llama3" need no key (the latter is a tensor of factors)."""
        rope = self.rope
        keys: dict[str, Any] = {}
        if rope.type in ("linear", "yarn"):
            keys["rope.scaling.type"] = rope.type
            keys["rope.scaling.factor"] = float(rope.number("factor"))
        if rope.type == "yarn":
            keys["rope.scaling.original_context_length"] = rope.original_context
            optional = {
                "yarn_ext_factor": ("extrapolation_factor",),
                "yarn_attn_factor": ("attention_factor", "attn_factor"),  # under its older name too
                "yarn_beta_fast": ("beta_fast",),
                "yarn_beta_slow": ("beta_slow",),
            }
            for key, names in optional.items():
                if name := next((name for name in names if rope.parameters.get(name) is not None), None):
                    keys[f"rope.scaling.{key}"] = float(rope.number(name))
        keys["rope.freq_base"] = rope.theta
        return keys

    def expert_metadata(self) -> dict[str, Any]:
        """Keys of a mixture of experts."""
        return {}

    def late_metadata(self) -> dict[str, Any]:
        """Further `<arch>.*` keys, which llama.cpp writes after `general.file_type`."""
        return {}

    def tokenizer_metadata(self, vocabulary: Mapping[str, Any]) -> dict[str, Any]:
        """Further `tokenizer.*` keys, after or instead of those of the vocabulary that was read."""
        return {}

    def size_label(self, plan: Mapping[str, tuple[int, ...]]) -> str | None:
        """`general.size_label` of a model whose name holds none, from the tensors' shapes; None for their elements."""
        return None

    # ---- tensors

    def canonical(self, name: str) -> str | None:
        """The name that `tensors()` gives a tensor of the checkpoint; None for one of no part of the language model."""
        return name

    def tensors(self) -> Iterator[TensorRule]:
        """Every tensor a checkpoint of this model may hold."""
        yield TensorRule("model.embed_tokens.weight", "token_embd.weight", (self.vocab_size, self.hidden))
        for i in range(self.block_count):
            for rule in self.layer_tensors():
                yield rule.inside(f"model.layers.{i}.", f"blk.{i}.")
        yield TensorRule("model.norm.weight", "output_norm.weight", (self.hidden,))
        # A checkpoint with tied embeddings may hold its output matrix all the same; llama.cpp then writes it too.
        tied = self.config.flag("tie_word_embeddings")
        yield TensorRule("lm_head.weight", "output.weight", (self.vocab_size, self.hidden), required=not tied)

    def layer_tensors(self) -> Iterator[TensorRule]:
        """The tensors of one layer, with names inside the layer."""
        yield TensorRule("input_layernorm.weight", "attn_norm.weight", (self.hidden,))
        yield TensorRule("post_attention_layernorm.weight", "ffn_norm.weight", (self.hidden,))
        yield from self.attention_tensors()
        yield from self.feed_forward_tensors()

    def feed_forward_tensors(self) -> Iterator[TensorRule]:
        """The gated unit, with biases where the config asks for them."""
        for name, target, shape in (
            ("gate", "ffn_gate", (self.feed_forward, self.hidden)),
            ("up", "ffn_up", (self.feed_forward, self.hidden)),
            ("down", "ffn_down", (self.hidden, self.feed_forward)),
        ):
            yield TensorRule(f"mlp.{name}_proj.weight", f"{target}.weight", shape)
            if self.config.flag("mlp_bias"):
                yield TensorRule(f"mlp.{name}_proj.bias", f"{target}.bias", shape[:1])

    def attention_tensors(self) -> Iterator[TensorRule]:
        """Query, key, value and output projections, with biases where the config asks for them."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        orders = self.query_key_orders()
        for name, target, shape in (
            ("q", "attn_q", (q, self.hidden)),
            ("k", "attn_k", (kv, self.hidden)),
            ("v", "attn_v", (kv, self.hidden)),
            ("o", "attn_output", (self.hidden, q)),
        ):
            source = f"self_attn.{name}_proj"
            yield TensorRule(f"{source}.weight", f"{target}.weight", shape, row_order=orders.get(name))
            if name in self.attention_biases():
                yield TensorRule(f"{source}.bias", f"{target}.bias", shape[:1], row_order=orders.get(name))

    def attention_biases(self) -> str:
        """Which of the projections "qkvo" have a bias."""
        return "qkvo" if self.config.flag("attention_bias") else ""

    def query_key_orders(self) -> dict[str, NDArray[np.intp]]:
        """Row orders of the "q" and "k" projections, for architectures that rotate neighbouring pairs."""
        return {}

    def computed_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Tensors that come from the config alone; written first, as float32."""
        return {}
