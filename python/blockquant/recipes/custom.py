"""Recipes that users write: TOML files. `docs/recipes.md` describes the format.

A file starts from a recipe (`base`) or from one format for everything (`format`), and says what differs: rules for
roles (`[roles]`), rules for names (`[[tensors]]`, regular expressions, before the roles), and fallbacks.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from blockquant._formats import find_format, formats
from blockquant.errors import BlockquantError, MissingExtraError

from .planner import compile_pattern, get
from .rules import parse_rule
from .table import FALLBACKS, KEEP, RECIPES, ROLES, Recipe, Rules

_MAX_BYTES = 1 << 20
_KEYS = ("name", "base", "format", "file_type", "roles", "tensors", "fallbacks")


def load(path: str | os.PathLike[str]) -> Recipe:
    """Read a user's recipe. ValueError naming the file, the line and the key; OSError when it cannot be read."""
    source = Path(path)
    with source.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise BlockquantError(f"{source}: a recipe has at most {_MAX_BYTES} bytes")
    try:
        # PowerShell's `>` writes UTF-16 or a byte order mark.
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BlockquantError(f"{source}: not {error.encoding.upper()} at byte {error.start}") from None
    return parse(text, str(source))


def parse(text: str, source: str = "recipe.toml") -> Recipe:
    """A recipe from the text of a TOML file; `source` is its name in errors."""
    try:
        values = _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise BlockquantError(f"{source}: not valid TOML: {error}") from None
    return _Reader(text, source).recipe(values)


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ImportError:
        raise MissingExtraError("tomli", "cli") from None
    return tomli


