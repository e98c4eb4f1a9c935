"""config.json of published models, by their values: what the converter reads of them and what llama.cpp's reads.

Weights are not needed to plan a conversion; `checkpoint` writes a file of the exact shapes that takes no room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import convert_families
import numpy as np
from blockquant.converter.floats import to_bfloat16_bits

_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

_LLAMA32: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}

# 48 factors: three quarters of a head of 128 are rotated.
_PHI4_LONG = (
    "1 1.118320672 1.250641126 1.398617824 1.564103225 1.74916897 1.956131817 2.187582649 2.446418898 2.735880826 "
    "3.059592084 3.421605075 3.826451687 4.279200023 4.785517845 5.351743533 5.984965424 6.693110555 7.485043894 "
    "8.370679318 9.36110372 10.4687158 11.70738129 13.09260651 14.64173252 16.37415215 18.31155283 20.47818807 "
    "22.90118105 25.61086418 28.64115884 32.03 32.1 32.13 32.23 32.6 32.61 32.64 32.66 32.7 32.71 32.93 32.97 33.28 "
    "33.49 33.5 44.16 47.77"
)

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {**_QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "max_window_layers": 28},
    "Qwen3-1.7B": {**_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "max_window_layers": 28},
    "Qwen3-4B": {
        **_QWEN3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "max_window_layers": 36,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
    },
    "Qwen3-30B-A3B": {
        **_QWEN3,
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "tie_word_embeddings": False,
    },
    "Llama-3.2-1B-Instruct": _LLAMA32,
    "Llama-3.2-3B-Instruct": {
        **_LLAMA32,
        "head_dim": 128,
        "hidden_size": 3072,
        "num_attention_heads": 24,
        "num_hidden_layers": 28,
    },
    "Phi-4-mini-instruct": {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 199999,
        "embd_pdrop": 0.0,
        "eos_token_id": 199999,
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "phi3",
        "num_attention_heads": 24,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [float(factor) for factor in _PHI4_LONG.split()],
            "short_factor": [1.0] * 48,
            "type": "longrope",
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "use_cache": True,
        "vocab_size": 200064,
    },
    "gemma-3-1b-it": {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "initializer_range": 0.02,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "use_cache": True,
        "vocab_size": 262144,
    },
    "gemma-3-4b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "bitnet-b1.58-2B-4T": {
        "architectures": ["BitNetForCausalLM"],
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "relu2",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 6912,
        "max_position_embeddings": 4096,
        "model_type": "bitnet",
        "num_attention_heads": 20,
        "num_hidden_layers": 30,
        "num_key_value_heads": 5,
        "quantization_config": {
            "linear_class": "autobitlinear",
            "quant_method": "bitnet",
            "quantization_mode": "offline",
        },
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
}

# What the configuration classes fill in where these files say nothing.
_GEMMA_DEFAULTS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}

Stored = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape


def _tied(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith("lm_head.")}


def tensors(name: str) -> Stored:
    """The tensors of the published checkpoint; of Gemma's image encoder only two."""
    config = CONFIGS[name]
    family = config["architectures"][0]
    if family.startswith("Gemma3"):
        text = {**_GEMMA_DEFAULTS, **config, **config.get("text_config", {})}
        prefix = "language_model." if "text_config" in config else ""
        found: Stored = {prefix + k: ("BF16", v) for k, v in _tied(convert_families.gemma_shapes(text)).items()}
        if prefix:
            found["multi_modal_projector.mm_input_projection_weight"] = ("BF16", (1152, 2560))
            found["vision_tower.vision_model.post_layernorm.weight"] = ("BF16", (1152,))
        return found
    if family == "BitNetForCausalLM":
        found = {}
        for key, shape in convert_families.bitnet_shapes(config).items():
            if key.endswith("_proj.weight"):
                found[key] = ("U8", (shape[0] // 4, shape[1]))
                found[f"{key}_scale"] = ("BF16", (1,))
            else:
                found[key] = ("BF16", shape)
        return found
    shapes = {
        "Qwen3ForCausalLM": convert_families.models.layer_shapes,
        "LlamaForCausalLM": convert_families.models.layer_shapes,
        "Qwen3MoeForCausalLM": convert_families.moe_shapes,
        "Phi3ForCausalLM": convert_families.phi_shapes,
    }[family](config)
    return {key: ("BF16", shape) for key, shape in shapes.items()}


def header(stored: Stored) -> tuple[bytes, int]:
    """The safetensors header of such a file, and how many bytes of data follow it."""
    entries, at = {}, 0
    for name, (dtype, shape) in stored.items():
        nbytes = int(np.prod(shape)) * {"BF16": 2, "U8": 1, "F32": 4}[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text, at


def write_hollow(directory: Path, name: str, for_llama_cpp: bool = False) -> Path:
    """config.json and a checkpoint whose weights are a hole in the file.

    llama.cpp's converter knows BitNet's sub-norms by the names that the first models had, and cannot plan packed
    weights without reading them: for it they are floats.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config, stored = CONFIGS[name], tensors(name)
    if for_llama_cpp and config["architectures"] == ["BitNetForCausalLM"]:
        config = {key: value for key, value in config.items() if key != "quantization_config"}
        stored = {}
        for key, shape in convert_families.bitnet_shapes(config).items():
            for new, old in (("attn_sub_norm.", "inner_attn_ln."), ("ffn_sub_norm.", "ffn_layernorm.")):
                key = key.replace(new, old)
            stored[key] = ("BF16", shape)
    (directory / "config.json").write_text(json.dumps(config))
    start, nbytes = header(stored)
    with (directory / "model.safetensors").open("wb") as f:
        f.write(start)
        f.truncate(len(start) + nbytes)
    return directory


def write_random(directory: Path, name: str) -> Path:
    """The same with random weights, and a small tokenizer of the model's kind. Tensors repeat a few million numbers."""
    directory = write_hollow(directory, name)
    rng = np.random.default_rng(1)
    tile = rng.standard_normal(1 << 22).astype(np.float32)
    bits = to_bfloat16_bits(tile)
    codes = rng.integers(0, 3, (4, 1 << 20)).astype(np.uint8)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    gemma = name.startswith("gemma")
    start, _ = header(tensors(name))
    with (directory / "model.safetensors").open("r+b") as f:
        f.seek(len(start))
        for key, (dtype, shape) in tensors(name).items():
            count = int(np.prod(shape))
            if dtype == "U8":
                source = packed
            elif key.endswith("_scale"):
                source = to_bfloat16_bits(np.full(1, 0.05, np.float32))
            elif len(shape) == 1:
                source = to_bfloat16_bits(np.float32(0 if gemma else 1) + np.float32(0.1) * tile[: 1 << 16])
            else:
                # A power of two near 1 / sqrt(K) keeps the size of what is multiplied.
                source = bits - np.uint16(round(np.log2(shape[1]) / 2) << 7)
            source = np.roll(source, -int(rng.integers(len(source))))
            while count > 0:
                f.write(source[:count].tobytes())
                count -= len(source)
    if CONFIGS[name]["model_type"] in ("gemma3", "gemma3_text"):
        convert_families.write_gemma_tokenizer(directory)
    else:
        regex = convert_families.models.QWEN2_REGEX
        tokenizer = convert_families.models.byte_level_tokenizer(regex, ["<|endoftext|>"])
        convert_families.models.write_json(directory / "tokenizer.json", tokenizer)
        convert_families.models.write_json(directory / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    return directory
