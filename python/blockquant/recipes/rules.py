"""What a rule of the table means: its conditions, and the model and tensor that they look at."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from math import prod
from typing import Any

import numpy as np

from blockquant.errors import BlockquantError

# Layer counts at which an architecture's models are those with one attn_v for eight heads.
_LARGE_LAYERS = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
_EXPERT_ROLES = ("ffn_up", "ffn_gate", "ffn_down")


@dataclass(frozen=True)
class Model:
    """The hyper-parameters that decide formats."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int
    extra_layers: int = 0  # next-token prediction layers, which block_count includes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Model:
        """Read them from GGUF metadata; ValueError where the architecture or the layer count is missing."""
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise BlockquantError("the metadata has no 'general.architecture': a recipe needs to know the architecture")

        if architecture == "clip":  # llama.cpp looks at nothing else of an encoder
            return cls(architecture, 0, 0, 0, 0)

        def number(key: str, default: int | None) -> int:
            value = metadata.get(f"{architecture}.{key}", default)
            if isinstance(value, (np.ndarray, list, tuple)):  # one number for each layer; the first one counts
                value = value[0] if len(value) else default
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                got = "missing" if value is None else repr(value)
                raise BlockquantError(f"metadata '{architecture}.{key}' must be an integer, it is {got}")
            return int(value)

        heads = number("attention.head_count", 0)
        layers = number("block_count", None)
        if architecture == "nanbeige":
            layers *= number("num_loops", 1)
        if architecture == "graniteswitch":  # one more that routes
            layers += 1 - number("nextn_predict_layers", 0)
        return cls(
            architecture,
            layers,
            heads,
            number("attention.head_count_kv", heads),
            number("expert_count", 0),
            number("nextn_predict_layers", 0),
        )

    @property
    def heads_per_kv(self) -> int:
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_large_llama(self) -> bool:
        if self.layers - self.extra_layers != _LARGE_LAYERS.get(self.architecture):
            return False
        if self.architecture.startswith("llama"):
            return self.heads != self.kv_heads and self.experts != 8
        return True


@dataclass(frozen=True)
class Place:
    """One tensor as the conditions see it."""

    model: Model
    name: str
    role: str  # "named": a rule is about this tensor's name, and `seen` is the number in it
    shape: tuple[int, ...]
    base_block: int  # elements in a block of the recipe's base format
    imatrix: bool  # the file is quantized with an importance matrix
    seen: int  # tensors of this role that came before
    total: int  # tensors of this role for attn_v, layers of the model otherwise
    strict: bool = True  # refuse what llama-quantize refuses: tensors of a mixture of experts that are in no layer

    @property
    def stacked(self) -> bool:
        """[E, N, K] with E > 1."""
        return len(self.shape) > 2 and self.shape[-3] > 1

    @property
    def layer(self) -> int:
        """Expert tensors do not come in the order of their layers in every file, so that their names say it.

        -1 for a tensor that is in no layer: no condition about the position holds for it.
        """
        if self.model.experts <= 1 or self.role in ("attn_v", "named"):
            return self.seen
        match = re.match(r"blk\.(\d+)", self.name)
        if match is None and not self.strict:
            return -1
        if match is None:
            raise BlockquantError(f"tensor {self.name!r} of a mixture of experts must be named 'blk.LAYER...'")
        layer = int(match[1])
        if layer >= self.total and self.strict:
            raise BlockquantError(f"tensor {self.name!r} is of layer {layer}, but the model has {self.total} layers")
        return layer


def _more_bits(place: Place) -> bool:
    layer, total = place.layer, place.total
    return 0 <= layer < total // 8 or layer >= 7 * total // 8 or (layer >= 0 and (layer - total // 8) % 3 == 2)


def _expert_stack(place: Place) -> bool:
    # bailingmoe3 also stacks its attention projections.
    return place.stacked and (place.model.architecture != "bailingmoe3" or place.role in _EXPERT_ROLES)


CONDITIONS: dict[str, Callable[[Place], bool]] = {
    # position of the layer
    "first_2": lambda place: 0 <= place.layer < 2,
    "first_4": lambda place: 0 <= place.layer < 4,
    "first_sixteenth": lambda place: 0 <= place.layer < place.total // 16,
    "first_eighth": lambda place: 0 <= place.layer < place.total // 8,
    "first_eighth_seen": lambda place: 0 <= place.seen < place.total // 8,  # counted by tensors, even with experts
    "middle": lambda place: place.total // 8 <= place.layer < 7 * place.total // 8,
    "more_bits": _more_bits,  # the first and last eighth, and every third layer between
    # the model
    "wide_gqa": lambda place: place.model.heads_per_kv >= 4,
    "experts_4": lambda place: place.model.experts >= 4,
    "experts_8": lambda place: place.model.experts == 8,
    "falcon": lambda place: place.model.architecture == "falcon",
    "large_llama": lambda place: place.model.is_large_llama,  # 70B and its like: one attn_v for eight heads
    # the tensor and the run
    "expert_stack": _expert_stack,
    "base_fits": lambda place: place.shape[-1] % place.base_block == 0,
    "imatrix": lambda place: place.imatrix,
}

# Numbers that a condition such as "layer < 4" compares.
NUMBERS: dict[str, Callable[[Place], int]] = {
    "layer": lambda place: place.layer,
    "layers": lambda place: place.model.layers,
    "experts": lambda place: place.model.experts,
    "heads_per_kv": lambda place: place.model.heads_per_kv,
    "columns": lambda place: place.shape[-1],
    "rows": lambda place: prod(place.shape[:-1]),
    "elements": lambda place: prod(place.shape),
    "dimensions": lambda place: len(place.shape),
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}

Term = tuple[Callable[[Place], bool], bool]


def _parse_term(rule: str, word: str) -> Callable[[Place], bool]:
    if word in CONDITIONS:
        return CONDITIONS[word]
    match = re.fullmatch(r"(\w+)\s*(<=|>=|==|!=|<|>)\s*(\d{1,18})", word)
    if match is None or match[1] not in NUMBERS:
        near = get_close_matches(word, [*CONDITIONS, *NUMBERS], n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the conditions are {', '.join(CONDITIONS)}"
        raise BlockquantError(
            f"rule {rule!r}: unknown condition {word!r}; {hint} (and comparisons such as 'layer < 4', with "
            f"{', '.join(NUMBERS)})"
        )
    number, compare, limit = NUMBERS[match[1]], _COMPARISONS[match[2]], int(match[3])
    # Nothing holds for the layer of a tensor that is in none.
    return lambda place: (value := number(place)) >= 0 and compare(value, limit)


@cache
def parse_rule(rule: str) -> tuple[str, tuple[Term, ...]]:
    """Split "FORMAT if a and not b" into the format and (condition, expected) pairs; ValueError when it cannot be."""
    choice, separator, text = rule.partition(" if ")
    if separator and not text.strip():
        raise BlockquantError(f"rule {rule!r}: there is no condition after 'if'")
    terms = []
    for part in text.split(" and ") if separator else ():
        word = " ".join(part.split())
        expected = not word.startswith("not ")
        terms.append((_parse_term(rule, word.removeprefix("not ").strip()), expected))
    return choice.strip(), tuple(terms)


def decide(rules: tuple[str, ...], place: Place, default: str) -> str:
    """The format of the first rule that holds for `place`, or `default`."""
    for rule in rules:
        choice, terms = parse_rule(rule)
        if all(condition(place) == expected for condition, expected in terms):
            return choice
    return default
