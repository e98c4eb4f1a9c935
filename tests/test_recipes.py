"""The recipes choose the formats that llama-quantize chooses."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
import quantize_models
from blockquant import recipes
from blockquant.recipes import rules, table
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = Path(__file__).parent / "data" / "recipes"
# Metadata that llama.cpp wants before it quantizes a model of an architecture, beside what every model has.
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads((DATA.parent / "architectures.json").read_text())
CASES = sorted(path.stem for path in DATA.glob("*.json"))
Shapes = dict[str, tuple[int, ...]]


def load_case(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    layers = next(value for key, value in case["metadata"].items() if key.endswith("block_count"))
    shapes = {key: tuple(shape) for key, shape in case["tensors"].items()}
    for i in range(layers):
        shapes |= {f"blk.{i}.{key}": tuple(shape) for key, shape in case["layer_tensors"].items()}
    for numbers_of_layers, tensors in case.get("some_layers", ()):
        for i in numbers_of_layers.split(","):
            shapes |= {f"blk.{i}.{key}": tuple(shape) for key, shape in tensors.items()}
    return case | {"shapes": shapes}


def expand(recipe: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(tensor, format) for each tensor that differs from the default."""
    for format, tensors in recipe.items():
        for item in tensors.split() if format != "default" else ():
            name, _, layers = item.partition(":")
            for part in layers.split(",") if layers else ():
                first, _, last = part.partition("-")
                for i in range(int(first), int(last or first) + 1):
                    yield f"blk.{i}.{name}", format
            if not layers:
                yield name, format


@pytest.mark.parametrize("name", CASES)
def test_choices_of_llama_quantize(name: str) -> None:
    case = load_case(name)
    assert len(case["recipes"]) >= 30
    options = case.get("options", {})
    for recipe, expected in case["recipes"].items():
        if expected is None:
            with pytest.raises(ValueError, match="has no fallback"):
                recipes.explain(case["shapes"], recipe, case["metadata"], **options)
            continue
        exceptions = dict(expand(expected))
        chosen = recipes.explain(case["shapes"], recipe, case["metadata"], **options)
        quantized = {c.name: str(c.format) for c in chosen if c.quantized}
        assert quantized == {t: exceptions.get(t, expected["default"]) for t in quantized}, recipe
        assert exceptions.keys() <= quantized.keys()
        if "kept" in case:
            assert {c.name for c in chosen if not c.quantized} == {n for n, _ in expand({"F32": case["kept"]})}


