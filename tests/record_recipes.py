"""Record llama-quantize's choices for models of many architectures in tests/data/recipes.

    PYTHONPATH=python python tests/record_recipes.py

needs llama-cpp-python built from source. The tensors have the names that the architectures give them, and the shapes of
models that are smaller than the real ones; some rows fit no block of 256.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import native_oracle
import numpy as np
import quantize_models
from blockquant import formats
from blockquant.recipes import table

DATA = Path(__file__).parent / "data" / "recipes"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Model:
    """`ends` come once, `layers` in every layer, `some` in the layers that are listed."""

    metadata: Mapping[str, Any]
    ends: Shapes
    layers: Shapes
    some: Mapping[str, tuple[Iterable[int], Shapes]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def model(architecture: str, layers: int, ends: Shapes, every: Shapes, some: Any = None, **values: Any) -> Model:
    values = {"attention__layer_norm_epsilon": 1e-5, "block_count": layers} | values
    options = values.pop("options", {})
    metadata = quantize_models.hyper_parameters(architecture, **values)
    return Model(metadata, ends, every, some or {}, options)


def weights(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """NAME.weight of each, with '__' for '.'."""
    return {f"{name.replace('__', '.')}.weight": shape for name, shape in shapes.items()}


D = 768  # the width of most models below
ENDS = weights(token_embd=(512, D), output_norm=(D,), output=(512, D))
TIED = weights(token_embd=(512, D), output_norm=(D,))
ATTENTION = weights(attn_norm=(D,), attn_q=(D, D), attn_k=(192, D), attn_v=(192, D), attn_output=(D, D))
DENSE = weights(ffn_norm=(D,), ffn_gate=(1536, D), ffn_up=(1536, D), ffn_down=(D, 1536))
SSM = weights(ssm_in=(3072, D), ssm_conv1d=(1536, 4), ssm_x=(80, 1536), ssm_dt=(1536, 48), ssm_out=(D, 1536))
SSM |= {"ssm_a": (1536, 16), "ssm_d": (1536,), "ssm_conv1d.bias": (1536,), "attn_norm.weight": (D,)}
SSM_KEYS = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 1536,
    "ssm__state_size": 16,
    "ssm__time_step_rank": 48,
    "ssm__group_count": 1,
}


def experts(count: int, width: int = 256, shared: int = 0) -> dict[str, tuple[int, ...]]:
    found = weights(
        ffn_norm=(D,),
        ffn_gate_inp=(count, D),
        ffn_gate_exps=(count, width, D),
        ffn_up_exps=(count, width, D),
        ffn_down_exps=(count, D, width),
    )
    if shared:
        found |= weights(ffn_gate_shexp=(shared, D), ffn_up_shexp=(shared, D), ffn_down_shexp=(D, shared))
    return found


def all_models() -> dict[str, Model]:
    mla = weights(attn_norm=(D,), attn_q_a=(384, D), attn_q_a_norm=(384,), attn_q_b=(1536, 384), attn_output=(D, 1024))
    mla |= weights(attn_kv_a_mqa=(288, D), attn_kv_a_norm=(256,))
    split = mla | weights(attn_k_b=(8, 256, 128), attn_v_b=(8, 128, 256))
    fused = mla | weights(attn_kv_b=(2048, 256))
    linear = weights(attn_norm=(D,), attn_gate=(1024, D), attn_qkv=(2048, D), ssm_ba=(32, D), ssm_conv1d=(2048, 4))
    linear |= weights(ssm_norm=(128,), ssm_out=(D, 1024)) | {"ssm_a": (16,), "ssm_dt.bias": (16,)}
    gated = ATTENTION | weights(attn_q=(2 * D, D), attn_q_norm=(128,), attn_k_norm=(128,))
    mla_keys = {
        "attention__q_lora_rank": 384,
        "attention__kv_lora_rank": 256,
        "expert_feed_forward_length": 256,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
    }
    attention = {"attention__head_count": 8, "attention__head_count_kv": 2}
    every_fourth = [3, 7, 11, 15]
    others = [i for i in range(16) if i not in every_fourth]
    kv = [2 if i in every_fourth else 0 for i in range(16)]
    encoder = weights(attn_q=(D, D), attn_k=(D, D), attn_v=(D, D), attn_output=(D, D), attn_output_norm=(D,))
    encoder |= weights(ffn_up=(3072, D), ffn_down=(D, 3072), layer_output_norm=(D,)) | {"attn_q.bias": (D,)}
    t5 = {
        f"{side}.blk.{i}.{name}.weight": shape
        for side in ("enc", "dec")
        for i in range(3)
        for name, shape in {
            "attn_norm": (D,),
            "attn_q": (D, D),
            "attn_k": (D, D),
            "attn_v": (D, D),
            "attn_o": (D, D),
            "attn_rel_b": (12, 32),
            "ffn_norm": (D,),
            "ffn_gate": (2048, D),
            "ffn_up": (2048, D),
            "ffn_down": (D, 2048),
            **({"cross_attn_q": (D, D), "cross_attn_v": (D, D), "cross_attn_o": (D, D)} if side == "dec" else {}),
        }.items()
    }
    rwkv = weights(attn_norm=(D,), attn_norm_2=(D,), time_mix_output=(D, D), time_mix_key=(D, D), time_mix_value=(D, D))
    rwkv |= weights(time_mix_receptance=(D, D), time_mix_lerp_fused=(6, 1, 1, D), channel_mix_value=(D, 3072))
    rwkv |= weights(**{f"time_mix_{n}": (D, 64) for n in ("w1", "a1", "v1", "g1")}, channel_mix_key=(3072, D))
    rwkv |= weights(**{f"time_mix_{n}": (64, D) for n in ("w2", "a2", "v2", "g2")}, time_mix_r_k=(12, 64))
    laurel = weights(laurel_l=(64, D), laurel_r=(D, 64), altup_router=(4, D), altup_predict_coef=(16, 4))
    laurel |= weights(inp_gate=(256, D), proj=(D, 256), altup_correct_coef=(4, 4), post_norm=(D,))
    ungated = {
        k: v for k, v in experts(128, 232, 464).items() if k not in ("ffn_gate_exps.weight", "ffn_gate_shexp.weight")
    }
    nemotron = {
        "ssm": ([0, 2, 4, 6, 8, 10, 12, 14], SSM | weights(ssm_norm=(1, 1536))),
        "moe": ([1, 5, 7, 9, 13, 15], ungated),
        "attention": ([3, 11], ATTENTION),
    }
    ssm_or_attention = {"ssm": (others, SSM), "attention": (every_fourth, ATTENTION)}
    return {
        "deepseek2-v2": model(
            "deepseek2",
            13,
            ENDS,
            fused,
            {"dense": ([0], DENSE), "moe": (range(1, 13), experts(64, 176, 352))},
            attention__head_count=8,
            expert_count=64,
            expert_used_count=6,
            **mla_keys,
        ),
        "deepseek2-v3-imatrix": model(
            "deepseek2",
            13,
            ENDS,
            split,
            {"dense": ([0], DENSE), "moe": (range(1, 13), experts(256, 256, 256))},
            attention__head_count=128,
            attention__head_count_kv=1,
            expert_count=256,
            expert_used_count=8,
            options={"imatrix_names": ["blk.0.attn_q_a.weight"]},
            **mla_keys,
        ),
        "jamba": model(
            "jamba",
            16,
            ENDS,
            {},
            ssm_or_attention | {"dense": (range(0, 16, 2), DENSE), "moe": (range(1, 16, 2), experts(16))},
            expert_count=16,
            expert_used_count=2,
            attention__head_count=[8 if i in every_fourth else 0 for i in range(16)],
            attention__head_count_kv=kv,
            **SSM_KEYS,
        ),
        "mamba2": model("mamba2", 24, TIED, SSM | weights(ssm_norm=(8, 192)), **SSM_KEYS),
        "falcon-h1-imatrix": model(
            "falcon-h1",
            18,
            ENDS,
            ATTENTION | DENSE | SSM,
            options={"imatrix_names": ["blk.0.attn_q.weight"]},
            **attention,
            **SSM_KEYS,
        ),
        "granitehybrid": model(
            "granitehybrid",
            16,
            TIED,
            experts(62, shared=1024),
            ssm_or_attention,
            attention__head_count=8,
            attention__head_count_kv=kv,
            expert_count=62,
            expert_used_count=6,
            **SSM_KEYS,
        ),
        "qwen3next": model(
            "qwen3next",
            16,
            ENDS,
            experts(512, shared=512) | weights(ffn_gate_inp_shexp=(D,), post_attention_norm=(D,)),
            {"linear": (others, linear), "attention": (every_fourth, gated)},
            attention__head_count=16,
            attention__head_count_kv=2,
            expert_count=512,
            expert_used_count=10,
            **SSM_KEYS,
        ),
        "lfm2": model(
            "lfm2",
            16,
            weights(token_embd=(512, D), token_embd_norm=(D,)),
            DENSE | weights(attn_norm=(D,)),
            {
                "conv": (
                    others,
                    weights(shortconv__conv=(D, 3), shortconv__in_proj=(3 * D, D), shortconv__out_proj=(D, D)),
                ),
                "attention": (every_fourth, ATTENTION | weights(attn_q_norm=(96,), attn_k_norm=(96,))),
            },
            attention__head_count=8,
            attention__head_count_kv=kv,
            shortconv__l_cache=3,
        ),
        "nemotron_h_moe": model(
            "nemotron_h_moe",
            16,
            ENDS,
            weights(attn_norm=(D,)),
            nemotron,
            attention__head_count=8,
            attention__head_count_kv=[2 if i in (3, 11) else 0 for i in range(16)],
            expert_count=128,
            expert_used_count=6,
            **SSM_KEYS,
        ),
        "bert": model(
            "bert",
            12,
            weights(token_embd=(512, D), position_embd=(512, D), token_types=(2, D), token_embd_norm=(D,)),
            encoder,
            attention__head_count=12,
        ),
        "t5-imatrix": model(
            "t5",
            3,
            ENDS | t5 | weights(enc__output_norm=(D,), dec__output_norm=(D,)),
            {},
            attention__head_count=12,
            attention__relative_buckets_count=32,
            options={"imatrix_names": ["enc.blk.0.attn_q.weight"]},
        ),
        "rwkv7": model(
            "rwkv7",
            12,
            ENDS | weights(token_embd_norm=(D,)),
            rwkv,
            wkv__head_size=64,
            attention__decay_lora_rank=64,
            attention__iclr_lora_rank=64,
            attention__value_residual_mix_lora_rank=64,
            attention__gate_lora_rank=64,
        ),
        "phi3": model(
            "phi3",
            32,
            ENDS,
            weights(attn_norm=(D,), attn_qkv=(3 * D, D), attn_output=(D, D), ffn_up=(4096, D), ffn_down=(D, 2048)),
            attention__head_count=8,
        ),
        "falcon-40b-imatrix": model(
            "falcon",
            60,
            ENDS,
            weights(attn_norm=(D,), attn_qkv=(D + 192, D), attn_output=(D, D), ffn_up=(3072, D), ffn_down=(D, 3072)),
            attention__head_count=128,
            attention__head_count_kv=8,
            options={"imatrix_names": ["blk.0.attn_qkv.weight"], "token_embedding_type": "Q8_0"},
        ),
        "gemma3n": model(
            "gemma3n",
            30,
            TIED
            | weights(
                per_layer_token_embd=(512, 30 * 256),
                per_layer_model_proj=(30 * 256, D),
                altup_proj=(3, D, D),
                altup_unembd_proj=(3, D, D),
            ),
            ATTENTION | DENSE | laurel,
            attention__sliding_window=512,
            options={"overrides": {"per_layer_token_embd": "Q5_1", "token_embd": "IQ4_XS"}},
            **attention,
        ),
        "mixtral": model(
            "llama",
            32,
            ENDS,
            ATTENTION | experts(8, 448),
            attention__head_count=32,
            attention__head_count_kv=8,
            expert_count=8,
            expert_used_count=2,
        ),
        "glm4moe-imatrix": model(
            "glm4moe",
            13,
            ENDS,
            ATTENTION,
            {
                "dense": ([0], DENSE),
                "moe": (range(1, 13), experts(128, 176, 176)),
                "nextn": ([12], weights(nextn__eh_proj=(D, 2 * D), nextn__embed_tokens=(512, D), nextn__enorm=(D,))),
            },
            attention__head_count=96,
            attention__head_count_kv=8,
            expert_count=128,
            expert_used_count=8,
            expert_feed_forward_length=176,
            expert_shared_count=1,
            nextn_predict_layers=1,
            options={"imatrix_names": ["blk.0.attn_q.weight"]},
        ),
    }


def shapes_of(given: Model) -> dict[str, tuple[int, ...]]:
    count = next((v for k, v in given.metadata.items() if k.endswith("block_count")), 0)
    shapes = dict(given.ends)
    for i in range(count):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in given.layers.items()}
        for layers, part in given.some.values():
            if i in layers:
                shapes |= {f"blk.{i}.{name}": shape for name, shape in part.items()}
    return shapes


def compact(chosen: Mapping[str, str], default: str) -> dict[str, str]:
    """Format -> the tensors that have it, layers as ranges."""
    by_format: dict[str, dict[str, list[int]]] = {}
    for name, format in chosen.items():
        if format != default:
            first, _, rest = name.removeprefix("blk.").partition(".")
            inside = name.startswith("blk.") and first.isdigit()
            layers = by_format.setdefault(format, {}).setdefault(rest if inside else name, [])
            if inside:
                layers.append(int(first))
    result = {}
    for format, tensors in by_format.items():
        items = []
        for name, layers in tensors.items():
            runs = [list(g) for _, g in groupby(enumerate(sorted(layers)), lambda pair: pair[1] - pair[0])]
            ranges = [f"{r[0][1]}-{r[-1][1]}" if len(r) > 1 else str(r[0][1]) for r in runs]
            items.append(f"{name}:{','.join(ranges)}" if layers else name)
        result[format] = " ".join(items)
    return result


def record(name: str, given: Model) -> None:
    shapes = shapes_of(given)
    options = dict(given.options)
    asked: dict[str, Any] = dict(options)
    for key in ("output_tensor_type", "token_embedding_type"):
        if key in asked:
            asked[key] = formats[asked[key]].ggml_type
    asked["overrides"] = [(p, formats[f].ggml_type) for p, f in asked.get("overrides", {}).items()]
    if asked.pop("imatrix_names", None):
        asked["imatrix"] = {options["imatrix_names"][0]: np.ones(D, np.float32)}
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "model.gguf"
        quantize_models.header_only(source, given.metadata, shapes, np.dtype(np.float32))
        for recipe in table.RECIPES.values():
            if recipe.name == "NVFP4":  # llama-quantize does not write it
                continue
            try:
                chosen = native_oracle.formats(source, recipe.file_type, **asked)
            except RuntimeError:  # no fallback is defined
                lines.append(f"  {json.dumps(recipe.name)}: null")
                continue
            kept = {n for n in chosen if chosen[n] == "F32"} if recipe.base != "F32" else set()
            stays = " ".join(sorted(compact(dict.fromkeys(kept, "F32"), "").get("F32", "").split()))
            quantized = {n: f for n, f in chosen.items() if n not in kept}
            entry = {"default": recipe.base} | compact(quantized, recipe.base)
            if recipe.name == "Q4_0":
                kept_line = f' "kept": {json.dumps(stays)},\n'
            lines.append(f"  {json.dumps(recipe.name)}: {json.dumps(entry)}")
    some = [[",".join(map(str, layers)), {k: list(v) for k, v in part.items()}] for layers, part in given.some.values()]
    text = (
        "{\n"
        f' "metadata": {json.dumps(dict(given.metadata))},\n'
        f' "options": {json.dumps(options)},\n'
        f' "tensors": {json.dumps({k: list(v) for k, v in given.ends.items()})},\n'
        f' "layer_tensors": {json.dumps({k: list(v) for k, v in given.layers.items()})},\n'
        f' "some_layers": {json.dumps(some)},\n'
        f"{kept_line}"
        ' "recipes": {\n' + ",\n".join(lines) + "\n }\n}\n"
    )
    (DATA / f"{name}.json").write_text(text)


if __name__ == "__main__":
    for name, given in all_models().items():
        record(name, given)
        print(name)
