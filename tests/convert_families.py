"""Small checkpoints of the families that differ from Llama in more than a detail, and all cases of the converter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert_models as models
import numpy as np

GPT4O_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def shapes_of(config: dict[str, Any], layer: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint with these tensors in each layer, by name."""
    d, v = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (v, d)
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return dict(sorted(shapes.items()))


def attention(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d = config["hidden_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    return {f"self_attn.{n}_proj": s for n, s in zip("qkvo", ((q, d), (kv, d), (kv, d), (d, q)), strict=True)}


def gated(size: int, d: int) -> dict[str, tuple[int, ...]]:
    return {"gate_proj": (size, d), "up_proj": (size, d), "down_proj": (d, size)}


def moe_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, head, experts = config["hidden_size"], config["head_dim"], config["num_experts"]
    layer = attention(config) | {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,), "mlp.gate": (experts, d)}
    layer |= {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    for i in range(experts):
        parts = gated(config["moe_intermediate_size"], d)
        layer |= {f"mlp.experts.{i}.{name}": shape for name, shape in parts.items()}
    return shapes_of(config, layer)


def qwen3moe(parent: Path) -> Path:
    """Qwen3-MoE: 12 experts (their names are not in the order of their numbers), 3 of them used."""
    config = models.base_config("Qwen3MoeForCausalLM", model_type="qwen3_moe", head_dim=16, vocab_size=304)
    config |= {"num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True}
    config |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1000000.0, "tie_word_embeddings": False}
    tokenizer = models.byte_level_tokenizer(models.QWEN2_REGEX, SPECIALS)
    tensors = models.weights(moe_shapes(config), "BF16")
    directory = models.write_tensors(parent / "Qwen3-moe", config, tensors, tokenizer, shards=2)
    models.write_json(
        directory / "tokenizer_config.json", {"eos_token": SPECIALS[2], "tokenizer_class": "Qwen2Tokenizer"}
    )
    return directory


def phi_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, ff = config["hidden_size"], config["intermediate_size"]
    shapes = attention(config)
    fused = sum(shapes[f"self_attn.{n}_proj"][0] for n in "qkv")
    layer = {"self_attn.qkv_proj": (fused, d), "self_attn.o_proj": shapes["self_attn.o_proj"]}
    layer |= {"mlp.gate_up_proj": (2 * ff, d), "mlp.down_proj": (d, ff)}
    return shapes_of(config, layer | {"input_layernorm": (d,), "post_attention_layernorm": (d,)})


def phi3(parent: Path) -> Path:
    """Phi-3-mini-4k: tokenizer.model with added tokens, a sliding window."""
    config = models.base_config("Phi3ForCausalLM", num_key_value_heads=4, rope_theta=10000.0, rope_scaling=None)
    config |= {"sliding_window": 40, "original_max_position_embeddings": 512, "tie_word_embeddings": False}
    config |= {"bos_token_id": 1, "eos_token_id": 333, "pad_token_id": 333, "vocab_size": 340}
    tensors = models.weights(phi_shapes(config), "BF16")
    directory = models.write_tensors(parent / "Phi-3-mini-4k-instruct", config, tensors, None)
    (directory / "tokenizer.model").write_bytes(models.sentencepiece_bytes())
    texts = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    last = len(models.pieces())
    tokens = {0: "<unk>", 1: "<s>", 2: "</s>"} | {last + i: text for i, text in enumerate(texts)}
    entries = [models.added(i, text, special=i != 2) for i, text in tokens.items()]
    for entry in entries:
        entry["rstrip"] = entry["id"] > 2 or entry["id"] == 2
    tokenizer = models.byte_fallback_tokenizer() | {"added_tokens": entries}
    models.write_json(directory / "tokenizer.json", tokenizer)
    models.write_json(directory / "added_tokens.json", {text: last + i for i, text in enumerate(texts)})
    declared: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "unk_token": "<unk>"}
    declared |= {"add_bos_token": False, "add_eos_token": False, "eos_token": texts[0], "pad_token": texts[0]}
    declared["added_tokens_decoder"] = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in entries
    }
    declared["chat_template"] = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    models.write_json(directory / "tokenizer_config.json", declared)
    return directory


