"""The head of a README.md model card (license, base model, tags, ...) as `general.*` metadata.

The head is YAML between two `---` lines. Only what model cards use is read, without a YAML package: `key: text`, lists
in either notation, quotes and comments; nested objects (benchmark results, say) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockquant.converter.general import parse_name, title

_KEY = re.compile(r"([A-Za-z_][\w.-]*):(?:\s+(.*))?$")
_COMMENT = re.compile(r"(^|\s)#.*$")
_HUB_URL = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")
_SOURCES = {"url": "url", "doi": "doi", "uuid": "uuid", "repo_url": "repo_url"}


def _scalar(text: str) -> str | None:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    text = _COMMENT.sub("", text).strip()
    return None if text in ("", "~", "null") else text


def _value(text: str) -> str | list[str] | None:
    stripped = _COMMENT.sub("", text).strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        return [item for part in stripped[1:-1].split(",") if (item := _scalar(part)) is not None]
    return _scalar(text)


def read_model_card(directory: Path) -> dict[str, str | list[str]]:
    """The texts and lists of texts in the head of README.md; {} when there is none."""
    path = directory / "README.md"
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    found: dict[str, str | list[str]] = {}
    key = ""
    for line in lines[1:end]:
        match = _KEY.match(line)
        if match:
            key = match[1]
            value = _value(match[2] or "")
            if isinstance(value, str) and value[0] in "|>&*{":
                key = ""  # a block of text, an anchor or an object
            elif value is not None:
                found[key] = value
                key = ""
        elif key and (item := re.match(r"\s*-\s+(.*)$", line)) and not _KEY.match(item[1]):
            text = _scalar(item[1])
            entry = found.setdefault(key, [])
            if text is not None and isinstance(entry, list):
                entry.append(text)
        elif line.strip() and not line.lstrip().startswith(("#", "-", " ")) and not line.startswith((" ", "\t")):
            key = ""
    return found


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
