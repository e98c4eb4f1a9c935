"""From shapes, metadata and a recipe to a format for every tensor, as llama-quantize chooses."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from blockquant._formats import Format, find_format, formats
from blockquant.errors import BlockquantError

from . import unknown
from .rules import Model, Place, decide
from .table import ALIASES, IMATRIX_FORMATS, KEEP, LAST_FALLBACK, MINIMUM, RECIPES, Recipe
from .tensors import OUTPUT, TOKEN_EMBEDDINGS, file_order, role_of, why_kept

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
    reason: str = ""  # why it stays, or why it has another format than the one wanted

    @property
    def is_fallback(self) -> bool:
        return self.format != self.wanted


def names() -> list[str]:
    """The recipes: every llama.cpp file type, in the order of its numbers."""
    return list(RECIPES)


def get(name: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe of this name, in any case, or of a user's file that ends in .toml; a Recipe is returned as it is.

    Q3_K, Q4_K and Q5_K mean their _M, and a number is a file type. ValueError with near names, or with the line of the
    file that is wrong.
    """
    if isinstance(name, Recipe):
        return name
    text = os.fspath(name)
    if text.lower().endswith(".toml"):
        from .custom import load

        return load(text)
    key = text.upper()
    recipe = RECIPES.get(ALIASES.get(key, key))
    if recipe is None and key.isdecimal():
        recipe = next((r for r in RECIPES.values() if str(r.file_type) == key), None)
    if recipe is None:
        near = get_close_matches(key, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the recipes are {', '.join(RECIPES)}"
        raise BlockquantError(f"unknown recipe {text!r}: {hint} (a recipe of your own is a file that ends in .toml)")
    return recipe


def plan(
    tensors: Mapping[str, Any],
    recipe: str | os.PathLike[str] | Recipe,
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
    recipe: a name of `names()`, the path of a .toml file, or a `Recipe`.
    metadata: the GGUF metadata (general.architecture, ARCH.block_count, ARCH.attention.head_count ...).
    imatrix_names: the tensors for which there is an importance matrix; some recipes differ when there is one.
    overrides: {regular expression: format}; the first that is found in a tensor's name decides, before the recipe.
        Format "keep" leaves the tensor as it is.
    pure: give every quantized tensor the recipe's base format.
    output_tensor_type, token_embedding_type: formats of these tensors.

    Returns {name: format} in the order in which llama-quantize writes the tensors: by layer, then by name. Rows that
    the blocks of a format do not divide get its fallback. ValueError: unknown recipe or format, metadata that is
    missing, a format asked for explicitly that does not fit.

    Tensors of a model that llama.cpp does not know (no `blk.` names, no block count) are told apart by name and shape:
    see `unknown`. What does not fit its blocks there stays as it is.
    """
    choices = explain(
        tensors, recipe, metadata, imatrix_names, overrides, pure, output_tensor_type, token_embedding_type
    )
    return {choice.name: choice.format for choice in choices}


def explain(
    tensors: Mapping[str, Any],
    recipe: str | os.PathLike[str] | Recipe,
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
    chosen = get(recipe)
    new = unknown.is_unknown(tensors, metadata)
    planner = (_UnknownPlanner if new else _Planner)(
        recipe=chosen,
        model=_unknown_model(tensors, metadata) if new else Model.from_metadata(metadata),
        tied=OUTPUT not in tensors,
        imatrix=bool(imatrix_names),
        pure=pure,
        overrides=compile_patterns("overrides", overrides),
        named=() if pure else tuple((re.compile(pattern), rules) for pattern, rules in chosen.tensors),
        output_type=_explicit_format(output_tensor_type, "output_tensor_type"),
        embedding_type=_explicit_format(token_embedding_type, "token_embedding_type"),
        attn_v_total=sum(role_of(name) == "attn_v" for name in tensors),
        seen=Counter(),
    )
    sequence = sorted(tensors, key=file_order) if order is None else order
    return [planner.choose(name, tensors[name]) for name in sequence]


def _unknown_model(tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> Model:
    architecture = metadata.get("general.architecture", "unknown")
    numbers = [number for name in tensors if (number := unknown.number_in_name(name)) is not None]
    return Model(str(architecture), max(numbers, default=-1) + 1, heads=0, kv_heads=0, experts=0)


@dataclass
class _Planner:
    recipe: Recipe
    model: Model
    tied: bool  # the token embedding is the output tensor too
    imatrix: bool
    pure: bool
    overrides: list[tuple[re.Pattern[str], str]]
    named: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]  # the recipe's rules about names
    output_type: str | None
    embedding_type: str | None
    attn_v_total: int
    seen: Counter[str]

    def choose(self, name: str, tensor: Any) -> Choice:
        shape = tuple(int(n) for n in getattr(tensor, "shape", tensor))
        stored = str(getattr(tensor, "format", "F32"))
        stays = why_kept(name, shape, self.model.architecture)
        if stays:
            return _kept(name, shape, stored, stored, stays)
        wanted, explicit = self._want(name, shape)
        if wanted == KEEP:
            return _kept(name, shape, stored, stored, "the recipe keeps it")
        row = shape[-1]
        format, reason = formats[wanted], ""
        if row % format.block_size:
            reason = _why_not(wanted, row)
            if explicit:
                raise BlockquantError(
                    f"{wanted} was asked for, but the rows of {name!r} have {row} elements, "
                    f"not a multiple of {format.block_size}"
                )
            format = self._fallback(wanted, row, name)
        return Choice(name, shape, format, wanted, True, self._needs_imatrix(name, format), reason)

    def _want(self, name: str, shape: tuple[int, ...]) -> tuple[str, bool]:
        """The format before fallbacks, and whether it must not have one."""
        role = role_of(name)
        override = self._override(name)
        if override == KEEP:  # output.weight=keep is llama-quantize's --leave-output-tensor
            return KEEP, False
        # The per-layer table of embeddings follows token_embedding_type unless an override names it.
        if role == "token_embd" and self.embedding_type and not (override and name != TOKEN_EMBEDDINGS[0]):
            return self.embedding_type, True
        if role == "output" and self.output_type:
            return self.output_type, True
        base = self.recipe.base
        # A float recipe of llama.cpp has nothing to weigh, and llama-quantize no overrides for it.
        if formats[base].is_float and not self.recipe.source:
            return base, False
        if override:
            return override, False
        if self.pure:
            return base, False
        by_name = self._by_name(name, shape)
        if by_name:
            return by_name, False
        return self._by_rule(name, role, shape), False

    def _override(self, name: str) -> str | None:
        return next((format for pattern, format in self.overrides if pattern.search(name)), None)

    def _place(self, name: str, role: str, shape: tuple[int, ...], seen: int) -> Place:
        total = self.attn_v_total if role == "attn_v" else self.model.layers
        block = formats[self.recipe.base].block_size
        return Place(self.model, name, role, shape, block, self.imatrix, seen, total, strict=not self.recipe.source)

    def _by_name(self, name: str, shape: tuple[int, ...]) -> str:
        """What the recipe's rules about names say, or ""."""
        for pattern, rules in self.named:
            if pattern.search(name):
                # These rules are about names, and so are their layers: nothing is counted.
                number = unknown.number_in_name(name)
                choice = decide(rules, self._place(name, "named", shape, -1 if number is None else number), "")
                if choice:
                    return choice
        return ""

    def _by_rule(self, name: str, role: str, shape: tuple[int, ...]) -> str:
        recipe = self.recipe
        parts, minimum = MINIMUM.get(self.model.architecture, ((), ""))
        if any(part in name for part in parts) and not formats[recipe.base].is_float:
            return minimum
        if role == "output" or (role == "token_embd" and self.tied):
            if self.output_type:
                return self.output_type
            own = "token_embd" if "token_embd" in recipe.roles and "output" not in recipe.roles else "output"
            own = role if role == "output" else own
            return decide(recipe.rules_for(own), self._place(name, role, shape, 0), recipe.base)
        place = self._place(name, role, shape, self.seen[role])
        self.seen[role] += 1
        return decide(recipe.rules_for(role), place, recipe.base)

    def _fallback(self, wanted: str, row: int, name: str) -> Format:
        """The nearest format whose blocks divide the row."""
        other = self.recipe.fallback_of(wanted)
        if other is None and formats[wanted].block_size > 32:
            raise BlockquantError(
                f"the rows of {name!r} have {row} elements, not a multiple of {formats[wanted].block_size}, and "
                f"{wanted} has no fallback: name another format for this tensor with an override"
            )
        fits = other is not None and row % formats[other].block_size == 0
        return formats[other] if other is not None and fits else formats[LAST_FALLBACK]

    def _needs_imatrix(self, name: str, format: str) -> bool:
        if name in TOKEN_EMBEDDINGS or name == OUTPUT:
            return False
        return format in IMATRIX_FORMATS or format == self.recipe.needs_imatrix_format


class _UnknownPlanner(_Planner):
    """For the tensors of a model that llama.cpp does not know: the recipe's base format, unless a rule says else."""

    def choose(self, name: str, tensor: Any) -> Choice:
        shape = tuple(int(n) for n in getattr(tensor, "shape", tensor))
        stored = str(getattr(tensor, "format", "F32"))
        stays = unknown.must_stay(shape, stored)
        if stays:
            return _kept(name, shape, stored, stored, stays)
        wanted = self._override(name) or self._by_name(name, shape)
        if not wanted:
            stays = unknown.should_stay(name, shape)
            if stays:
                return _kept(name, shape, stored, stored, stays)
            wanted = self.recipe.base
        if wanted == KEEP:
            return _kept(name, shape, stored, stored, "the recipe keeps it")
        row = shape[-1]
        reason = _why_not(wanted, row) if row % formats[wanted].block_size else ""
        fallback: str | None = wanted
        if reason:
            fallback = self.recipe.fallback_of(wanted)
        if fallback is None or row % formats[fallback].block_size:
            return _kept(name, shape, stored, wanted, reason)
        format = formats[fallback]
        return Choice(name, shape, format, wanted, True, self._needs_imatrix(name, format), reason)


def _kept(name: str, shape: tuple[int, ...], stored: str, wanted: str, reason: str) -> Choice:
    format = formats.get(stored, stored)
    return Choice(name, shape, format, format if wanted == stored else wanted, False, False, reason)


def _why_not(wanted: str, row: int) -> str:
    return f"rows of {row} elements are not whole blocks of {wanted} ({formats[wanted].block_size})"


def _explicit_format(name: str | None, argument: str) -> str | None:
    """The format that was asked for; None and "" ask for none, and the id 0 for F32."""
    if name is None or name == "":
        return None
    return _format(name, argument)


def _format(name: str, argument: str) -> str:
    try:
        return find_format(name).name
    except ValueError as error:
        raise BlockquantError(f"{argument}: {error}") from None


def compile_patterns(argument: str, overrides: Overrides | None) -> list[tuple[re.Pattern[str], str]]:
    """Regular expressions with the formats (or "keep") that they give; ValueError naming the one that is wrong."""
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else overrides or ())
    strange = next((pair for pair in pairs if not isinstance(pair, tuple | list) or len(pair) != 2), None)
    if isinstance(overrides, str) or strange is not None:
        raise TypeError(
            f"{argument} must be {{regular expression: format}} or pairs of them, "
            f"got {overrides if isinstance(overrides, str) else strange!r:.60}"
        )
    return [
        (compile_pattern(argument, pattern), _format_or_keep(format, f"{argument}, {pattern!r}"))
        for pattern, format in pairs
    ]


def compile_pattern(argument: str, pattern: str) -> re.Pattern[str]:
    """A regular expression as llama-quantize takes them; ValueError when it is none."""
    try:
        with warnings.catch_warnings():
            # Of "[[", which is a bracket within a set in C++ and, so far, in Python.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(_from_cpp(pattern))
    except re.error as error:
        raise BlockquantError(f"{argument}: {pattern!r} is not a regular expression: {error}") from None


def _from_cpp(pattern: str) -> str:
    """The pattern with C++'s classes, such as [[:digit:]], written out. re.error for what Python would misread."""
    parts: list[str] = []
    at, in_set = 0, False
    while at < len(pattern):
        step = pattern[at]
        if step == "\\":
            step = pattern[at : at + 2]
            if step in ("\\A", "\\Z"):
                raise re.error(f"{step} is not C++'s; write ^ or $", pattern, at)
        elif not in_set and step == "[":
            in_set = True
            step = "[^" if pattern.startswith("[^", at) else "["
            if pattern.startswith("]", at + len(step)):
                raise re.error("the set is empty in C++; write \\] for a bracket", pattern, at)
        elif in_set and step == "[" and pattern[at + 1 : at + 2] in (":", "=", "."):
            kind = pattern[at + 1]
            end = pattern.find(kind + "]", at + 2)
            step = pattern[at : end + 2] if end > 0 else pattern[at:]
            if kind != ":" or step[2:-2].lower() not in _CLASSES:
                raise re.error(f"{step} is none of the classes [:{':], [:'.join(_CLASSES)}:]", pattern, at)
            parts.append(_CLASSES[step[2:-2].lower()])
            at += len(step)
            continue
        elif in_set and step == "]":
            in_set = False
        parts.append(step)
        at += len(step)
    return "".join(parts)


_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "d": "0-9",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "s": r"\s",
    "space": r"\s",
    "upper": "A-Z",
    "w": r"\w",
    "xdigit": "0-9A-Fa-f",
}


def _format_or_keep(name: str, argument: str) -> str:
    return KEEP if str(name).lower() == KEEP else _format(name, argument)
