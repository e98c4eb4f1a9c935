"""Which tensors a converted file holds, and which of the checkpoint each is made of: all known before any is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockquant.converter.families import Family, TensorRule
from blockquant.converter.makers import Pieces, plain
from blockquant.converter.safetensors import StoredTensor
from blockquant.errors import BlockquantError

# Buffers that old checkpoints hold beside the weights; they follow from the config.
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True)
class Planned:
    """A tensor of the output: made of `sources` by a rule, or computed (without sources)."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[StoredTensor, ...] = ()
    rule: TensorRule | None = None
    computed: NDArray[np.float32] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it is float32 in a file of any float type."""
        return len(self.shape) < 2 or (self.rule is not None and self.rule.exact)

    def pieces(self) -> Pieces:
        """The elements in pieces of whole rows, [n, K] (a vector whole), with their dtype."""
        if self.rule is None:
            assert self.computed is not None
            yield self.computed, "F32"
        elif self.rule.make is not None:
            yield from self.rule.make(self.sources)
        else:
            yield from plain(self.sources[0], self.rule.row_order)

    def release(self) -> None:
        """Give the mapped pages of the sources back."""
        for source in self.sources:
            source.release()


def _check_size(family: Family, checkpoint: Mapping[str, StoredTensor]) -> None:
    """ValueError where config.json speaks of far more than the checkpoint has, before time and memory go into it."""
    if family.experts and any(re.search(r"\.experts\.\D", name) for name in checkpoint):
        raise BlockquantError(
            "the experts of a layer are one tensor here; expected one for each, as save_pretrained writes them"
        )
    if family.block_count * max(1, family.experts) > len(checkpoint):
        experts = f" of {family.experts} experts" if family.experts else ""
        raise BlockquantError(
            f"config.json: {family.block_count} layers{experts} need more tensors than the {len(checkpoint)} of the "
            "checkpoint; config.json and the weights do not fit together"
        )
    longest = max((n for tensor in checkpoint.values() for n in tensor.shape), default=0)
    if family.heads * family.head_dim > longest:
        raise BlockquantError(
            f"config.json: {family.heads} attention heads of {family.head_dim} values are more than the longest "
            f"dimension of the checkpoint, {longest}; config.json and the weights do not fit together"
        )


def plan_tensors(family: Family, checkpoint: Mapping[str, StoredTensor]) -> list[Planned]:
    """The output tensors in order: computed ones, then those of the checkpoint, each when its last source has come."""
    _check_size(family, checkpoint)
    rules: dict[str, list[TensorRule]] = {}
    awaited: dict[str, int] = {}  # by target: sources that have not come
    for rule in family.tensors():
        names = dict.fromkeys((*rule.sources, *rule.after))
        awaited[rule.target] = len(names)
        for name in names:
            rules.setdefault(name, []).append(rule)
    used: dict[str, StoredTensor] = {}
    plan = [Planned(name, data.shape, computed=data) for name, data in family.computed_tensors().items()]
    canonical = {stored: family.canonical(stored) for stored in checkpoint}
    # A checkpoint saved from the bare model (without its output head) has no "model." before its names.
    known = set(canonical.values())
    bare = "model.embed_tokens.weight" not in known and "embed_tokens.weight" in known
    for stored, tensor in checkpoint.items():
        found = canonical[stored]
        if found is None or found.endswith(_BUFFERS):
            continue
        name = f"model.{found}" if bare and not found.startswith("lm_head.") else found
        if name in used:
            raise BlockquantError(f"{tensor.file.path}: tensor {stored!r} is there twice, under another name too")
        if name not in rules:
            raise BlockquantError(
                f"{tensor.file.path}: tensor {stored!r} belongs to no {family.arch} model with {family.block_count} "
                "layers; config.json and the weights do not fit together"
            )
        used[name] = tensor
        for rule in rules[name]:
            expected = rule.sources.get(name, tensor.shape)
            if tensor.shape != expected:
                raise BlockquantError(
                    f"{tensor.file.path}: tensor {stored!r} has shape {list(tensor.shape)}, "
                    f"config.json makes it {list(expected)}"
                )
            awaited[rule.target] -= 1
            if not awaited[rule.target]:
                parts = tuple(used[source] for source in rule.sources)
                plan.append(Planned(rule.target, rule.made or rule.shape, parts, rule))
    missing = [name for name, of in rules.items() if name not in used and any(rule.required for rule in of)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise BlockquantError(f"the checkpoint lacks the tensor {missing[0]!r}{more} of a {family.arch} model")
    return plan
