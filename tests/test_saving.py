"""Tensors in memory to GGUF: under Hugging Face's names with a config, and under GGUF's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blockquant as bq
import convert_families
import convert_models
import llamacpp
import ml_dtypes
import numpy as np
import pytest
from blockquant import gguf
from blockquant.converter.floats import to_bfloat16_bits
from blockquant.converter.safetensors import open_checkpoint


def save(*args: Any, **options: Any) -> dict[str, Any]:
    bq.save_gguf(*args, **options)
    return dict(gguf.open(args[1]).tensors)


METADATA = {"llama.block_count": 1, "llama.attention.head_count": 8, "general.name": "held"}


def held() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "token_embd.weight": rng.standard_normal((64, 256)).astype(np.float32),
        "blk.0.attn_v.weight": rng.standard_normal((64, 256)).astype(ml_dtypes.bfloat16),
        "blk.0.ffn_down.weight": rng.standard_normal((64, 512)).astype(np.float16)[:, ::2],
        "blk.0.ffn_norm.weight": rng.standard_normal(256).astype(ml_dtypes.bfloat16),
        "blk.0.ffn_gate_inp.weight": rng.standard_normal((8, 256)).astype(np.float16),
        "blk.0.ids": np.arange(5, dtype=np.int32),
    }


def test_names_of_gguf(tmp_path: Path) -> None:
    tensors = held()
    got = save(tensors, tmp_path / "out.gguf", "llama", METADATA, "Q4_K_M")
    formats = {n: str(i.format) for n, i in gguf.open(tmp_path / "out.gguf").tensor_infos.items()}
    assert formats == {
        "token_embd.weight": "Q6_K",
        "blk.0.attn_v.weight": "Q6_K",
        "blk.0.ffn_down.weight": "Q6_K",
        "blk.0.ffn_norm.weight": "F32",
        "blk.0.ffn_gate_inp.weight": "F32",
        "blk.0.ids": "I32",
    }
    for name in ("token_embd.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"):
        np.testing.assert_array_equal(got[name].data, bq.quantize(tensors[name], "Q6_K").data)
    np.testing.assert_array_equal(got["blk.0.ffn_norm.weight"], tensors["blk.0.ffn_norm.weight"].astype(np.float32))
    metadata = gguf.open(tmp_path / "out.gguf").metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.name"] == "held"
    assert metadata["general.file_type"] == 15


def test_recipes_see_what_quantize_file_would(tmp_path: Path) -> None:
    bq.save_gguf(held(), tmp_path / "auto.gguf", "llama", METADATA)
    for recipe in ("Q4_K_M", "Q2_K", "F16"):
        bq.save_gguf(held(), tmp_path / "one.gguf", "llama", METADATA, recipe)
        bq.quantize_file(tmp_path / "auto.gguf", tmp_path / "two.gguf", recipe)
        assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_typed_metadata_and_the_architecture_in_it(tmp_path: Path) -> None:
    count = gguf.TypedValue(1, gguf.ValueType.UINT16)
    metadata = {"general.architecture": "llama", "llama.block_count": count, "llama.attention.head_count": 4}
    bq.save_gguf(held(), tmp_path / "out.gguf", metadata=metadata, recipe="Q4_K_M")
    assert gguf.open(tmp_path / "out.gguf").typed_metadata()["llama.block_count"].type == gguf.ValueType.UINT16


def test_quantized_tensors_stay(tmp_path: Path) -> None:
    tensors: dict[str, Any] = held()
    tensors["blk.0.attn_v.weight"] = bq.quantize(tensors["blk.0.attn_v.weight"], "Q5_1")
    half = bq.quantize(tensors["token_embd.weight"], "BF16")
    tensors["token_embd.weight"] = half
    done = bq.save_gguf(tensors, tmp_path / "out.gguf", "llama", METADATA, "Q4_0")
    got = gguf.open(tmp_path / "out.gguf").tensors
    np.testing.assert_array_equal(got["blk.0.attn_v.weight"].data, tensors["blk.0.attn_v.weight"].data)
    assert {c.name: c.reason for c in done.kept}["blk.0.attn_v.weight"] == "it is quantized already"
    np.testing.assert_array_equal(got["token_embd.weight"].data, bq.quantize(half.dequantize(), "Q6_K").data)


def test_an_unknown_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tensors = {"net.1.weight": rng.standard_normal((64, 64)).astype(np.float32), "net.1.bias": np.ones(64, np.float16)}
    done = bq.save_gguf(tensors, tmp_path / "out.gguf", "mine", recipe="Q4_0")
    assert {c.name: str(c.format) for c in done.choices} == {"net.1.weight": "Q4_0", "net.1.bias": "F16"}


# --- Hugging Face names ---


def folder_and_tensors(tmp_path: Path, name: str = "llama3") -> tuple[Path, dict[str, np.ndarray]]:
    source = convert_families.CASES[name][0](tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8"))
    dtype = {"llama3": "F32", "qwen3": "BF16", "mistral": "F16"}[name]
    stored = convert_models.weights(convert_models.layer_shapes(config), dtype)
    tensors = {n: a.view(ml_dtypes.bfloat16) if d == "BF16" else a for n, (d, a) in stored.items()}
    return source, dict(reversed(tensors.items()))


@pytest.mark.parametrize("name", ["llama3", "mistral"])
@pytest.mark.parametrize("recipe", ["Q4_K_M", "auto", "f16"])
def test_names_of_hugging_face_give_what_convert_gives(name: str, recipe: str, tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path, name)
    bq.convert(source, tmp_path / "folder.gguf", recipe)
    bq.save_gguf(tensors, tmp_path / "held.gguf", config=source, recipe=recipe)
    assert (tmp_path / "held.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()
    config = json.loads((source / "config.json").read_text("utf-8"))
    architecture = config.pop("architectures")[0]
    bq.save_gguf(tensors, tmp_path / "held.gguf", architecture, config=config, tokenizer=source, recipe=recipe)
    assert (tmp_path / "held.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()
    bq.save_gguf(tensors, tmp_path / "held.gguf", "llama", config=source, recipe=recipe)
    assert (tmp_path / "held.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()


@pytest.mark.parametrize("name", convert_families.CASES)
def test_every_family(name: str, tmp_path: Path) -> None:
    source = convert_families.CASES[name][0](tmp_path)
    tensors = {
        key: stored.data.view(ml_dtypes.bfloat16) if stored.dtype == "BF16" else stored.data
        for key, stored in open_checkpoint(source).items()
    }
    bq.convert(source, tmp_path / "folder.gguf", "Q4_K_M")
    bq.save_gguf(tensors, tmp_path / "held.gguf", config=source, recipe="Q4_K_M")
    assert (tmp_path / "held.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()


def test_metadata_comes_before_what_is_found(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    bq.save_gguf(tensors, tmp_path / "o.gguf", metadata={"general.name": "Mine", "x.y": 1.5}, config=source)
    metadata = gguf.open(tmp_path / "o.gguf").metadata
    assert (metadata["general.name"], metadata["x.y"]) == ("Mine", 1.5)


def test_without_a_vocabulary_llama_cpp_still_runs_it(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8"))
    bq.save_gguf(tensors, tmp_path / "o.gguf", config=config)
    with llamacpp.Model(tmp_path / "o.gguf") as model:
        assert np.isfinite(model.logits([5, 6, 7])).all()


def test_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = convert_families.CASES["llama3"][0](tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(torch.bfloat16)
    model.tie_weights()
    assert "lm_head.weight" in model.state_dict()
    model.save_pretrained(tmp_path / "saved")
    for file in source.iterdir():
        if file.name not in ("config.json", "model.safetensors", "generation_config.json"):
            (tmp_path / "saved" / file.name).write_bytes(file.read_bytes())
    bq.convert(tmp_path / "saved", tmp_path / "folder.gguf", "Q4_K_M")
    for tensors in (model.state_dict(), dict(model.named_parameters())):
        bq.save_gguf(tensors, tmp_path / "held.gguf", config=tmp_path / "saved", recipe="Q4_K_M")
        assert (tmp_path / "held.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()
    # Under GGUF's names, and integers and strides too.
    weight = torch.randn(64, 128, dtype=torch.bfloat16, requires_grad=True)
    tensors = {"blk.0.attn_q.weight": weight.T, "blk.0.ids": torch.arange(3)}
    got = save(tensors, tmp_path / "o.gguf", "llama", METADATA, "Q8_0")
    expected = bq.quantize(weight.detach().float().numpy().T, "Q8_0")
    np.testing.assert_array_equal(got["blk.0.attn_q.weight"].data, expected.data)
    np.testing.assert_array_equal(got["blk.0.ids"], [0, 1, 2])


def test_tied_weights_that_differ_are_both_written(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    assert "output.weight" in save(tensors, tmp_path / "o.gguf", config=config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    assert "output.weight" not in save(tensors, tmp_path / "o.gguf", config=config)


class Copied:
    """An array that numpy gets a copy of, as from a file that is read when it is looked at."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array.copy()


