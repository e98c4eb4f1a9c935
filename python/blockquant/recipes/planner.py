"""From shapes, metadata and a recipe to a format for every tensor, as llama-quantize chooses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from blockquant._formats import Format, find_format, formats
from blockquant.errors import BlockquantError

from .rules import Model, Place, decide
from .table import (
    ALIASES,
    FALLBACKS,
    IMATRIX_FORMAT_OF_RECIPE,
    IMATRIX_FORMATS,
    LARGE_LLAMA_ATTN_V,
    LAST_FALLBACK,
    MINIMUM,
    RECIPES,
    Recipe,
)
from .tensors import OUTPUT, TOKEN_EMBEDDINGS, file_order, is_quantized, role_of

Overrides = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Choice:
    """The decision for one tensor."""

    name: str
    shape: tuple[int, ...]
    format: str
    wanted: str  # the format before a fallback; the same as `format` where the blocks fit
    quantized: bool  # False: the tensor stays as it is
    needs_imatrix: bool  # the format is garbage here without an importance matrix

    @property
    def is_fallback(self) -> bool:
        return self.format != self.wanted


def names() -> list[str]:
    """The recipes: every llama.cpp file type, in the order of its numbers."""
    return list(RECIPES)


def get(name: str) -> Recipe:
    """The recipe of this name, in any case; Q3_K, Q4_K and Q5_K mean their _M. ValueError with near names."""
    key = str(name).upper()
    recipe = RECIPES.get(ALIASES.get(key, key))
    if recipe is None:
        near = get_close_matches(key, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the recipes are {', '.join(RECIPES)}"
        raise BlockquantError(f"unknown recipe {name!r}: {hint}")
    return recipe


def plan(
    tensors: Mapping[str, Any],
    recipe: str | Recipe,
    metadata: Mapping[str, Any],
    imatrix_names: Collection[str] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
) -> dict[str, str]:
    """Choose a format for every tensor, as llama-quantize does.

    tensors: {name: shape}, shapes in numpy order ([N, K], [E, N, K]); anything with `.shape` and `.format` also
        serves, and then tensors that are not quantized keep that format. Without it they are F32.
    recipe: a name of `names()`.
    metadata: the GGUF metadata (general.architecture, ARCH.block_count, ARCH.attention.head_count ...).
    imatrix_names: the tensors for which there is an importance matrix; some recipes differ when there is one.
    overrides: {regular expression: format}; the first that is found in a tensor's name decides, before the recipe.
    pure: give every quantized tensor the recipe's base format.
    output_tensor_type, token_embedding_type: formats of these tensors.

    Returns {name: format} in the order in which llama-quantize writes the tensors: by layer, then by name. Rows that
    the blocks of a format do not divide get its fallback. ValueError: unknown recipe or format, metadata that is
    missing, a format asked for explicitly that does not fit.
    """
    choices = explain(
        tensors, recipe, metadata, imatrix_names, overrides, pure, output_tensor_type, token_embedding_type
    )
    return {choice.name: choice.format for choice in choices}


def explain(
    tensors: Mapping[str, Any],
    recipe: str | Recipe,
    metadata: Mapping[str, Any],
    imatrix_names: Collection[str] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    order: Iterable[str] | None = None,
) -> list[Choice]:
    """As `plan`, with what was wanted before a fallback and whether an importance matrix is needed.

    order: the names in the order of the file, where it is another than llama-quantize's usual one; rules that count
        tensors count in that order.
    """
    chosen = recipe if isinstance(recipe, Recipe) else get(recipe)
    planner = _Planner(
        recipe=chosen,
        model=Model.from_metadata(metadata),
        tied=OUTPUT not in tensors,
        imatrix=bool(imatrix_names),
        pure=pure,
        overrides=_compile_overrides(overrides),
        output_type=output_tensor_type and _explicit_format(output_tensor_type, "output_tensor_type"),
        embedding_type=token_embedding_type and _explicit_format(token_embedding_type, "token_embedding_type"),
        attn_v_total=sum(role_of(name) == "attn_v" for name in tensors),
        seen=Counter(),
    )
    sequence = sorted(tensors, key=file_order) if order is None else order
    return [planner.choose(name, tensors[name]) for name in sequence]


@dataclass
class _Planner:
    recipe: Recipe
    model: Model
    tied: bool  # the token embedding is the output tensor too
    imatrix: bool
    pure: bool
    overrides: list[tuple[re.Pattern[str], str]]
    output_type: str | None
    embedding_type: str | None
    attn_v_total: int
    seen: Counter[str]

    def choose(self, name: str, tensor: Any) -> Choice:
        shape = tuple(int(n) for n in getattr(tensor, "shape", tensor))
        if not is_quantized(name, shape, self.model.architecture):
            kept = str(getattr(tensor, "format", "F32"))
            return Choice(name, shape, formats.get(kept, kept), kept, quantized=False, needs_imatrix=False)
        wanted, explicit = self._want(name, shape)
        row = shape[-1]
        format = formats[wanted]
        if row % format.block_size:
            if explicit:
                raise BlockquantError(
                    f"{wanted} was asked for, but the rows of {name!r} have {row} elements, "
                    f"not a multiple of {format.block_size}"
                )
            format = _fallback(wanted, row, name)
        return Choice(name, shape, format, wanted, True, _needs_imatrix(name, format, self.recipe))

    def _want(self, name: str, shape: tuple[int, ...]) -> tuple[str, bool]:
        """The format before fallbacks, and whether it must not have one."""
        role = role_of(name)
        override = next((format for pattern, format in self.overrides if pattern.search(name)), None)
        # The per-layer table of embeddings follows token_embedding_type unless an override names it.
        if role == "token_embd" and self.embedding_type and not (override and name != TOKEN_EMBEDDINGS[0]):
            return self.embedding_type, True
        if role == "output" and self.output_type:
            return self.output_type, True
        base = self.recipe.base
        if formats[base].run == 0:  # a float recipe has nothing to weigh, and llama-quantize no overrides for it
            return base, False
        if override:
            return override, False
        if self.pure:
            return base, False
        return self._by_rule(name, role, shape), False

    def _by_rule(self, name: str, role: str, shape: tuple[int, ...]) -> str:
        recipe, model = self.recipe, self.model
        parts, minimum = MINIMUM.get(model.architecture, ((), ""))
        if any(part in name for part in parts):
            return minimum
        if role == "output" or (role == "token_embd" and self.tied):
            if self.output_type:
                return self.output_type
            fits = shape[-1] % formats[recipe.base].block_size == 0
            return recipe.output if fits and model.architecture != "falcon" else "Q8_0"
        place = Place(
            model,
            name,
            role,
            stacked=len(shape) > 2 and shape[-3] > 1,
            imatrix=self.imatrix,
            seen=self.seen[role],
            total=self.attn_v_total if role == "attn_v" else model.layers,
        )
        self.seen[role] += 1
        choice = decide(recipe.rules_for(role), place, recipe.base)
        if recipe.common and role == "attn_v" and model.is_large_llama:
            choice = LARGE_LLAMA_ATTN_V.get(choice, choice)
        return choice


def _fallback(wanted: str, row: int, name: str) -> Format:
    """The nearest format whose blocks divide the row."""
    other = FALLBACKS.get(wanted)
    if other is None and formats[wanted].block_size > 32:
        raise BlockquantError(
            f"the rows of {name!r} have {row} elements, not a multiple of {formats[wanted].block_size}, and {wanted} "
            "has no fallback: name another format for this tensor with an override"
        )
    fits = other is not None and row % formats[other].block_size == 0
    return formats[other] if other is not None and fits else formats[LAST_FALLBACK]


def _needs_imatrix(name: str, format: str, recipe: Recipe) -> bool:
    if name in TOKEN_EMBEDDINGS or name == OUTPUT:
        return False
    return format in IMATRIX_FORMATS or format == IMATRIX_FORMAT_OF_RECIPE.get(recipe.name)


def _explicit_format(name: str, argument: str) -> str:
    try:
        return find_format(name).name
    except ValueError as error:
        raise BlockquantError(f"{argument}: {error}") from None


def _compile_overrides(overrides: Overrides | None) -> list[tuple[re.Pattern[str], str]]:
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides or ()
    compiled = []
    for pattern, format in pairs:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise BlockquantError(f"overrides: {pattern!r} is not a regular expression: {error}") from None
        compiled.append((expression, _explicit_format(format, f"overrides, {pattern!r}")))
    return compiled