def test_every_file_type_has_one_recipe() -> None:
    names = recipes.names()
    assert len(names) == 36
    assert {"Q4_K_M", "IQ2_M", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0", "BF16"} <= set(names)
    assert len({recipes.get(n).file_type for n in names}) == len(names)
    assert recipes.get("q4_k") is recipes.get("Q4_K_M") is recipes.get("15")


def test_the_table_names_only_formats_and_conditions_that_exist() -> None:
    for recipe in table.RECIPES.values():
        assert recipe.base in bq.formats
        for role in table.ROLES:
            for rule in recipe.rules_for(role):
                format, _ = rules.parse_rule(rule)  # raises for a condition that does not exist
                assert format in bq.formats
    assert set(table.FALLBACKS) | set(table.FALLBACKS.values()) <= set(bq.formats)
    with pytest.raises(ValueError, match="unknown condition 'sometimes'"):
        rules.parse_rule("Q4_K if sometimes")


METADATA = {"general.architecture": "llama", "llama.block_count": 8, "llama.attention.head_count": 8}
SHAPES: Shapes = {
    "token_embd.weight": (64, 256),
    "output.weight": (64, 256),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.attn_q.weight": (256, 256),
    "blk.0.attn_q.bias": (1, 256),
    "blk.0.ffn_gate_inp.weight": (8, 256),
    "blk.0.ffn_down.weight": (256, 172),
}


def test_tensors_that_stay() -> None:
    plan = recipes.plan(SHAPES, "Q4_K_M", METADATA)
    assert [plan[f"blk.0.{n}"] for n in ("attn_norm.weight", "attn_q.bias", "ffn_gate_inp.weight")] == ["F32"] * 3

    class Info:
        shape, format = (256,), "F16"

    assert (
        recipes.plan(SHAPES | {"blk.0.attn_norm.weight": Info()}, "Q4_0", METADATA)["blk.0.attn_norm.weight"] == "F16"
    )


def test_order_is_by_layer_then_name() -> None:
    shapes = {f"blk.{i}.attn_q.weight": (32, 32) for i in (10, 2, 0)} | {"output.weight": (32, 32)}
    assert list(recipes.plan(shapes, "Q8_0", METADATA)) == [
        "output.weight",
        "blk.0.attn_q.weight",
        "blk.2.attn_q.weight",
        "blk.10.attn_q.weight",
    ]


def test_a_fallback_says_what_was_wanted() -> None:
    chosen = {c.name: c for c in recipes.explain(SHAPES, "Q4_K_M", METADATA)}
    down = chosen["blk.0.ffn_down.weight"]
    assert (down.wanted, down.format, down.is_fallback) == ("Q6_K", "F16", True)  # 172 is not a multiple of 32
    assert not chosen["blk.0.attn_q.weight"].is_fallback


def test_overrides_come_first_and_the_first_match_decides() -> None:
    plan = recipes.plan(SHAPES, "Q4_K_M", METADATA, overrides={r"attn_q\.": "q8_0", "attn": "Q2_K", "output": "Q5_K"})
    assert plan["blk.0.attn_q.weight"] == "Q8_0"
    assert plan["output.weight"] == "Q5_K"
    assert plan["blk.0.attn_norm.weight"] == "F32"


def test_types_of_the_ends() -> None:
    plan = recipes.plan(SHAPES, "Q4_0", METADATA, output_tensor_type="f16", token_embedding_type="Q8_0")
    assert (plan["output.weight"], plan["token_embd.weight"]) == ("F16", "Q8_0")
    assert plan["blk.0.attn_q.weight"] == "Q4_0"
    assert recipes.plan(SHAPES, "Q4_K_S", METADATA, pure=True)["output.weight"] == "Q4_K"


def test_imatrix_requirement() -> None:
    needs = {
        recipe: {c.name for c in recipes.explain(SHAPES, recipe, METADATA) if c.needs_imatrix}
        for recipe in ("IQ2_XXS", "Q2_K", "Q2_K_S", "Q4_K_M")
    }
    assert needs["IQ2_XXS"] == {"blk.0.attn_q.weight"}
    assert needs["Q2_K_S"] == {"blk.0.attn_q.weight"}
    assert needs["Q2_K"] == needs["Q4_K_M"] == set()


def test_the_id_of_f32_is_a_format() -> None:
    plan = recipes.plan(SHAPES, "Q4_0", METADATA, output_tensor_type=0, token_embedding_type=0)  # type: ignore[arg-type]
    assert (plan["output.weight"], plan["token_embd.weight"]) == ("F32", "F32")


# What llama-quantize's std::regex makes of each for the name blk.0.attn_v.weight.
CPP_PATTERNS = {
    r"blk\.0\.[[:graph:]]+_v": True,
    r"blk[[:print:]]0": True,
    r"attn_v[^[:blank:]]": True,
    r"attn_v[[:blank:][:cntrl:]]": False,
    r"[[:ALPHA:]]ttn_v": True,
    r"[[:Digit:]]ttn_v": False,
    r"[^[:digit:]]attn_v": True,
    r"[a[:digit:]]ttn_v": True,
    r"[:alpha:]ttn_v": True,  # without a second bracket a set of these characters
    r"[:lph:]ttn_v": False,
    r"blk[.]0[.]attn_v": True,
    r"blk\[:digit:]": False,
}


@pytest.mark.parametrize("pattern", CPP_PATTERNS)
def test_patterns_of_cpp(pattern: str) -> None:
    plan = recipes.plan({"blk.0.attn_v.weight": (8, 256)}, "Q4_0", METADATA, overrides={pattern: "Q8_0"})
    assert (plan["blk.0.attn_v.weight"] == "Q8_0") == CPP_PATTERNS[pattern]


@pytest.mark.native_oracle
def test_patterns_against_llama_quantize(tmp_path: Path) -> None:
    native = pytest.importorskip("native_oracle")
    native.llama()
    shapes = {"blk.0.attn_v.weight": (8, 256), "output.weight": (8, 256)}
    metadata = quantize_models.hyper_parameters("llama", block_count=1, attention__head_count=8)
    source = quantize_models.header_only(tmp_path / "m.gguf", metadata, shapes, np.dtype(np.float32))
    for pattern, matches in CPP_PATTERNS.items():
        found = native.formats(source, 2, overrides=[(pattern, 8)])
        assert (found["blk.0.attn_v.weight"] == "Q8_0") == matches, pattern


@pytest.mark.parametrize("given", ["attn_q=Q8_0", ["attn_q=Q8_0"], [("a", "Q8_0", "Q4_0")]])
def test_overrides_that_are_no_pairs(given: Any) -> None:
    with pytest.raises(TypeError, match=r"overrides must be \{regular expression: format\} or pairs of them, got"):
        recipes.plan(SHAPES, "Q4_0", METADATA, overrides=given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "Q4_K_L"}, "unknown recipe 'Q4_K_L': did you mean Q4_K_"),
        ({"recipe": "zzz"}, "the recipes are F32"),
        ({"metadata": {}}, "no 'general.architecture'"),
        ({"metadata": {"general.architecture": "llama"}}, "'llama.block_count' must be an integer, it is missing"),
        ({"metadata": METADATA | {"llama.expert_count": "8"}}, "'llama.expert_count' must be an integer, it is '8'"),
        ({"overrides": {"(": "Q8_0"}}, "not a regular expression"),
        ({"overrides": {"[[=a=]]ttn": "Q8_0"}}, "[=a=] is none of the classes"),
        ({"overrides": {"[[.a.]]ttn": "Q8_0"}}, "[.a.] is none of the classes"),
        ({"overrides": {"[[:letter:]]ttn": "Q8_0"}}, "[:letter:] is none of the classes"),
        ({"overrides": {"[a[:alpha": "Q8_0"}}, "[:alpha is none of the classes"),
        ({"overrides": {"attn[^]v[0]": "Q8_0"}}, "the set is empty in C++"),
        ({"overrides": {r"weight\Z": "Q8_0"}}, "is not C++'s; write ^ or $"),
        ({"overrides": {r"\Aoutput": "Q8_0"}}, "is not C++'s; write ^ or $"),
        ({"overrides": {"a": "Q9_0"}}, "unknown format 'Q9_0'"),
        ({"output_tensor_type": "Q4"}, "output_tensor_type: unknown format 'Q4'"),
        ({"tensors": {"output.weight": (8, 100)}, "output_tensor_type": "Q4_0"}, "rows of 'output.weight' have 100"),
        ({"recipe": "Q1_0", "tensors": {"blk.0.attn_q.weight": (8, 64)}}, "Q1_0 has no fallback"),
        (
            {
                "tensors": {"blk.9.ffn_down_exps.weight": (4, 32, 256)},
                "metadata": METADATA | {"llama.expert_count": 4},
            },
            "is of layer 9, but the model has 8 layers",
        ),
    ],
)
def test_errors_say_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        recipes.plan(**({"tensors": SHAPES, "recipe": "Q4_K_M", "metadata": METADATA} | arguments))
    assert "\n" not in str(caught.value)