def test_tied_weights_are_told_from_copies(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    copied = {name: Copied(tensor) for name, tensor in tensors.items()}
    got = save(copied, tmp_path / "o.gguf", config=config)
    np.testing.assert_array_equal(got["output.weight"], tensors["lm_head.weight"])
    copied["lm_head.weight"] = copied["model.embed_tokens.weight"]
    assert "output.weight" not in save(copied, tmp_path / "o.gguf", config=config)


def test_special_ids_come_from_the_config_that_is_given(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = json.loads((source / "config.json").read_text("utf-8")) | {"eos_token_id": 301, "pad_token_id": 303}
    for stale in (None, {**config, "eos_token_id": 302}):
        if stale is not None:
            convert_models.write_json(tokenizer / "config.json", stale)
        bq.save_gguf(tensors, tmp_path / "o.gguf", config=config, tokenizer=tokenizer)
        metadata = gguf.open(tmp_path / "o.gguf").metadata
        ids = [metadata[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos", "padding")]
        assert ids == [299, 301, 303]


def test_a_folder_that_was_not_given_is_not_read(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    config = json.loads((source / "config.json").read_text("utf-8"))
    bq.save_gguf(tensors, tmp_path / "Model-7B.gguf", config=config)
    before = (tmp_path / "Model-7B.gguf").read_bytes()
    other = tmp_path / "Model-7B"
    other.mkdir()
    (other / "README.md").write_text("---\nlicense: gpl-3.0\nname: Another\n---\n")
    convert_models.write_json(other / "generation_config.json", {"temperature": 0.1})
    bq.save_gguf(tensors, tmp_path / "Model-7B.gguf", config=config)
    assert (tmp_path / "Model-7B.gguf").read_bytes() == before
    assert gguf.open(tmp_path / "Model-7B.gguf").metadata["general.name"] == "Model 7B"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_the_folders_hold_is_not_replaced(name: str, tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    before = (source / name).read_bytes()
    other = tmp_path / "tokenizer"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    for options in ({"config": source}, {"config": source, "tokenizer": other}):
        with pytest.raises(ValueError, match="is the input"):
            bq.save_gguf(tensors, source / name, **options)
    with pytest.raises(ValueError, match="is the input"):
        bq.save_gguf(tensors, other / "tokenizer.json", config=source, tokenizer=other)
    assert (source / name).read_bytes() == before


@pytest.mark.parametrize("shape", [(2, 3, 2, 2, 64), (0, 3, 2, 2, 64)])
def test_quantized_tensors_of_five_dimensions_are_reshaped_too(shape: tuple[int, ...], tmp_path: Path) -> None:
    blocks = bq.quantize(np.random.default_rng(2).standard_normal(shape, np.float32), "Q8_0")
    done = bq.save_gguf({"x": blocks}, tmp_path / "o.gguf", "mine")
    assert done.reshaped == {"x": shape}
    stored = gguf.open(tmp_path / "o.gguf").tensors["x"]
    assert stored.shape == (shape[0] * 3, 2, 2, 64)
    assert stored.data.tobytes() == blocks.data.tobytes()


@pytest.mark.parametrize("value", [5, "", None, gguf.TypedValue(5, gguf.ValueType.UINT32)])
def test_the_architecture_is_a_text(value: Any, tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    for given, options in ((held(), {}), (tensors, {"config": source})):
        with pytest.raises(ValueError, match=r"general.architecture is .*; expected a name such as 'llama'"):
            bq.save_gguf(given, tmp_path / "o.gguf", metadata={"general.architecture": value}, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "needs the architecture of the file"),
        ({"architecture": "llama", "tokenizer": "x"}, ValueError, "a tokenizer is read for models with a config"),
        ({"architecture": "llama", "recipe": "Q4_K_M"}, ValueError, "'llama.block_count' must be an integer"),
        ({"architecture": "llama", "recipe": "Q9"}, ValueError, "unknown dtype 'Q9'"),
        ({"architecture": "llama", "recipe": "f16", "pure": True}, ValueError, "pure goes with a recipe"),
        ({"config": {"architectures": ["T5Model"]}}, ValueError, "'T5Model' is not supported"),
        ({"config": {}, "architecture": "llama"}, ValueError, "architecture None is not supported"),
        (
            {"config": convert_models.base_config("Qwen3ForCausalLM"), "architecture": "llama"},
            ValueError,
            "the config is that of a 'qwen3' file, not 'llama'",
        ),
        (
            {"architecture": "llama", "state_dict": {"model.embed_tokens.weight": np.ones((4, 64), np.float32)}},
            ValueError,
            "have Hugging Face's names: give config= for a llama file",
        ),
        (
            {
                "metadata": {"general.architecture": gguf.TypedValue("llama", gguf.ValueType.STRING)},
                "state_dict": {"model.embed_tokens.weight": np.ones((4, 64), np.float32)},
            },
            ValueError,
            "have Hugging Face's names: give config= for a llama file",
        ),
        ({"architecture": "llama", "state_dict": {"a": 3}}, TypeError, "tensor 'a' must be an array, got int"),
        ({"architecture": "llama", "state_dict": {"a": np.array(["x"])}}, TypeError, "tensor 'a' has dtype str"),
        ({"architecture": "llama", "state_dict": {}}, ValueError, "no tensors to write"),
        (
            {"architecture": "x", "state_dict": {"a": np.full((64, 64), np.nan, np.float32)}, "recipe": "Q8_0"},
            ValueError,
            "tensor 'a': .* is nan, not finite",
        ),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    arguments = {"state_dict": held(), "path": tmp_path / "o.gguf"} | arguments
    with pytest.raises(error, match=message) as caught:
        bq.save_gguf(**arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_quantized_tensors_under_hugging_faces_names_are_refused(tmp_path: Path) -> None:
    source, tensors = folder_and_tensors(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match="is quantized already: with a config, all are floats"):
        bq.save_gguf({**tensors, name: bq.quantize(tensors[name], "Q8_0")}, tmp_path / "o.gguf", config=source)


def test_bits_of_bfloat16_are_not_rounded_again(tmp_path: Path) -> None:
    values = np.array([[1.0, 1.00390625, -3.14159, 1e-40]], np.float32).repeat(2, 0)
    got = save({"a.weight": values.astype(ml_dtypes.bfloat16)}, tmp_path / "o.gguf", "x")
    np.testing.assert_array_equal(got["a.weight"].data.view(np.uint16), to_bfloat16_bits(values))
