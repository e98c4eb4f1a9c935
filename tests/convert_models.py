"""Small Hugging Face model directories, written without torch: the same bytes on every machine.

`CASES` are what the converter is compared with llama.cpp's on (tests/record_convert.py records llama.cpp's side).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from blockquant.converter.floats import to_bfloat16_bits

Tensors = dict[str, tuple[str, np.ndarray]]

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = QWEN2_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

# Merges, by rank, written as SentencePiece writes them: "▁" is a space.
MERGES = (
    "▁ t|h e|i n|▁t he|e r|▁ a|a n|r e|o n|▁ w|e n|o u|▁ s|i s|▁a n|▁an d|i t|o r|n d|▁ o|▁o f|t o|"
    "▁ i|▁i n|a s|▁w as|l l|a t|▁ h|▁h e|▁ c|▁ b|▁b e|e s|in g|▁ f|▁f or|▁ m|▁ d|o m|▁s a|i d|▁sa id"
)
MERGE_PAIRS = [merge.split() for merge in MERGES.split("|")]


def safetensors_bytes(tensors: Tensors) -> bytes:
    """The file that holds `tensors`, name -> (dtype, array)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, parts = 0, []
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 values in about +-0.12 that look random, from integer arithmetic alone."""
    i = np.arange(prod(shape), dtype=np.uint64)
    bits = (i * np.uint64(2654435761) + np.uint64(seed * 40503 + 12345)) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(29)
    return ((((bits >> np.uint64(20)) & np.uint64(0xFFFFF)).astype(np.float32) / np.float32(1 << 22)) - 0.125).reshape(
        shape
    )


def stored(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    """`values` as a checkpoint of that dtype holds them."""
    if dtype == "BF16":
        return dtype, to_bfloat16_bits(values)
    return dtype, values.astype({"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype])


def weights(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Tensors:
    found: Tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        values = numbers(shape, seed)
        if name.endswith("norm.weight"):
            values = values + np.float32(1)
        found[name] = stored(values, dtype)
    return found


def layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The checkpoint tensors of a Llama-shaped model, in the order in which transformers saves them (by name)."""
    d, ff, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = (
        head * config["num_attention_heads"],
        head * config.get("num_key_value_heads", config["num_attention_heads"]),
    )
    qwen = config["architectures"][0]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (v, d)
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
        layer |= {f"self_attn.{n}_proj": s for n, s in zip("qkvo", ((q, d), (kv, d), (kv, d), (d, q)), strict=True)}
        layer |= {"mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff)}
        if qwen == "Qwen3ForCausalLM":
            layer |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
        biases = [f"self_attn.{n}_proj" for n in "qkvo"] if config.get("attention_bias") else []
        biases = [f"self_attn.{n}_proj" for n in "qkv"] if qwen == "Qwen2ForCausalLM" else biases
        biases += [f"mlp.{n}_proj" for n in ("gate", "up", "down")] if config.get("mlp_bias") else []
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes |= {f"model.layers.{i}.{name}.bias": layer[name][:1] for name in biases}
    return dict(sorted(shapes.items()))


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def added(token: int, text: str, special: bool = True) -> dict[str, Any]:
    entry = {"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
    return {**entry, "normalized": False, "special": special}


def byte_level_tokenizer(regex: str, specials: Iterable[str], **model: Any) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE; the specials follow the vocabulary, "user:..." ones are not special."""
    pairs = [[part.replace("▁", "Ġ") for part in pair] for pair in MERGE_PAIRS]
    texts = byte_alphabet() + ["".join(pair) for pair in pairs]
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    base |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added(len(texts) + i, s.removeprefix("user:"), not s.startswith("user:")) for i, s in enumerate(specials)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {**byte_level, "trim_offsets": False},
        "decoder": {**byte_level, "use_regex": True},
        "model": {**base, **model, "vocab": {text: i for i, text in enumerate(texts)}, "merges": pairs},
    }


def pieces() -> list[tuple[str, float, int]]:
    """A SentencePiece vocabulary: (text, score, type)."""
    found = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{b:02X}>", 0.0, 6) for b in range(256))]
    merged = ["".join(pair) for pair in MERGE_PAIRS]
    found += [(text, -float(rank), 1) for rank, text in enumerate(merged)]
    letters = sorted(set("".join(merged)) | set("gkpuvxyz.,"))
    return found + [(text, -float(len(merged) + i), 1) for i, text in enumerate(letters)]


def sentencepiece_bytes(model_type: int = 2) -> bytes:
    """tokenizer.model: the pieces, and the trainer's settings with the model type."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    out = b""
    for text, score, kind in pieces():
        out += field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))
    byte_fallback = bytes([35 << 3 & 127 | 128, 35 >> 4, 1])
    return out + field(2, bytes([3 << 3, model_type]) + byte_fallback)