_PARTS = [
    *("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight", "attn_output.weight"),
    *("ffn_up.weight", "ffn_gate.weight", "ffn_down.weight", "ffn_norm.weight", "attn_q.bias", "ffn_gate_inp.weight"),
    *("ffn_up_exps.weight", "ffn_gate_exps.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight"),
    *("ssm_in.weight", "ssm_out.weight", "ssm_conv1d.weight", "shortconv.conv.weight", "time_mix_w1.weight"),
    *("time_mix_key.weight", "attn_rel_b.weight", "indexer.k_proj.weight", "indexer.proj.weight", "hc_fn.weight"),
    *("altup_proj.weight", "laurel_l.weight", "cross_attn_v.weight", "nextn.eh_proj.weight", "attn_q_a.weight"),
    *("attn_q_b.weight", "attn_k_b.weight", "ffn_down.scale"),
]
_ENDS = [
    *("token_embd.weight", "output.weight", "per_layer_token_embd.weight", "output_norm.weight", "cls.output.weight"),
    *("position_embd.weight", "token_types.weight", "v.blk.0.attn_v.weight", "v.patch_embd.weight", "mm.0.weight"),
    *("per_layer_model_proj.weight", "rope_freqs.weight", "enc.blk.0.attn_v.weight", "weight"),
]
_ROWS = [256, 512, 64, 172, 288, 32, 100, 1, 2304, 128, 96]


