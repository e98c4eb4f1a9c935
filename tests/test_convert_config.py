"""What config.json and the files beside it say of the model: nested configs, counts, rotation, special vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convert_families
import convert_models
import gguf as gguf_py
import pytest
from blockquant import gguf
from blockquant.converter import convert
from blockquant.converter.families import family_of
from blockquant.converter.plan import plan_tensors
from blockquant.converter.safetensors import open_checkpoint


def edit(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text("utf-8"))
    convert_models.write_json(directory / "config.json", config | changes)


def test_nulls_of_a_nested_config_say_nothing(tmp_path: Path) -> None:
    source = convert_families.gemma3_images(tmp_path)
    convert(source, tmp_path / "plain.gguf")
    text = json.loads((source / "config.json").read_text("utf-8"))["text_config"]
    edit(source, text_config={**text, "architectures": None, "bos_token_id": None, "eos_token_id": None})
    convert(source, tmp_path / "nulls.gguf")
    assert (tmp_path / "nulls.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "qwen2",
            {"num_hidden_layers": 2**31 - 1},
            "2147483647 layers need more tensors than the 26 of the checkpoint",
        ),
        ("gemma3", {"num_hidden_layers": 2**31 - 1, "layer_types": None}, "2147483647 layers need more tensors than"),
        ("qwen3moe", {"num_experts": 2**31 - 1}, "2 layers of 2147483647 experts need more tensors than the"),
        ("qwen3", {"num_attention_heads": 2**20, "head_dim": 2**10}, "1048576 attention heads of 1024 values are more"),
        (
            "phi3",
            {"hidden_size": 2**31 - 4, "num_attention_heads": 2, "num_key_value_heads": 2},
            "2 attention heads of 1073741822 values",
        ),
    ],
)
def test_counts_beyond_the_checkpoint(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = convert_families.CASES[name][0](tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8")) | changes
    with pytest.raises(ValueError, match=message) as caught:
        plan_tensors(family_of(config), open_checkpoint(source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "wanted"),
    [
        ({"attention_factor": 1.25}, 1.25),
        ({"attn_factor": 1.5}, 1.5),
        ({"attention_factor": 1.25, "attn_factor": 1.5}, 1.25),
        ({"attention_factor": None, "attn_factor": 1.5}, 1.5),
        ({}, None),
    ],
)
def test_both_names_of_yarns_attention_factor(factors: dict[str, Any], wanted: float | None) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, **factors}
    keys = family_of(convert_models.base_config("LlamaForCausalLM", rope_scaling=rope)).metadata()
    assert keys.get("llama.rope.scaling.yarn_attn_factor") == wanted


MODES = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_lasttoken")
POOLING = {
    "pooling_mode_mean_tokens": gguf_py.PoolingType.MEAN,
    "pooling_mode_cls_token": gguf_py.PoolingType.CLS,
    "pooling_mode_lasttoken": gguf_py.PoolingType.LAST,
}


def write_modules(directory: Path, folder: Any, mode: str) -> None:
    """What sentence-transformers writes beside a model."""
    kinds = {"": "Transformer", folder: "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    convert_models.write_json(directory / "modules.json", modules)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 64, **{name: name == mode for name in MODES}, "include_prompt": True}
    convert_models.write_json(directory / "1_Pooling" / "config.json", config)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize("mode", POOLING)
def test_pooling_of_embedding_models(name: str, mode: str, tmp_path: Path) -> None:
    source = convert_families.CASES[name][0](tmp_path)
    write_modules(source, "1_Pooling", mode)
    done = convert(source, tmp_path / "out.gguf")
    field = gguf_py.GGUFReader(tmp_path / "out.gguf").fields[gguf_py.Keys.LLM.POOLING_TYPE.format(arch=name)]
    assert (field.types, field.contents()) == ([gguf_py.GGUFValueType.UINT32], POOLING[mode])
    assert done.left_out == ()


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", ["lasttoken"], ["mean", "cls"], "max"])
def test_pooling_as_named_today(mode: Any, tmp_path: Path) -> None:
    source = convert_families.CASES["qwen3"][0](tmp_path)
    write_modules(source, "1_Pooling", "")
    kind = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    convert_models.write_json(source / "modules.json", [{"idx": 0, "name": "0", "path": "1_Pooling", "type": kind}])
    convert_models.write_json(source / "1_Pooling" / "config.json", {"pooling_mode": mode})
    done = convert(source, tmp_path / "out.gguf")
    wanted = {"mean": 1, "cls": 2, "lasttoken": 3}.get(mode if isinstance(mode, str) else "".join(mode))
    assert gguf.open(done.path).metadata.get("qwen3.pooling_type") == wanted
    assert bool(done.left_out) == (wanted is None)


@pytest.mark.parametrize(
    ("folder", "mode"),
    [("1_Pooling", "pooling_mode_max_tokens"), ("../1_Pooling", "pooling_mode_cls_token"), ("..", "x")],
)
def test_pooling_that_is_not_known(folder: str, mode: str, tmp_path: Path) -> None:
    source = convert_families.CASES["qwen2"][0](tmp_path)
    write_modules(source, folder, mode)
    write_modules(source.parent, folder, mode)
    convert_models.write_json(tmp_path / "config.json", {"pooling_mode_cls_token": True})
    done = convert(source, tmp_path / "out.gguf")
    assert not any("pooling" in key for key in gguf.open(done.path).metadata)
    assert done.left_out == ("modules.json: its pooling is none of mean, cls and last token",)


def test_models_without_pooling(tmp_path: Path) -> None:
    source = convert_families.CASES["llama3"][0](tmp_path)
    write_modules(source, "1_Pooling", "pooling_mode_cls_token")
    for modules in (None, {}, [3, {}]):
        if modules is not None:
            source = convert_families.CASES["qwen2"][0](tmp_path)
            convert_models.write_json(source / "modules.json", modules)
        done = convert(source, tmp_path / "out.gguf")
        assert not any("pooling" in key for key in gguf.open(done.path).metadata)


def test_tokens_that_code_llama_fills_gaps_with(tmp_path: Path) -> None:
    source = convert_models.llama2(tmp_path)
    declared = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    first = len(convert_models.pieces()) + 2
    texts = [f"▁<{name}>" for name in ("PRE", "SUF", "MID", "EOT")]
    keys = [f"tokenizer.ggml.{role}_token_id" for role in ("prefix", "suffix", "middle", "eot")]
    assert keys[:3] == [getattr(gguf_py.Keys.Tokenizer, f"{role}_ID") for role in ("PREFIX", "SUFFIX", "MIDDLE")]
    for special, count in ((True, 4), (False, 4), (True, 3)):
        for i in range(4):
            declared["added_tokens_decoder"].pop(str(first + i), None)
        for i, text in enumerate(texts[:count]):
            declared["added_tokens_decoder"][str(first + i)] = {"content": text, "special": special}
        convert_models.write_json(source / "tokenizer_config.json", declared)
        edit(source, vocab_size=first + 4)
        config = json.loads((source / "config.json").read_text("utf-8"))
        for part in source.glob("model*"):
            part.unlink()
        tensors = convert_models.weights(convert_models.layer_shapes(config), "BF16")
        convert_models.write_tensors(source, config, tensors, None)
        convert(source, tmp_path / "out.gguf")
        metadata = gguf.open(tmp_path / "out.gguf").metadata
        assert [metadata.get(key) for key in keys] == ([*range(first, first + 4)] if count == 4 else [None] * 4)


@pytest.mark.parametrize(("size", "wanted"), [(49152, {"tokenizer.ggml.add_bos_token": False}), (49153, {})])
def test_the_vocabulary_whose_texts_begin_without_a_token(size: int, wanted: dict[str, bool]) -> None:
    family = family_of(convert_models.base_config("LlamaForCausalLM", vocab_size=size))
    assert family.tokenizer_metadata({"tokenizer.ggml.model": "gpt2"}) == wanted