def byte_fallback_tokenizer() -> dict[str, Any]:
    """The same vocabulary as tokenizer.json: BPE with byte fallback, as Llama 2's."""
    space = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    bos = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": bos, "pair": [*bos, {"Sequence": {"id": "B", "type_id": 1}}]}
    template["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    # SentencePiece merges any two neighbours that make a piece, so every split of a piece is a merge of its rank.
    ids = {text: i for i, (text, _, _) in enumerate(pieces())}
    merges = []
    for pair in MERGE_PAIRS:
        text = "".join(pair)
        splits = [(text[:i], text[i:]) for i in range(1, len(text))]
        merges += [f"{a} {b}" for a, b in splits if a in ids and b in ids]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": space},
        "pre_tokenizer": None,
        "post_processor": template,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }


def base_config(architecture: str, **changes: Any) -> dict[str, Any]:
    config = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "vocab_size": 312,
    }
    return {**config, **changes}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def write_model(
    directory: Path, config: Mapping[str, Any], dtype: str, tokenizer: Mapping[str, Any] | None, shards: int = 1
) -> Path:
    """config.json, weights and tokenizer.json."""
    return write_tensors(directory, config, weights(layer_shapes(config), dtype), tokenizer, shards)


def write_tensors(
    directory: Path, config: Mapping[str, Any], tensors: Tensors, tokenizer: Mapping[str, Any] | None, shards: int = 1
) -> Path:
    """The same with the weights given."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    if tokenizer is not None:
        write_json(directory / "tokenizer.json", tokenizer)
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return directory
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        # Every second name, so that no shard is a plain run of the sorted names.
        part = {name: tensors[name] for name in names[i::shards]}
        weight_map |= dict.fromkeys(part, file)
        (directory / file).write_bytes(safetensors_bytes(part))
    write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return directory


def llama3(parent: Path) -> Path:
    """Llama 3.1 as transformers 4 saves it: llama3 rope scaling, untied output, BOS from a template."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    config = base_config(
        "LlamaForCausalLM", rope_theta=500000.0, rope_scaling=scaling, bos_token_id=299, vocab_size=312
    )
    config |= {
        "eos_token_id": [300, 301],
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "user:<tool>", "<|reserved_0|>"]
    tokenizer = byte_level_tokenizer(LLAMA3_REGEX, specials, ignore_merges=True)
    first = len(tokenizer["model"]["vocab"])
    bos = [{"SpecialToken": {"id": specials[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": bos, "pair": [*bos, {"Sequence": {"id": "B", "type_id": 1}}]}
    template["special_tokens"] = {specials[0]: {"id": specials[0], "ids": [first], "tokens": [specials[0]]}}
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [tokenizer["post_processor"], template]}
    directory = write_model(parent / "Tiny-Llama-3.1-8K-Instruct", config, "F32", tokenizer)
    declared = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0], "eos_token": specials[2]}
    declared |= {"chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"}
    declared["added_tokens_decoder"] = {
        str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in tokenizer["added_tokens"]
    }
    write_json(directory / "tokenizer_config.json", declared)
    write_json(directory / "special_tokens_map.json", {"bos_token": specials[0], "eos_token": specials[2]})
    write_json(directory / "generation_config.json", {"temperature": 0.6, "top_p": 0.9, "top_k": 40, "do_sample": True})
    return directory


def llama2(parent: Path) -> Path:
    """Llama 2 with a SentencePiece tokenizer.model, biases, tied output and linear rope scaling, in three shards."""
    config = base_config("LlamaForCausalLM", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=32)
    config |= {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, "vocab_size": 333}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 4, "num_hidden_layers": 3}
    directory = write_model(parent / "base-7b-v0.1", config, "BF16", None, shards=3)
    (directory / "tokenizer.model").write_bytes(sentencepiece_bytes())
    declared: dict[str, Any] = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    declared |= {"bos_token": added(1, "<s>"), "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    last = len(pieces())
    texts = {0: "<unk>", 1: "<s>", 2: "</s>", last: "<pad>", last + 1: "▁two▁words"}
    declared["added_tokens_decoder"] = {
        str(i): {"content": text, "special": i < 3, "normalized": False} for i, text in texts.items()
    }
    write_json(directory / "tokenizer_config.json", declared)
    write_json(directory / "added_tokens.json", {"<pad>": last, "▁two▁words": last + 1})
    (directory / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", "utf-8")
    return directory


def mistral(parent: Path) -> Path:
    """Mistral with tokenizer.json alone (byte fallback), the head size unlike hidden / heads."""
    config = base_config("MistralForCausalLM", head_dim=24, rope_theta=1000000.0, sliding_window=None)
    config |= {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(pieces())}
    directory = write_model(parent / "mistral-small", config, "F16", byte_fallback_tokenizer())
    declared = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    declared |= {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}
    write_json(directory / "tokenizer_config.json", declared)
    return directory


CARD = """---
license: apache-2.0
license_link: https://example.org/LICENSE   # where it is
language:
- en
- "no"
tags: [stories, 'tiny model']
pipeline_tag: text-generation
base_model:
  - somebody/Tales-0.5B-Base
datasets:
- https://huggingface.co/datasets-org/tales-v2
model-index:
- name: tales
  results:
    - task: {type: text}
---
# A card
"""


def qwen3(parent: Path) -> Path:
    """Qwen3, untied, yarn, a padded vocabulary and a model card."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1000000.0}
    config = base_config("Qwen3ForCausalLM", head_dim=32, rope_parameters=rope, vocab_size=320, attention_bias=False)
    config |= {"eos_token_id": 299, "bos_token_id": None, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "user:<think>", "user:</think>"]
    tokenizer = byte_level_tokenizer(QWEN2_REGEX, specials) | {"normalizer": {"type": "NFC"}}
    directory = write_model(parent / "Qwen3-0.1M-it", config, "BF16", tokenizer)
    (directory / "README.md").write_text(CARD, "utf-8")
    declared = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    declared |= {"add_bos_token": False, "bos_token": None, "unk_token": None}
    declared["chat_template"] = [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool use", "template": "x"},
    ]
    write_json(directory / "tokenizer_config.json", declared)
    return directory


def qwen2(parent: Path) -> Path:
    """Qwen2: biases on query, key and value, tied output, a float16 checkpoint without further files."""
    config = base_config("Qwen2ForCausalLM", tie_word_embeddings=True, rope_theta=10000.0, vocab_size=304)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    directory = write_model(parent / "qwen2", config, "F16", byte_level_tokenizer(QWEN2_REGEX, specials))
    write_json(directory / "tokenizer_config.json", {"eos_token": specials[0], "tokenizer_class": "Qwen2Tokenizer"})
    return directory


def processors() -> list[Any]:
    """Post-processors that put tokens before and after a text."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}

    def token(text: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": 0}}

    def template(*single: dict[str, Any]) -> dict[str, Any]:
        return {"type": "TemplateProcessing", "single": list(single), "pair": [], "special_tokens": {}}

    text = {"Sequence": {"id": "A", "type_id": 0}}
    return [
        None,
        byte_level,
        template(text),
        template(token("<b>"), text),
        template(text, token("<e>")),
        template(token("<b>"), text, token("<x>")),
        {"type": "Sequence", "processors": [byte_level, template(token("<b>"), text, token("<e>"))]},
        {"type": "Sequence", "processors": [byte_level, template(token("<x>"), text)]},
    ]


SPECIAL_DECLARATIONS: list[dict[str, Any]] = [
    {"tokenizer_class": "X"},
    {"bos_token": "<b>", "eos_token": "<e>", "pad_token": "<p>", "unk_token": None},
    {"bos_token": "<b>", "eos_token": "<e>", "add_bos_token": True, "add_eos_token": False},
    {"eos_token": "<e>", "add_bos_token": False, "unk_token": "<u>", "mask_token": "<m>", "chat_template": "x"},
    {"cls_token": "<b>", "sep_token": "<e>", "bos_token": "not there", "add_sep_token": True},
]


def special_token_cases() -> dict[str, dict[str, Any]]:
    """Case -> file name -> content, for what the files beside a model say about special tokens."""
    texts = ["<b>", "<e>", "<p>", "<u>", "<m>", "<x>"]
    cases: dict[str, dict[str, Any]] = {}
    for i, processor in enumerate(processors()):
        for j, declared in enumerate(SPECIAL_DECLARATIONS):
            tokens = [added(n, text) for n, text in enumerate(texts)]
            model = {"type": "BPE", "merges": [], "vocab": {}}
            cases[f"{i}-{j}"] = {
                "tokenizer.json": {"added_tokens": tokens, "post_processor": processor, "model": model},
                "tokenizer_config.json": declared,
                "config.json": {"bos_token_id": 5, "eos_token_id": 4, "pad_token_id": 99} if (i + j) % 2 else {},
            }
    return cases