def phi4(parent: Path) -> Path:
    """Phi-4-mini: byte-level vocabulary, LongRoPE over three quarters of a head, tied output."""
    factors = {"short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3], "long_factor": [1.0, 1.5, 3.0, 8.5, 20.0, 31.0]}
    config = models.base_config("Phi3ForCausalLM", rope_theta=10000.0, partial_rotary_factor=0.75, vocab_size=304)
    config |= {"rope_scaling": {"type": "longrope", **factors}, "original_max_position_embeddings": 100}
    config |= {"sliding_window": 262144, "tie_word_embeddings": True, "max_position_embeddings": 800}
    config |= {"bos_token_id": 299, "eos_token_id": 299, "pad_token_id": 299}
    tensors = models.weights(phi_shapes(config), "BF16")
    tokenizer = models.byte_level_tokenizer(GPT4O_REGEX, ["<|endoftext|>", "<|end|>", "<|tool|>"])
    directory = models.write_tensors(parent / "Phi-4-mini-instruct", config, tensors, tokenizer)
    declared = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    declared |= {"add_bos_token": False, "add_eos_token": False, "pad_token": "<|endoftext|>"}
    models.write_json(directory / "tokenizer_config.json", declared)
    return directory


def gemma_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, ff = config["hidden_size"], config["intermediate_size"]
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    layer = attention(config) | {f"{name}_layernorm": (d,) for name in norms}
    layer |= {"self_attn.q_norm": (config["head_dim"],), "self_attn.k_norm": (config["head_dim"],)}
    layer |= {f"mlp.{name}": shape for name, shape in gated(ff, d).items()}
    return shapes_of(config, layer)


def gemma_tensors(config: dict[str, Any]) -> models.Tensors:
    found: models.Tensors = {}
    for seed, (name, shape) in enumerate(gemma_shapes(config).items()):
        values = models.numbers(shape, seed)  # norms too: they multiply by 1 + weight
        found[name] = models.stored(values, "BF16")
    return found


def write_gemma_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(models.sentencepiece_bytes())
    last = len(models.pieces())
    texts = {0: "<unk>", 1: "<s>", 2: "</s>", last: "<start_of_turn>", last + 1: "▁▁", last + 2: "<unused7>"}
    declared: dict[str, Any] = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
    declared |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    declared["added_tokens_decoder"] = {
        str(i): {"content": text, "special": i < 3 or "turn" in text, "normalized": False} for i, text in texts.items()
    }
    models.write_json(directory / "tokenizer_config.json", declared)


def gemma3(parent: Path) -> Path:
    """Gemma 3 1B, as transformers 5 writes its config; seven layers, so that the last local one follows a global."""
    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(7)]
    ropes = {"full_attention": {"rope_theta": 1000000.0, "rope_type": "default"}}
    ropes |= {"sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}
    config = models.base_config("Gemma3ForCausalLM", model_type="gemma3_text", head_dim=32, num_hidden_layers=7)
    config |= {"layer_types": kinds, "rope_parameters": ropes, "sliding_window": 20, "query_pre_attn_scalar": 32}
    config |= {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 335}
    config |= {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": [2, 5], "rms_norm_eps": 1e-6}
    del config["hidden_act"]
    directory = models.write_tensors(parent / "gemma-3-1b-it", config, gemma_tensors(config), None)
    write_gemma_tokenizer(directory)
    return directory


def gemma3_images(parent: Path) -> Path:
    """Gemma 3 with an image encoder, as transformers 4 wrote it: most keys left to their defaults."""
    text = {"hidden_size": 64, "intermediate_size": 96, "model_type": "gemma3_text", "num_hidden_layers": 2}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 24, "vocab_size": 335}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    config |= {"bos_token_id": 1, "eos_token_id": [2, 106], "mm_tokens_per_image": 4, "image_token_index": 330}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config["vision_config"] = vision | {"image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model"}
    whole: dict[str, Any] = {**text, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
    whole["tie_word_embeddings"] = True
    tensors = {f"language_model.{name}": tensor for name, tensor in gemma_tensors(whole).items()}
    tensors["multi_modal_projector.mm_input_projection_weight"] = models.stored(models.numbers((32, 64), 1), "BF16")
    tensors["vision_tower.vision_model.post_layernorm.weight"] = models.stored(models.numbers((32,), 2), "BF16")
    directory = models.write_tensors(parent / "gemma-3-4b-it", config, tensors, None)
    write_gemma_tokenizer(directory)
    return directory


def bitnet_config(**changes: Any) -> dict[str, Any]:
    config = models.base_config("BitNetForCausalLM", hidden_act="relu2", rope_theta=500000.0, vocab_size=335)
    return {**config, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, **changes}


def bitnet_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, ff = config["hidden_size"], config["intermediate_size"]
    layer = attention(config) | {f"mlp.{name}": shape for name, shape in gated(ff, d).items()}
    layer |= {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    layer |= {"self_attn.attn_sub_norm": (d,), "mlp.ffn_sub_norm": (ff,)}
    return shapes_of(config, layer)


def bitnet(parent: Path) -> Path:
    """BitNet b1.58 with float weights and the first models' names, which are those that llama.cpp's converter knows."""
    config = bitnet_config(architectures=["BitnetForCausalLM"])
    tensors = models.weights(bitnet_shapes(config), "F32")
    old = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, first in old.items():
            name = name.replace(new, first)
        renamed[name] = tensor
    directory = models.write_tensors(parent / "bitnet_b1_58-3B", config, dict(sorted(renamed.items())), None)
    write_gemma_tokenizer(directory)
    return directory


def write_small_tokenizer(directory: Path) -> None:
    """A byte-level vocabulary of 290 tokens and fewer."""
    tokenizer = models.byte_level_tokenizer(models.QWEN2_REGEX, [])
    vocabulary = tokenizer["model"]["vocab"]
    kept = {text: i for text, i in vocabulary.items() if i < 290}
    merges = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) in kept]
    tokenizer["model"] |= {"vocab": kept, "merges": merges}
    models.write_json(directory / "tokenizer.json", tokenizer)


def ternary_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """float32 weights of a BitNet checkpoint whose matrices are ternary times a scale, except the embeddings."""
    found = {}
    for seed, (name, shape) in enumerate(bitnet_shapes(config).items()):
        values = models.numbers(shape, seed) + np.float32(name.endswith("norm.weight"))
        if name.endswith("_proj.weight"):
            values = np.clip(np.rint(values * 12), -1, 1) * np.float32(0.07 + 0.01 * (seed % 7))
        found[name] = values
    return found


def bitnet_ternary(parent: Path, hidden_act: str = "relu2") -> Path:
    """BitNet with float weights that are ternary already, as transformers multiplies them."""
    config = bitnet_config(hidden_act=hidden_act)
    tensors = {name: models.stored(values, "F32") for name, values in ternary_weights(config).items()}
    directory = models.write_tensors(parent / "bitnet-ternary", config, tensors, None)
    write_gemma_tokenizer(directory)
    return directory


def bitnet_packed(parent: Path, linear_class: str = "autobitlinear", **sizes: int) -> Path:
    """The weights of `bitnet_ternary` as BitNet-b1.58-2B-4T holds them: four to a byte, and the scale apart."""
    config = bitnet_config(**sizes)
    quantization = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
    tensors: models.Tensors = {}
    for name, values in ternary_weights(config).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = models.stored(values, "F32")
            continue
        scale = np.abs(values).max()
        codes = (np.sign(values) + 1).astype(np.uint8).reshape(4, -1, values.shape[1])
        tensors[name] = ("U8", codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6)
        factor = scale if linear_class == "autobitlinear" else 1 / scale
        tensors[f"{name}_scale"] = ("F32", np.array([factor], np.float32))
    packed = {**config, "quantization_config": quantization}
    directory = models.write_tensors(parent / f"bitnet-{linear_class}", packed, dict(sorted(tensors.items())), None)
    write_gemma_tokenizer(directory)
    return directory


# Case -> (maker, the dtype it is converted to, the pre-tokenizer that llama.cpp's converter has to be told).
CASES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "llama3": (models.llama3, "f16", "llama-bpe"),
    "llama2": (models.llama2, "bf16", ""),
    "mistral": (models.mistral, "f32", ""),
    "qwen3": (models.qwen3, "auto", "qwen2"),
    "qwen2": (models.qwen2, "bf16", "qwen2"),
    "qwen3moe": (qwen3moe, "f16", "qwen2"),
    "phi3": (phi3, "bf16", ""),
    "phi4": (phi4, "f16", "gpt-4o"),
    "gemma3": (gemma3, "bf16", ""),
    "gemma3_images": (gemma3_images, "f32", ""),
    "bitnet": (bitnet, "f32", ""),
}

# What transformers can run, too: its BitNet has other names than the one that llama.cpp's converter takes.
MAKERS: dict[str, Callable[[Path], Path]] = {name: make for name, (make, _, _) in CASES.items()}
MAKERS["bitnet"] = bitnet_ternary
