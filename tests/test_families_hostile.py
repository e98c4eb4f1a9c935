"""Configurations and files with wrong values in them: one line of BlockquantError, or a model, never anything else."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import convert_families
import numpy as np
import pytest
from blockquant import Model, gguf
from blockquant.converter import convert
from blockquant.converter.families import family_of
from blockquant.errors import BlockquantError
from blockquant.transformer import Tokenizer
from blockquant.transformer.chat import render_chat

Json = dict[str, Any]

VALUES: list[Any] = [None, 0, -1, 1, 2, 3, 7, 1.5, 1e308, float("nan"), float("inf"), "x", "", [], {}, [1], ["a"]]
VALUES += [{"a": 1}, True, False, 2**31, 2**70, {"rope_type": 5}, {"rope_type": "longrope"}, {"full_attention": 3}]
VALUES += [{"full_attention": {}, "sliding_attention": {"rope_type": "linear"}}, {"sliding_attention": {}}]
KEYS = ("sliding_window_pattern", "rope_scaling", "rope_parameters", "partial_rotary_factor", "head_dim")
KEYS += ("quantization_config", "layer_types", "sliding_window", "original_max_position_embeddings", "hidden_act")


def one_line(error: BlockquantError) -> int:
    assert "\n" not in str(error)
    return 1


def mutated(chooser: random.Random, config: Json) -> Json:
    changed: Json = copy.deepcopy(config)
    for _ in range(chooser.randint(1, 3)):
        place: Json = changed
        for inner in ("text_config", "rope_parameters", "rope_scaling"):
            if isinstance(place.get(inner), dict) and chooser.random() < 0.5:
                place = place[inner]
        place[chooser.choice([*place, *KEYS])] = chooser.choice(VALUES)
    return changed


@pytest.mark.parametrize("name", convert_families.MAKERS)
def test_configurations(name: str, tmp_path: Path) -> None:
    config = json.loads((convert_families.MAKERS[name](tmp_path) / "config.json").read_text())
    chooser = random.Random(name)
    refused = 0
    for _ in range(250):
        changed = mutated(chooser, config)
        try:
            family = family_of(changed)
            if max(family.block_count, family.head_dim, getattr(family, "experts", 0)) > 1 << 12:
                continue
            family.first_metadata(), family.metadata(), family.late_metadata(), family.computed_tensors()
            assert len(list(family.tensors())) > family.block_count
        except BlockquantError as error:
            refused += one_line(error)
    assert 50 < refused < 250


@pytest.mark.parametrize("name", ["qwen3moe", "phi4", "gemma3", "bitnet"])
def test_files(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    convert(convert_families.MAKERS[name](tmp_path), out, "f16")
    with gguf.open(out) as file:
        metadata, arch = file.typed_metadata(), str(file.architecture)
        metadata = {key: value for key, value in metadata.items() if not key.startswith("tokenizer.")}
        chooser = random.Random(name)
        own = [key.removeprefix(f"{arch}.") for key in metadata if key.startswith(f"{arch}.")]
        own += ["attention.sliding_window_pattern", "attention.scale", "final_logit_softcapping", "rope.freq_base_swa"]
        own += ["hidden_activation", "expert_weights_norm", "attention.key_length", "rope.scaling.type"]
        own += ["rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.factor"]
        values = [0, -1, 1, 3, 2**31 - 1, 2**63, 0.0, -1.5, np.float64(1e300), float("nan"), "x", "yarn", True]
        values += [[1, 2], [True] * 7, [[4], [4, 4]], np.zeros(0, np.int32)]
        refused = 0
        for _ in range(60):
            changes = {f"{arch}.{chooser.choice(own)}": chooser.choice(values) for _ in range(chooser.randint(1, 2))}
            if chooser.random() < 0.2:
                beta = f"{arch}.rope.scaling.yarn_beta_{chooser.choice(['fast', 'slow'])}"
                changes |= {
                    f"{arch}.rope.scaling.type": "yarn",
                    beta: chooser.choice([0.0, -1.5, np.float64(1e-320), np.float64(1e308)]),
                }
            reshaped = chooser.choice(list(file.tensors)) if chooser.random() < 0.1 else None
            with gguf.create(tmp_path / "changed.gguf", metadata | changes) as writer:
                for key, tensor in file.tensors.items():
                    scalar = key == reshaped
                    writer.add_tensor(key, np.zeros((), np.float32) if scalar else tensor)
            try:
                with Model.open(tmp_path / "changed.gguf", n_ctx=64) as model, np.errstate(all="ignore"):
                    assert model.logits([1, 2, 3]).shape == (3, model.n_vocab)
            except BlockquantError as error:
                refused += one_line(error)
        assert 10 < refused < 60


@pytest.mark.parametrize("name", ["llama2", "qwen3", "phi4"])
def test_vocabularies(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    convert(convert_families.MAKERS[name](tmp_path), out, "f16")
    with gguf.open(out) as file:
        metadata = {key: file.metadata[key] for key in file.metadata if key.startswith("tokenizer.")}
    metadata.setdefault("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}")
    size = len(metadata["tokenizer.ggml.tokens"])
    own = [f"tokenizer.ggml.{key}" for key in ("merges", "scores", "eot_token_id", "unknown_token_id", "pre")]
    own += [f"tokenizer.ggml.add_{key}" for key in ("bos_token", "eos_token", "space_prefix")]
    keys = sorted({*metadata, *own})
    values: list[Any] = [0, -1, 3, size, 2**31 - 1, 2**63, 0.0, -1.5, math.inf, math.nan, "x", "", " ", True, [1, 2]]
    values += [["a"], ["\udcff"] * size, ["a b"] * size, [6] * size, [0] * size, [True] * 7, [[1], [2, 3]], [["a"]]]
    values += [np.zeros(0, np.int32), np.full(size, np.inf, np.float32), np.full(size, 6, np.int32), "{{ 1 // 0 }}"]
    chooser = random.Random(name)
    refused = 0
    for _ in range(150):
        changed = metadata | {chooser.choice(keys): chooser.choice(values) for _ in range(chooser.randint(1, 2))}
        try:
            tokenizer = Tokenizer(changed)
            for parse in (False, True):
                ids = tokenizer.encode("Hello wörld <s> </s>", parse_special=parse)
                tokenizer.decode(ids, skip_special=parse)
            for skip in (False, True):
                assert isinstance(tokenizer.decode(range(len(tokenizer)), skip_special=skip), str)
            text = render_chat(changed.get("tokenizer.chat_template"), [{"role": "user", "content": "x"}], tokenizer)
            tokenizer.encode(text, parse_special=True)
        except BlockquantError as error:
            refused += one_line(error)
    assert 50 < refused < 150
