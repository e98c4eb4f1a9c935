"""The `general.*` metadata: names taken from the directory, the model card and the sampling defaults.

Hugging Face names look like organization/Basename-Version-Size-Finetune, in any order and with any part missing; the
parts are told apart as llama.cpp's converter does, so that both write the same keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockquant.converter.config import is_number

_VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_FLOAT_TYPE = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_TUNING = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_KEEP_CASE = re.compile(r"(v\d+(?:\.\d+)*|\d.*)")

# generation_config.json key -> (general.sampling key, numpy type).
_SAMPLING: dict[str, tuple[str, type[np.generic]]] = {
    "top_k": ("top_k", np.int32),
    "top_p": ("top_p", np.float32),
    "min_p": ("min_p", np.float32),
    "xtc_probability": ("xtc_probability", np.float32),
    "xtc_threshold": ("xtc_threshold", np.float32),
    "temperature": ("temp", np.float32),
    "penalty_last_n": ("penalty_last_n", np.int32),
    "repetition_penalty": ("penalty_repeat", np.float32),
    "penalty_repeat": ("penalty_repeat", np.float32),
    "mirostat": ("mirostat", np.int32),
    "mirostat_tau": ("mirostat_tau", np.float32),
    "mirostat_eta": ("mirostat_eta", np.float32),
}


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name; None where the name does not have the part."""

    full: str | None = None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


def title(text: str) -> str:
    """Words in title case, except those with capitals of their own, versions and sizes."""
    words = text.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _KEEP_CASE.fullmatch(w) else w for w in words)


def size_label(parameters: int) -> str:
    """A parameter count as people say it: at least two digits, K, M, B or T."""
    units = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-1, 1e-3, "K"))
    factor, suffix = next((factor, suffix) for above, factor, suffix in units if parameters > above)
    scaled = parameters * factor
    decimals = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{decimals}f}{suffix}"


def _normalized_size(part: str) -> str:
    part = part.replace("_", ".")
    if part[-1].isdecimal():
        # "7b1" means 7.1b.
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if len(part) > 1 and part[-2].isdecimal() and part[-1] in "kmbt":
        part = part[:-1] + part[-1].upper()
    return part


def _is_far(part: str, parameters: int) -> bool:
    """Whether a size such as "128K" cannot be this model's (it is a context length, say)."""
    try:
        size = float(part[:-1]) * 1000.0 ** " KMBT".find(part[-1])
    except ValueError:
        return False
    return parameters > 0 and abs(size - parameters) > 7 * parameters // 8


def parse_name(name: str, parameters: int) -> ModelName:
    """Take a directory name or "organization/name" apart; `parameters` tells sizes from context lengths."""
    if " " in name:
        return ModelName(full=name)
    organization, slash, full = name.partition("/")
    if not slash:
        organization, full = "", name
    if organization.startswith("."):
        organization = ""
    parts = [part for part in full.split("-") if part]
    kinds: list[str | None] = [None] * len(parts)
    for i, part in enumerate(parts):
        if _VERSION.fullmatch(part):
            kinds[i] = "version"
        elif _FLOAT_TYPE.fullmatch(part):
            kinds[i], parts[i] = "type", part.upper()
        elif i > 0 and _SIZE.fullmatch(part):
            part = _normalized_size(part)
            far = _is_far(part, parameters)
            kinds[i] = "finetune" if far else "size_label"
            parts[i] = part[:-1] + part[-1].lower() if far else part
        elif i > 0 and _TUNING.fullmatch(part):
            kinds[i] = "finetune"
    sizes = [part for part, kind in zip(parts, kinds, strict=True) if kind == "size_label"]
    if any(c.isdecimal() for size in sizes for c in size):
        # A number beats words such as "mini", which then belong to whatever stands around them.
        words = [kind == "size_label" and part.isalpha() for part, kind in zip(parts, kinds, strict=True)]
        kinds = [None if word else kind for word, kind in zip(words, kinds, strict=True)]

    # The base name runs from the start through plain words and versions; what is left over is a fine-tune.
    base = 0
    while base < len(parts) and (kinds[base] == "version" or (kinds[base] is None and parts[base][0].isalpha())):
        base += 1
    in_base = [i < base for i in range(len(parts))]
    kinds = ["finetune" if kind is None and i >= base else kind for i, kind in enumerate(kinds)]
    # A version that ends the whole name is the version, not a part of the base name.
    for i in reversed(range(len(parts))):
        if not (in_base[i] and kinds[i] == "version"):
            break
        in_base[i] = False

    def joined(kind: str, unique: bool = False) -> str | None:
        found = [
            p for p, k, b in zip(parts, kinds, in_base, strict=True) if k == kind and not (b and kind == "version")
        ]
        return "-".join(dict.fromkeys(found) if unique else found) or None

    label, finetune, version = joined("size_label", unique=True), joined("finetune"), joined("version")
    basename = "-".join(part for part, b in zip(parts, in_base, strict=True) if b) or None
    if label is None and finetune is None and version is None:
        basename = None
    return ModelName(full, organization or None, basename, finetune, version, label)


def sampling_metadata(generation: Mapping[str, Any]) -> dict[str, Any]:
    """`general.sampling.*` from generation_config.json, in llama.cpp's order; what its type cannot hold is left out."""
    found: dict[str, Any] = {}
    for key, (name, kind) in _SAMPLING.items():
        value: Any = generation.get(key)
        if is_number(value) and (kind is not np.int32 or -(2**31) <= value < 2**31):
            found[f"general.sampling.{name}"] = kind(value)
    return found


def general_metadata(
    directory: Path, config: Mapping[str, Any], card: Mapping[str, Any], parameters: int, label: str | None = None
) -> dict[str, Any]:
    """`general.name` and the keys after it: the model card first, then `_name_or_path`, then the directory's name."""
    named = config.get("_name_or_path")
    names = [parse_name(named, parameters)] if isinstance(named, str) and named and named.count("/") <= 1 else []
    names.append(parse_name(directory.resolve().name, parameters))

    def first(part: str, *card_keys: str) -> str | None:
        for key in card_keys:
            if isinstance(card.get(key), str):
                return str(card[key])
        return next((value for name in names if (value := getattr(name, part, None)) is not None), None)

    full, organization = first("full"), first("organization")
    found: dict[str, Any] = {
        "name": first("none", "name", "model_name") or (title(full) if full else directory.resolve().name),
        "author": first("none", "author", "model_author", "model_creator"),
        "version": first("version", "version", "model_version"),
        "organization": first("none", "organization", "model_organization") or (organization and title(organization)),
        "finetune": first("finetune", "finetune", "model_finetune"),
        "basename": first("basename", "basename", "model_basename", "model_type"),
        "description": first("none", "description", "model_description"),
        "size_label": first("size_label", "size_label", "model_size_label") or label or size_label(parameters),
    }
    return {f"general.{key}": value for key, value in found.items() if value}