class _Reader:
    """Checks values and says where in the text they are wrong."""

    def __init__(self, text: str, source: str) -> None:
        self.lines = text.splitlines()
        self.source = source

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        for key in values:
            if key not in _KEYS:
                raise self.error("", key, f"unknown key {key!r}", key, _KEYS)
        if ("base" in values) == ("format" in values):
            raise BlockquantError(
                f'{self.source}: give either base = "a recipe such as Q4_K_M" or format = "one format such as Q4_K"'
            )
        start = self._base(values) if "base" in values else self._plain(values)
        file_type = start.file_type
        if "file_type" in values:
            file_type = self._known_recipe("file_type", values["file_type"]).file_type
        name = values.get("name", Path(self.source).stem)
        if not isinstance(name, str) or not name.strip():
            raise self.error("", "name", "must be a text")
        return replace(
            start,
            name=name,
            file_type=file_type,
            roles={**start.roles, **self._roles(values.get("roles", {}))},
            tensors=(*self._tensors(values.get("tensors", [])), *start.tensors),
            fallbacks={**start.fallbacks, **self._fallbacks(values.get("fallbacks", {}))},
            source=self.source,
        )

    def error(
        self, table: str, key: str, what: str, word: str = "", known: tuple[str, ...] = (), index: int = 0
    ) -> BlockquantError:
        """An error at the line of a key; the index tells the [[tensors]] apart."""
        line = self._line(table, key, index)
        where = f"{self.source}, line {line}" if line else self.source
        place = f"[{table}] {key}" if table else key
        if known:
            near = get_close_matches(word, known, n=2, cutoff=0.5)
            what += f"; did you mean {' or '.join(near)}?" if near else f"; expected one of {', '.join(known)}"
        return BlockquantError(f"{where}: {place}: {what}")

    def _line(self, table: str, key: str, index: int) -> int | None:
        current, count = "", -1
        for number, line in enumerate(self.lines, 1):
            header = re.match(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]", line)
            if header:
                current = header[2].strip("\"'")
                count += current == table
                if current == key and not table:
                    return number
            named = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line)
            if named and named[1] == key and current == table and (not table or count == index):
                return number
        return None

    def _known_recipe(self, key: str, value: Any) -> Recipe:
        if not isinstance(value, str):
            raise self.error("", key, f"must be the name of a recipe, it is {value!r:.60}")
        try:
            return get(value)
        except ValueError as error:
            raise self.error("", key, str(error)) from None

    def _base(self, values: Mapping[str, Any]) -> Recipe:
        value = values["base"]
        if isinstance(value, str) and value.lower().endswith(".toml"):
            raise self.error("", "base", "must be a recipe of llama.cpp's, not another file")
        return self._known_recipe("base", value)

    def _plain(self, values: Mapping[str, Any]) -> Recipe:
        base = self.format("", "format", values["format"])
        file_type = next((r.file_type for r in RECIPES.values() if r.base == base), None)
        if file_type is None and "file_type" not in values:
            raise self.error("", "format", f"no llama.cpp file type is made of {base}: add a file_type")
        return Recipe("", file_type or 0, base, output=(base,), every=(base,))

    def format(self, table: str, key: str, value: Any, index: int = 0) -> str:
        if not isinstance(value, str):
            raise self.error(table, key, f"must be the name of a format, it is {value!r:.60}", index=index)
        if value.lower() == KEEP and table in ("roles", "tensors"):
            return KEEP
        try:
            return find_format(value).name
        except ValueError as error:
            raise self.error(table, key, str(error), index=index) from None

    def rules(self, table: str, key: str, value: Any, index: int = 0) -> Rules:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list) or not given or not all(isinstance(rule, str) for rule in given):
            raise self.error(table, key, "must be a rule such as 'Q6_K if more_bits', or a list of them", index=index)
        result = []
        for rule in given:
            words = " ".join(rule.split())
            try:
                choice, _ = parse_rule(words)
            except ValueError as error:
                raise self.error(table, key, str(error), index=index) from None
            result.append(self.format(table, key, choice, index) + words[len(choice) :])
        return tuple(result)

    def _table(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.error("", key, f"must be a table: [{key}]")
        return value

    def _roles(self, value: Any) -> dict[str, Rules]:
        table = self._table("roles", value)
        for role in table:
            if role not in ROLES:
                raise self.error("roles", role, f"unknown role {role!r}", role, ROLES)
        return {role: self.rules("roles", role, rules) for role, rules in table.items()}

    def _tensors(self, value: Any) -> list[tuple[str, Rules]]:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.error("", "tensors", "must be written as [[tensors]], each with a name and a format")
        result = []
        for index, entry in enumerate(value):
            for key in entry:
                if key not in ("name", "format"):
                    raise self.error("tensors", key, f"unknown key {key!r}", key, ("name", "format"), index)
            for key in ("name", "format"):
                if key not in entry:
                    raise BlockquantError(f"{self.source}: [[tensors]] number {index + 1} has no {key!r}")
            if not isinstance(entry["name"], str):
                raise self.error("tensors", "name", "must be a regular expression", index=index)
            try:
                pattern = compile_pattern("name", entry["name"]).pattern
            except ValueError as error:
                raise self.error("tensors", "name", str(error), index=index) from None
            result.append((pattern, self.rules("tensors", "format", entry["format"], index)))
        return result

    def _fallbacks(self, value: Any) -> dict[str, str]:
        result = {}
        for key, other in self._table("fallbacks", value).items():
            wanted, instead = self.format("fallbacks", key, key), self.format("fallbacks", key, other)
            if formats[instead].block_size >= formats[wanted].block_size > 1:
                raise self.error("fallbacks", key, f"the blocks of {instead} are no smaller than those of {wanted}")
            result[wanted] = instead
        return result


def dump(recipe: Recipe) -> str:
    """The recipe as the text of a TOML file that means the same."""
    file_type = next((r.name for r in RECIPES.values() if r.file_type == recipe.file_type), None)
    lines = [f"name = {_quote(recipe.name)}", f"format = {_quote(recipe.base)}"]
    if file_type:
        lines.append(f"file_type = {_quote(file_type)}")
    lines += ["", "[roles]"]
    for role in ROLES:
        rules = recipe.rules_for(role) or (recipe.base,)
        lines.append(f"{role} = {_quote_rules(rules)}")
    for pattern, rules in recipe.tensors:
        lines += ["", "[[tensors]]", f"name = {_quote(pattern)}", f"format = {_quote_rules(rules)}"]
    lines += ["", "[fallbacks]"]
    used = {rule.partition(" if ")[0] for role in ROLES for rule in recipe.rules_for(role)} | {recipe.base}
    for wanted in FALLBACKS | dict(recipe.fallbacks):
        if wanted in used:
            lines.append(f"{wanted} = {_quote(str(recipe.fallback_of(wanted)))}")
    if lines[-1] == "[fallbacks]":
        del lines[-2:]
    return "\n".join(lines) + "\n"


def _quote_rules(rules: Rules) -> str:
    if len(rules) == 1:
        return _quote(rules[0])
    return "[" + ", ".join(map(_quote, rules)) + "]"


def _quote(text: str) -> str:
    if "'" not in text and text.isprintable():
        return f'"{text}"' if "\\" not in text and '"' not in text else f"'{text}'"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return f'"{escaped}"'