def numbers(text: str) -> dict[str, Any]:
    pairs = (item.split("=") for item in text.split())
    return {key: int(value) if value.isdigit() else float(value) for key, value in pairs}


def random_model(rng: random.Random) -> tuple[dict[str, Any], Shapes]:
    """Metadata that llama.cpp accepts, and tensors of every role, with rows that fit and rows that do not."""
    name, layers, heads, kv_heads, experts = rng.choice(
        [
            ("llama", rng.randint(1, 48), 8, rng.choice([8, 4, 2, 1]), rng.choice([0, 0, 2, 4, 8, 16])),
            ("llama", 80, 8, rng.choice([1, 8, 2]), rng.choice([0, 8])),
            ("qwen3", rng.randint(1, 40), 16, 8, 0),
            ("qwen3moe", rng.randint(1, 48), 8, 1, rng.choice([4, 8, 128])),
            ("falcon", rng.choice([32, 60, 9]), 8, rng.choice([8, 1]), 0),
            ("qwen2", 80, 8, 8, 0),
            ("olmo", 80, 8, 8, 0),
            ("deci", 80, 8, 1, 0),
            ("jais2", 68, 8, 8, 0),
            ("gemma3", 34, 8, 4, 0),
            ("bailingmoe3", 24, 8, 4, 16),
            ("glm5-next", 20, 8, 8, 16),
        ]
    )
    values: dict[str, Any] = dict(
        numbers("context_length=128 embedding_length=256 feed_forward_length=512 vocab_size=64"),
        **numbers("attention.layer_norm_rms_epsilon=1e-5 attention.layer_norm_epsilon=1e-5"),
    )
    values |= {"block_count": layers, "attention.head_count": heads, "attention.head_count_kv": kv_heads}
    if kv_heads == heads and rng.random() < 0.5:
        del values["attention.head_count_kv"]
    if experts:
        values |= {"expert_count": experts, "expert_used_count": 2}
    if name in ("bailingmoe3", "glm5-next"):
        values |= numbers(
            "attention.key_length_mla=32 attention.value_length_mla=32 attention.q_lora_rank=32 "
            "attention.kv_lora_rank=32 ssm.conv_kernel=4 kda.head_dim=32 kda.gate_lower_bound=-5.0 "
            "expert_feed_forward_length=32 expert_shared_count=1 leading_dense_block_count=1 expert_gating_func=2 "
            "attention.indexer.head_count=2 attention.indexer.key_length=32 attention.indexer.top_k=8 "
            "attention.indexer.kpool=4 hyper_connection.count=4 hyper_connection.sinkhorn_iterations=2 "
            "hyper_connection.epsilon=1e-5"
        )
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in values.items()}
    return metadata, random_shapes(rng, layers, experts)


def random_shapes(rng: random.Random, layers: int, experts: int) -> Shapes:
    """Tensors of every role and none, some of them not in every layer."""
    shapes: Shapes = {}
    for end in _ENDS:
        if rng.random() < (0.9 if end == "token_embd.weight" else 0.5):
            shapes[end] = (64,) if "norm" in end else (rng.choice([64, 33]), rng.choice(_ROWS))
    parts = {part: rng.choice(_ROWS) if rng.random() < 0.4 else 256 for part in _PARTS if rng.random() < 0.5}
    holes = rng.random() < 0.3  # hybrid models: not every layer has every tensor
    for i in range(layers):
        for part, row in parts.items():
            if holes and rng.random() < 0.2:
                continue
            shape: tuple[int, ...] = (rng.choice([8, 3]), row)
            if "exps" in part or ("_b." in part and rng.random() < 0.5):
                shape = (experts or 2, *shape)
            shapes[f"blk.{i}.{part}"] = (row,) if "norm" in part or "bias" in part else shape
    return shapes


LEAVE_OUTPUT = r"^output\.weight$"


