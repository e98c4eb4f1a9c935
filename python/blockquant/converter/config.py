"""config.json and its neighbours: checked access with errors that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockquant.errors import BlockquantError


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError, naming the file, when it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BlockquantError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(path: Path) -> Any:
    """The JSON in `path`, whatever it is. Raises ValueError when it is none."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BlockquantError(f"{path}: not valid JSON ({error})") from None


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """The JSON object in `path`; {} when it is absent and not `required`. Raises ValueError for anything else."""
    if not path.is_file():
        if required:
            raise BlockquantError(f"{path}: no such file")
        return {}
    value = parse_json(path)
    if not isinstance(value, dict):
        raise BlockquantError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def is_number(value: object) -> bool:
    """Whether it is an int or float that float32 can hold; NaN, infinity and bools are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e38


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base frequency, scaling type ("default", "linear", "yarn", ...) and its numbers."""

    theta: float
    type: str
    parameters: Mapping[str, Any]

    def number(self, key: str, default: float | None = None) -> float:
        """A number of the scaling parameters. Raises ValueError when it is absent without default, or no number."""
        value = self.parameters.get(key)
        if value is None:
            value = default
        if value is None or not is_number(value):
            raise BlockquantError(f"config.json: rope scaling {self.type!r} needs the number {key!r}, found {value!r}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """The same, above zero."""
        value = self.number(key, default)
        if not value > 0:
            raise BlockquantError(f"config.json: {key!r} of the rope scaling must be positive, found {value!r}")
        return value

    @property
    def original_context(self) -> int:
        """Positions before the extension."""
        value = self.positive("original_max_position_embeddings")
        if not 1 <= value < 2**31:
            raise BlockquantError(
                f"config.json: 'original_max_position_embeddings' must be an integer, found {value!r}"
            )
        return int(value)


class Config:
    """A model's config.json with the defaults that the model's own configuration class assumes for keys left out."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self.values = values
        self._defaults = defaults or {}

    def get(self, key: str) -> Any:
        """The value of a key; its default when the key is absent or null."""
        value = self.values.get(key)
        return self._defaults.get(key) if value is None else value

    def count(self, key: str) -> int:
        """A positive integer. Raises ValueError otherwise."""
        value = self.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            raise BlockquantError(f"config.json: {key!r} must be a positive integer, found {value!r}")
        return value

    def number(self, key: str) -> float:
        """A number. Raises ValueError otherwise."""
        value = self.get(key)
        if not is_number(value):
            raise BlockquantError(f"config.json: {key!r} must be a number, found {value!r:.80}")
        return float(value)

    def flag(self, key: str) -> bool:
        """A boolean, false when absent. Raises ValueError for another type."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise BlockquantError(f"config.json: {key!r} must be true or false, found {value!r}")
        return bool(value)

    @property
    def rope(self) -> Rope:
        """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
        parameters = self.get("rope_parameters")
        if parameters is None:
            parameters = self.get("rope_scaling")
        parameters = {} if parameters is None else parameters
        if isinstance(parameters, dict) and isinstance(parameters.get("full_attention"), dict):
            parameters = parameters["full_attention"]
        if not isinstance(parameters, dict):
            raise BlockquantError(f"config.json: the rope parameters must be an object, found {parameters!r:.80}")
        parameters = dict(parameters)
        if parameters.get("original_max_position_embeddings") is None:
            outside = self.get("original_max_position_embeddings")
            parameters["original_max_position_embeddings"] = outside or self.get("max_position_embeddings")
        if parameters.get("partial_rotary_factor") is None:
            parameters["partial_rotary_factor"] = self.get("partial_rotary_factor")
        theta = parameters.get("rope_theta")
        theta = self.get("rope_theta") if theta is None else theta
        theta = 10000.0 if theta is None else theta
        if not is_number(theta) or not theta > 0:
            raise BlockquantError(f"config.json: 'rope_theta' must be a positive number, found {theta!r}")
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        return Rope(float(theta), str(kind), parameters)


def load_config(directory: Path) -> dict[str, Any]:
    """config.json of a Hugging Face directory. Raises ValueError when it is missing or is not a model's."""
    if not directory.is_dir():
        raise BlockquantError(
            f"{directory}: not a directory; give the folder that holds config.json and model.safetensors"
        )
    path = directory / "config.json"
    if not path.is_file():
        raise BlockquantError(
            f"{directory}: no config.json in it; give a Hugging Face model folder "
            "(config.json, model.safetensors, tokenizer.json)"
        )
    return read_json(path)
