"""The head of a README.md model card (license, base model, tags, ...) as `general.*` metadata.

The head is YAML between two `---` lines. Every scalar is taken as the text it is written as, so that a version 1.10 or
the language "no" stays what it is; nested objects (benchmark results, say) are passed over.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockquant.converter.general import parse_name, title
from blockquant.errors import MissingExtraError

_HUB_URL = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")
_SOURCES = {"url": "url", "doi": "doi", "uuid": "uuid", "repo_url": "repo_url"}
_NOTHING = ("", "~", "null", "Null", "NULL")


def read_model_card(directory: Path, left_out: list[str] | None = None) -> dict[str, str | list[str]]:
    """The texts and lists of texts in the head of README.md; {} when there is none.

    A head that cannot be read, for it is no YAML or PyYAML is not installed, is told in `left_out`.
    """
    path = directory / "README.md"
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    told: list[str] = []
    try:
        # Cards have been indented with tabs, which YAML forbids.
        head = _load_entries([line.replace("\t", "  ") for line in lines[1:end]], told)
    except MissingExtraError as error:
        head, told = {}, [str(error)]
    if left_out is not None:
        left_out += [f"the head of README.md (license, tags, ...): {line}" for line in told]
    found: dict[str, str | list[str]] = {}
    for key, value in head.items():
        if isinstance(value, str) and value not in _NOTHING:
            found[key] = value
        elif isinstance(value, list):
            found[key] = [item for item in value if isinstance(item, str) and item not in _NOTHING]
    return found


def _load_entries(lines: Sequence[str], told: list[str]) -> dict[Any, Any]:
    """The head's entries. Where it is no YAML as a whole, those that are; what is wrong is told."""
    try:
        head = _load_yaml("\n".join([*lines, ""]))
        return head if isinstance(head, dict) else {}
    except ValueError as error:
        told.append(f"{error}; entries that are, are kept")
    # An entry begins where a line is not indented; lists may stand as far to the left as their key.
    starts = [i for i, line in enumerate(lines) if line[:1].strip() and not line.startswith(("-", "#"))]
    found: dict[Any, Any] = {}
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        with contextlib.suppress(ValueError):
            entry = _load_yaml("\n".join([*lines[start:stop], ""]))
            found |= entry if isinstance(entry, dict) else {}
    return found


def _load_yaml(text: str) -> Any:
    """YAML with texts for all scalars. Raises ValueError when it is none, MissingExtraError without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("PyYAML", "convert") from None
    try:
        # The C parser takes the thousands of lines of some cards in no time; it is not in every build.
        return yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"not valid YAML ({' '.join(str(error).split()):.200})") from None


def _texts(card: Mapping[str, Any], *keys: str) -> list[str]:
    found: list[str] = []
    for key in keys:
        value = card.get(key)
        found += [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return found


def _origins(kind: str, entries: list[str], parameters: int) -> dict[str, Any]:
    """`general.base_model.*` or `general.dataset.*`: names and addresses of "organization/name" entries."""
    found: dict[str, Any] = {f"general.{kind}.count": len(entries)}
    for i, entry in enumerate(entries):
        is_url = entry.startswith(("http://", "https://", "ssh://"))
        match = _HUB_URL.fullmatch(entry) if is_url else None
        name = parse_name(match[1] if match else entry, parameters) if match or not is_url else None
        prefix = f"general.{kind}.{i}"
        if name and name.full:
            found[f"{prefix}.name"] = title(name.full)
        if name and name.version:
            found[f"{prefix}.version"] = name.version
        if name and name.organization:
            found[f"{prefix}.organization"] = title(name.organization)
        if is_url:
            found[f"{prefix}.repo_url"] = entry
        elif name and name.organization:
            found[f"{prefix}.repo_url"] = f"https://huggingface.co/{name.organization}/{name.full}"
    return found


def card_metadata(card: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """`general.license` and the keys after it, in llama.cpp's order."""
    found: dict[str, Any] = {}
    if licenses := _texts(card, "license"):
        found["general.license"] = ",".join(licenses)
    for key in ("name", "link"):
        if isinstance(card.get(f"license_{key}"), str):
            found[f"general.license.{key}"] = card[f"license_{key}"]
    for key in _SOURCES:
        value = card.get(key, card.get(f"model_{key}"))
        if isinstance(value, str):
            found[f"general.source.{key}"] = value
    for kind, keys in (
        ("base_model", ("base_model", "base_models", "base_model_sources")),
        ("dataset", ("datasets", "dataset", "dataset_sources")),
    ):
        given = next((key for key in keys if key in card), None)
        if given and (entries := _texts(card, given)):
            found.update(_origins(kind, entries, parameters))
    if tags := _texts(card, "tags", "pipeline_tag"):
        found["general.tags"] = tags
    if languages := _texts(card, "languages", "language"):
        found["general.languages"] = languages
    return found