def random_options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        options["imatrix_names"] = ["blk.0.attn_q.weight"]
    if rng.random() < 0.15:
        options["pure"] = True
    if rng.random() < 0.2:
        options["output_tensor_type"] = rng.choice(["Q8_0", "Q4_K", "F16", "Q5_1"])
    if rng.random() < 0.2:
        options["token_embedding_type"] = rng.choice(["Q8_0", "Q4_K", "F16", "Q2_K"])
    if rng.random() < 0.3:
        patterns = ["attn_q", "ffn_(up|down)", r"blk\.[0-9]\.attn", "per_layer_token", "output", "token_embd", "attn_v"]
        options["overrides"] = {
            rng.choice(patterns): rng.choice(["Q8_0", "Q6_K", "F16", "IQ4_NL"]) for _ in range(rng.randint(1, 3))
        }
    if rng.random() < 0.1:
        options["overrides"] = {LEAVE_OUTPUT: "keep"} | options.get("overrides", {})
    return options


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(recipes.names()))
def test_every_choice_fits_its_row(seed: int, recipe: str) -> None:
    rng = random.Random(seed)
    metadata, shapes = random_model(rng)
    options = random_options(rng)
    try:
        chosen = recipes.explain(shapes, recipe, metadata, **options)
    except ValueError as error:
        assert "was asked for" in str(error) or "no fallback" in str(error)  # noqa: PT017
        return
    assert {c.name for c in chosen} == set(shapes)
    for c in chosen:
        assert shapes[c.name][-1] % bq.formats[c.format].block_size == 0
        assert c.quantized or (c.format == "F32" and c.reason)
    # The order in which the caller names the tensors does not matter.
    names = list(shapes)
    rng.shuffle(names)
    assert recipes.explain({n: shapes[n] for n in names}, recipe, metadata, **options) == chosen


@pytest.mark.native_oracle
@pytest.mark.parametrize("seed", range(24))
def test_random_models_against_llama_quantize(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    metadata, shapes = random_model(rng)
    compare_with_llama_quantize(rng, metadata, shapes, table.RECIPES.values(), tmp_path)


@pytest.mark.native_oracle
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_against_llama_quantize(architecture: str, tmp_path: Path) -> None:
    rng = random.Random(architecture)
    values = dict(ARCHITECTURES[architecture])
    plain = values.pop("_global", {})
    layers, experts = values.pop("_layers", rng.choice([12, 24, 40])), values.pop("_experts", rng.choice([0, 8, 16]))
    values |= numbers("attention.group_norm_groups=8 attention.group_norm_epsilon=1e-5 features_length=256")
    values |= {"expert_count": experts, "expert_used_count": 2} if experts else {}
    values |= {"block_count": layers, "attention.head_count": 8, "attention.head_count_kv": rng.choice([1, 2, 8])}
    values |= {"attention.layer_norm_epsilon": 1e-5}
    metadata = quantize_models.hyper_parameters(architecture, **values) | plain
    # Where there are experts, llama-quantize wants the layer in the name of each tensor of the feed-forward network.
    shapes = random_shapes(rng, layers, experts)
    compare_with_llama_quantize(rng, metadata, shapes, rng.sample(list(table.RECIPES.values()), 6), tmp_path)


def compare_with_llama_quantize(
    rng: random.Random, metadata: dict[str, Any], shapes: Shapes, chosen: Iterable[table.Recipe], directory: Path
) -> None:
    native = pytest.importorskip("native_oracle")
    native.llama()
    source = quantize_models.header_only(directory / "model.gguf", metadata, shapes, np.dtype(np.float32))
    compared = 0
    for recipe in chosen:
        if recipe.name == "NVFP4":  # llama-quantize does not write it
            continue
        options = random_options(rng)
        given: dict[str, Any] = dict(options)
        if given.pop("imatrix_names", None):
            given["imatrix"] = {"blk.0.attn_q.weight": np.ones(256, np.float32)}
        for key in ("output_tensor_type", "token_embedding_type"):
            if key in given:
                given[key] = bq.formats[given[key]].ggml_type
        overrides = dict(given.get("overrides", {}))
        given["quantize_output_tensor"] = overrides.pop(LEAVE_OUTPUT, None) is None
        given["overrides"] = [(p, bq.formats[f].ggml_type) for p, f in overrides.items()]
        try:
            plan = recipes.plan(shapes, recipe.name, metadata, **options)
        except ValueError as error:
            if "was asked for" in str(error):  # llama-quantize stops the whole process on these
                continue
            with pytest.raises(RuntimeError, match="failed to quantize"):
                native.formats(source, recipe.file_type, **given)
            continue
        expected = native.formats(source, recipe.file_type, **given)
        assert list(plan) == list(expected)
        assert {n: str(f) for n, f in plan.items()} == expected, (recipe.name, options)
        compared += len(plan)
    assert compared > 100
