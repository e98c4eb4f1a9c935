"""Every family against transformers and llama.cpp, on small random models in float32 and quantized."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert_families
import llamacpp
import numpy as np
import pytest
from blockquant import Model, QuantizedTensor, gguf, imatrix
from blockquant.converter import convert
from blockquant.converter.families import family_of

Logits = np.ndarray[Any, Any]
Json = dict[str, Any]

# Past the windows, the original contexts of the scaled rotations, and one block of the cache.
IDS = [(7 * i + i * i) % 290 for i in range(150)]
SHORT = 30


def converted(name: str, folder: Path, dtype: str = "f32") -> Path:
    out = folder / f"{name}-{dtype}.gguf"
    convert(convert_families.MAKERS[name](folder), out, dtype)
    return out


def torch_logits(checkpoint: Path, ids: list[int]) -> Logits:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        wanted: Logits = reference(torch.tensor([ids])).logits[0].numpy()
    assert wanted.std() > 0.01
    return wanted


def check_rows(ours: Logits, wanted: Logits) -> None:
    for t, row in enumerate(wanted):
        np.testing.assert_allclose(ours[t], row, atol=1e-4 * float(np.abs(row).max()), rtol=0, err_msg=f"token {t}")


@pytest.mark.parametrize("name", convert_families.MAKERS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    checkpoint = convert_families.MAKERS[name](tmp_path)
    convert(checkpoint, tmp_path / "out.gguf", "f32")
    with Model.open(tmp_path / "out.gguf") as model:
        for ids in (IDS[:SHORT], IDS):  # transformers picks LongRoPE's factors by the length of the text
            check_rows(model.logits(ids), torch_logits(checkpoint, ids))
        session = model.session(len(IDS))
        last = [session.eval(piece) for piece in (IDS[:70], IDS[70:71], IDS[71:])][-1]
    np.testing.assert_allclose(last, torch_logits(checkpoint, IDS)[-1], atol=1e-3)


@pytest.mark.parametrize("name", ["qwen3moe", "phi4", "gemma3", "bitnet"])
def test_generation_walks_as_transformers(name: str, tmp_path: Path) -> None:
    """Also where the model's context is longer than LongRoPE's original one, and the text is not."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint = convert_families.MAKERS[name](tmp_path)
    convert(checkpoint, tmp_path / "out.gguf", "f32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with Model.open(tmp_path / "out.gguf") as model, torch.inference_mode():
        assert model.n_ctx > 100
        for length in (10, 22, 34, 46, 58):
            answer = model.generate(IDS[:length], max_tokens=6)
            answer.text()
            assert answer.tokens
            walked = IDS[:length]
            for token in answer.tokens:
                row = reference(torch.tensor([walked])).logits[0, -1]
                assert float(row[token]) > float(row.max()) - 1e-3 * float(row.abs().max()), (length, len(walked))
                walked.append(token)


def test_bitnet_with_silu_equals_transformers(tmp_path: Path) -> None:
    checkpoint = convert_families.bitnet_ternary(tmp_path, "silu")
    convert(checkpoint, tmp_path / "out.gguf", "f32")
    with Model.open(tmp_path / "out.gguf") as model:
        assert model.metadata["bitnet.hidden_activation"] == "silu"
        check_rows(model.logits(IDS), torch_logits(checkpoint, IDS))


# What llama.cpp computes otherwise, by design: it rounds GELU through a table of halves, sees no window in Phi-3, and
# knows no gate but silu in BitNet.
def for_llama_cpp(name: str, folder: Path) -> Callable[[], Path]:
    return (
        (lambda: convert_families.bitnet_ternary(folder, "silu"))
        if name == "bitnet"
        else (lambda: convert_families.MAKERS[name](folder))
    )


def ids_for(name: str) -> list[int]:
    return IDS[:40] if name == "phi3" else IDS


@pytest.mark.parametrize("name", convert_families.MAKERS)
def test_llama_cpp_computes_the_same(name: str, tmp_path: Path) -> None:
    convert(for_llama_cpp(name, tmp_path)(), tmp_path / "out.gguf", "f32")
    ids = ids_for(name)
    with (
        llamacpp.Model(tmp_path / "out.gguf", n_ctx=512, kv_type="f32") as other,
        Model.open(tmp_path / "out.gguf", n_ctx=512) as model,
    ):
        theirs = other.logits(ids)
        ours = model.session(512).eval_rows(ids)  # the context, by which LongRoPE's factors are chosen, is llama.cpp's
        bound = 5e-3 if "gemma" in name else 2e-4
        np.testing.assert_allclose(np.concatenate(list(ours)), theirs, atol=bound * float(np.abs(theirs).max()), rtol=0)


def divergence(p: Logits, q: Logits) -> float:
    """Kullback-Leibler divergence of the distributions with logits q from those with logits p, median over tokens.

    (In models of random weights few tokens, which are on the edge of everything, would make up a mean.)
    """

    def log_softmax(x: Logits) -> Logits:
        x = x.astype(np.float64) - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    a, b = log_softmax(p), log_softmax(q)
    return float(np.median((np.exp(a) * (a - b)).sum(-1)))


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3", "qwen3moe", "phi3", "phi4", "gemma3", "bitnet"])
def test_quantized_models_differ_from_llama_cpps_as_rounding_does(name: str, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    convert(for_llama_cpp(name, tmp_path)(), path, recipe)
    exact = tmp_path / "exact.gguf"
    with gguf.open(path) as source, gguf.create(exact, source.typed_metadata()) as writer:
        for key, tensor in source.tensors.items():
            writer.add_tensor(key, np.asarray(tensor, np.float32))
    ids = ids_for(name)
    with llamacpp.Model(path) as other:
        theirs = other.logits(ids)

    def logits(file: Path) -> Logits:
        with Model.open(file) as model:
            return np.concatenate(list(model.session(512).eval_rows(ids)))

    ours, wanted = logits(path), logits(exact)
    between, rounding = divergence(theirs, ours), divergence(wanted, theirs)
    print(f"{name} {recipe}: between {between:.2e}, theirs {rounding:.2e}, ours {divergence(wanted, ours):.2e}")
    # Both round activations to int8; the two roundings are independent, so that their differences add up.
    assert divergence(wanted, ours) < 1.5 * rounding + 1e-8
    assert between < 3 * rounding + 1e-8


SMALL: Json = {"vocab_size": 290, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15, "pad_token_id": None}
GEMMA: Json = {**SMALL, "head_dim": 32, "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 24}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
LONG_ROPE |= {"partial_rotary_factor": 0.5, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]}
SAVED: dict[str, Json] = {
    "LlamaForCausalLM": {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    "Qwen2ForCausalLM": SMALL,
    "Qwen3ForCausalLM": {**SMALL, "head_dim": 24},
    "Qwen3MoeForCausalLM": {
        **SMALL,
        "head_dim": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": False,  # which GGUF cannot say by llama.cpp's keys
    },
    "Phi3ForCausalLM": {**SMALL, "max_position_embeddings": 256, "rope_parameters": LONG_ROPE, "sliding_window": 50},
    "Gemma3ForCausalLM": {
        **GEMMA,
        "layer_types": ["full_attention" if i in (1, 4) else "sliding_attention" for i in range(7)],
        "final_logit_softcapping": 3.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 300000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": GEMMA,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": 289,
    },
}


@pytest.mark.parametrize("name", SAVED)
def test_models_that_transformers_saved(name: str, tmp_path: Path) -> None:
    """Made by transformers' own classes, with hyper-parameters that are not the usual ones."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model_class = getattr(transformers, name)
    reference = model_class(model_class.config_class(**SAVED[name])).eval()
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if "norm" in key or key.endswith("bias"):  # which are made of ones and zeros
                parameter += 0.2 * torch.randn(parameter.shape)
    reference.save_pretrained(tmp_path / "saved")
    convert_families.write_small_tokenizer(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "out.gguf", "f32")
    with Model.open(tmp_path / "out.gguf") as model, torch.inference_mode():
        for ids in (IDS[:SHORT], IDS):
            wanted = reference(torch.tensor([ids])).logits[0].numpy()
            assert wanted.std() > 0.01
            check_rows(model.logits(ids), wanted)


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_packed_bitnet_weights(linear_class: str, tmp_path: Path) -> None:
    plain = converted("bitnet", tmp_path)
    convert(convert_families.bitnet_packed(tmp_path, linear_class), tmp_path / "packed.gguf", "f32")
    with gguf.open(plain) as wanted, gguf.open(tmp_path / "packed.gguf") as found:
        assert list(found.tensors) == list(wanted.tensors)
        for name, tensor in wanted.tensors.items():
            np.testing.assert_allclose(found.tensors[name], tensor, rtol=2e-7, err_msg=name)
            assert "_norm" in name or "token_embd" in name or len(np.unique(tensor)) == 3


@pytest.mark.parametrize("recipe", ["TQ2_0", "TQ1_0"])
def test_ternary_formats_lose_nothing_of_bitnet(recipe: str, tmp_path: Path) -> None:
    """Blocks of 256 keep one scale, in half precision; what is -1, 0 or 1 times it stays so."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
    for dtype, name in (("f32", "plain"), (recipe, "ternary")):
        convert(convert_families.bitnet_packed(tmp_path, **sizes), tmp_path / f"{name}.gguf", dtype)
    with gguf.open(tmp_path / "plain.gguf") as plain, gguf.open(tmp_path / "ternary.gguf") as ternary:
        for name, tensor in ternary.tensors.items():
            if not name.startswith("blk.") or "norm" in name:
                continue
            assert tensor.format == recipe, name
            wanted = np.asarray(plain.tensors[name])
            scale = np.abs(wanted).max()
            np.testing.assert_array_equal(np.asarray(tensor), np.sign(wanted) * np.float32(np.float16(scale)))
    with Model.open(tmp_path / "plain.gguf") as plain_model, Model.open(tmp_path / "ternary.gguf") as model:
        exact, rounded = plain_model.logits(IDS), model.logits(IDS)
    assert np.sqrt(np.mean((exact - rounded) ** 2)) < 0.1 * exact.std()


def test_bitnet_weights_are_rounded_as_in_training(tmp_path: Path) -> None:
    """x -> clip(round(x / mean |x|), -1, 1) * mean |x|."""
    checkpoint = convert_families.bitnet(tmp_path)
    convert(checkpoint, tmp_path / "out.gguf", "f32")
    shapes = convert_families.bitnet_shapes(convert_families.bitnet_config())
    seeds = {name: seed for seed, name in enumerate(shapes)}
    with gguf.open(tmp_path / "out.gguf") as file:
        for layer in range(2):
            source = f"model.layers.{layer}.mlp.up_proj.weight"
            values = convert_families.models.numbers(shapes[source], seeds[source])
            scale = np.abs(values).mean(dtype=np.float64)
            wanted = np.clip(np.rint(values / scale), -1, 1) * scale
            found = np.asarray(file.tensors[f"blk.{layer}.ffn_up.weight"])
            assert len(np.unique(found)) == 3
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_experts_have_importances_of_their_own(tmp_path: Path) -> None:
    path = converted("qwen3moe", tmp_path)
    text = "the man said that he was in the house and it is on the hill " * 40
    with Model.open(path) as model:
        found = imatrix.collect(model, text, n_ctx=64, chunks=4)
    entry = found.entries["blk.0.ffn_down_exps.weight"]
    assert entry.sums.shape == (12, 40)
    assert entry.counts.sum() == 4 * 64 * 3  # each token goes to three experts
    assert found.entries["blk.0.attn_q.weight"].counts.tolist() == [4 * 64]


def test_fused_matrices_are_observed_once(tmp_path: Path) -> None:
    with Model.open(converted("phi3", tmp_path)) as model:
        found = imatrix.collect(model, "the man said that he was in the house " * 40, n_ctx=64, chunks=2)
    assert {name.split(".", 2)[2] for name in found.entries} == {
        f"{name}.weight" for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    }
    assert found.entries["blk.0.attn_qkv.weight"].counts.tolist() == [2 * 64]


def both_spellings(name: str, folder: Path) -> list[dict[str, Any]]:
    """config.json of a case as transformers 4 and as transformers 5 write it."""
    config = json.loads((convert_families.MAKERS[name](folder) / "config.json").read_text())
    text = config.get("text_config", config)
    new = {k: v for k, v in text.items() if k not in ("rope_theta", "rope_scaling", "partial_rotary_factor")}
    scaling = {"rope_type" if k == "type" else k: v for k, v in (text.get("rope_scaling") or {}).items()}
    rope = {"rope_type": "default", "rope_theta": text.get("rope_theta", 1e6), **scaling}
    if "partial_rotary_factor" in text:
        rope["partial_rotary_factor"] = text["partial_rotary_factor"]
    local = {"rope_type": "default", "rope_theta": 10000.0}
    new["rope_parameters"] = {"full_attention": rope, "sliding_attention": local} if "gemma" in name else rope
    return [config, {**config, "text_config": new} if "text_config" in config else new]


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen2", "qwen3moe", "phi3", "phi4", "gemma3_images", "bitnet"])
def test_both_spellings_of_config_json(name: str, tmp_path: Path) -> None:
    old, new = map(family_of, both_spellings(name, tmp_path))
    assert "rope_parameters" not in old.config.values
    assert "rope_parameters" in new.config.values
    for part in ("first_metadata", "metadata", "late_metadata"):
        assert getattr(old, part)() == getattr(new, part)()
    for key, factors in old.computed_tensors().items():
        np.testing.assert_array_equal(factors, new.computed_tensors()[key])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3moe", {"mlp_only_layers": [0]}, "experts in every layer"),
        ("qwen3moe", {"num_experts": 0}, "'num_experts' must be a positive integer"),
        ("phi4", {"partial_rotary_factor": 0.7}, "11 of the 16 elements of a head cannot be rotated"),
        ("phi4", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6}}, "long_factor of the rope"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear' of a phi3"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"hidden_activation": "silu"}, "can only say 'gelu_pytorch_tanh'"),
        ("bitnet", {"hidden_act": "gelu"}, "can only say 'relu2'"),
        ("bitnet", {"quantization_config": {"quant_method": "gptq"}}, "already quantized"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
    ],
)
def test_configs_that_cannot_be_represented(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = convert_families.MAKERS[name](tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message) as caught:
        convert(directory, tmp_path / "out.gguf", "f32")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()


def rewritten(source: Path, out: Path, changes: dict[str, Any], without: str = "") -> Path:
    with gguf.open(source) as file:
        metadata = {key: value for key, value in file.typed_metadata().items() if changes.get(key, 0) is not None}
        with gguf.create(out, metadata | {k: v for k, v in changes.items() if v is not None}) as writer:
            for name, tensor in file.tensors.items():
                if name != without:
                    writer.add_tensor(name, tensor)
    return out


@pytest.mark.parametrize(
    ("name", "changes", "without", "message"),
    [
        ("qwen3moe", {"qwen3moe.expert_used_count": 13}, "", "13 of 12 experts"),
        ("qwen3moe", {"qwen3moe.expert_count": None}, "", "lacks qwen3moe.expert_count"),
        ("qwen3moe", {}, "blk.1.ffn_up_exps.weight", "lacks the tensor 'blk.1.ffn_up_exps.weight'"),
        ("phi4", {}, "rope_factors_long.weight", "only one of rope_factors_short"),
        ("phi4", {}, "blk.0.attn_qkv.weight", "lacks the tensor 'blk.0.attn_q.weight'"),
        ("gemma3", {"gemma3.attention.sliding_window_pattern": [True]}, "", "has 1 entries for 7 layers"),
        ("gemma3", {"gemma3.block_count": 60_000}, "", "names 60000 layers .block_count. and has 93 tensors"),
        (
            "gemma3",
            {"gemma3.attention.sliding_window": np.uint64(2**63)},
            "",
            "is 9223372036854775808; expected at most",
        ),
        ("gemma3", {}, "blk.2.post_ffw_norm.weight", "lacks the tensor 'blk.2.post_ffw_norm.weight'"),
        ("bitnet", {"bitnet.hidden_activation": "tanh"}, "", "'tanh'; supported: relu2, silu"),
        ("bitnet", {}, "blk.0.attn_sub_norm.weight", "lacks the tensor 'blk.0.attn_sub_norm.weight'"),
    ],
)
def test_wrong_files_are_one_line(
    name: str, changes: dict[str, Any], without: str, message: str, tmp_path: Path
) -> None:
    path = rewritten(converted(name, tmp_path), tmp_path / "wrong.gguf", changes, without)
    with pytest.raises(ValueError, match=message) as caught:
        Model.open(path)
    assert "\n" not in str(caught.value)


def test_the_dense_width_of_a_mixture_of_experts_is_not_used(tmp_path: Path) -> None:
    path = converted("qwen3moe", tmp_path)
    huge = rewritten(path, tmp_path / "huge.gguf", {"qwen3moe.feed_forward_length": 2**31 - 1})
    with Model.open(path) as model, Model.open(huge) as other:
        np.testing.assert_array_equal(other.logits(IDS), model.logits(IDS))


@pytest.mark.parametrize(("name", "dtype"), [("qwen2", "f32"), ("llama3", "Q8_0")])
def test_projections_may_be_one_matrix(name: str, dtype: str, tmp_path: Path) -> None:
    """As converters write them that fuse Wq, Wk and Wv, with their biases; and the gate with Wup."""
    path = converted(name, tmp_path, dtype)
    fused = tmp_path / "fused.gguf"
    with gguf.open(path) as file, gguf.create(fused, file.typed_metadata()) as writer:
        for key, tensor in file.tensors.items():
            head, _, kind = key.rpartition(".")
            for parts, whole in ((("attn_q", "attn_k", "attn_v"), "attn_qkv"), (("ffn_gate", "ffn_up"), "ffn_up")):
                layer = head.removesuffix(parts[0])
                if head.endswith(parts[0]):
                    rows = [file.tensors[f"{layer}{part}.{kind}"] for part in parts]
                    if isinstance(tensor, np.ndarray):
                        writer.add_tensor(f"{layer}{whole}.{kind}", np.concatenate(rows))
                    else:
                        data = np.concatenate([row.data for row in rows])
                        writer.add_tensor(f"{layer}{whole}.{kind}", QuantizedTensor(data, tensor.format))
                    break
                if head.endswith(parts[1:]):
                    break
            else:
                writer.add_tensor(key, tensor)
    with Model.open(path) as model, Model.open(fused) as other:
        np.testing.assert_array_equal(other.logits(IDS), model.logits(IDS))


def test_what_a_file_may_say_of_gemma(tmp_path: Path) -> None:
    """The pattern of layers, the base of local rotations, the scale of queries and the soft cap are the file's."""
    path = converted("gemma3", tmp_path)
    with Model.open(path) as model:
        plain = model.logits(IDS)
    changes: dict[str, dict[str, Any]] = {
        "the usual": {"sliding_window_pattern": [i != 5 for i in range(7)]},
        "all global": {"sliding_window_pattern": [False] * 7},
        "scale": {"scale": 0.3},
    }
    found = {}
    for name, change in changes.items():
        keys = {f"gemma3.attention.{key}": value for key, value in change.items()}
        with Model.open(rewritten(path, tmp_path / "changed.gguf", keys)) as model:
            found[name] = model.logits(IDS)
    np.testing.assert_array_equal(found["the usual"], plain)
    for name in ("all global", "scale"):
        assert np.abs(found[name] - plain).max() > 0.01
    with Model.open(rewritten(path, tmp_path / "capped.gguf", {"gemma3.final_logit_softcapping": 2.0})) as model:
        np.testing.assert_allclose(model.logits(IDS), 2 * np.tanh(plain / 2), atol=1e-5)


YARN = {"type": "yarn", "factor": 8.0, "original_context_length": 64}
SCALINGS: list[tuple[str, Json]] = [
    ("gemma3", YARN),  # local layers are not scaled, and do not grow
    ("gemma3", {**YARN, "attn_factor": 1.3}),  # which all layers do
    ("qwen3", {**YARN, "attn_factor": 0.7}),
    ("qwen3", {**YARN, "factor": 0.5}),
    ("qwen3", {"type": "longrope", "factor": 4.0}),
    ("phi4", {"type": "longrope", "factor": 4.0}),
]


@pytest.mark.parametrize(("name", "scaling"), SCALINGS)
def test_rotations_are_scaled_as_llama_cpp_does(name: str, scaling: Json, tmp_path: Path) -> None:
    arch = "phi3" if name == "phi4" else name
    keys = {f"{arch}.rope.scaling.{key}": value for key, value in scaling.items()}
    path = rewritten(converted(name, tmp_path), tmp_path / "scaled.gguf", keys)
    with llamacpp.Model(path, n_ctx=512, kv_type="f32") as other, Model.open(path, n_ctx=512) as model:
        theirs = other.logits(IDS)
        ours = np.concatenate(list(model.session(512).eval_rows(IDS)))
    bound = 5e-3 if name == "gemma3" else 2e-4
    np.testing.assert_allclose(ours, theirs, atol=bound * float(np.abs(theirs).max()), rtol=0)


def test_each_rotation_grows_on_its_own(tmp_path: Path) -> None:
    keys = {f"gemma3.rope.scaling.{key}": value for key, value in {**YARN, "attn_factor": 1.5}.items()}
    with Model.open(rewritten(converted("gemma3", tmp_path), tmp_path / "yarn.gguf", keys)) as model:
        grown = [rotation.magnitude for rotation in model._decoder.rotations(64)]
    assert grown == pytest.approx([1.5 * (1 + 0.1 * np.log(8)), 1.5])
