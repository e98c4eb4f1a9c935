"""GGUF files to quantize: the bundled model and made-up ones, written with gguf-py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TALES = Path(__file__).parent.parent / "examples" / "tales-6m"
_HF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _with_metadata(path: Path, metadata: Mapping[str, Any], **options: Any) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, metadata["general.architecture"], **options)
    for key, value in metadata.items():
        if isinstance(value, str):
            if key != "general.architecture":
                writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    return writer


def header_only(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
) -> Path:
    """A file whose tensors, of this dtype, are a hole: zeros that take no room on the disk."""
    writer = _with_metadata(path, metadata)
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, shape in tensors.items()}
    for name, shape in tensors.items():
        writer.add_tensor_info(name, shape, dtype, sizes[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) + sum(size + 31 for size in sizes.values()) + 64)
    return path


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any] | tuple[np.ndarray[Any, Any], str]],
    **options: Any,
) -> Path:
    """A file of these tensors; (uint8 rows, "Q8_0") is a tensor that is already encoded, uint16 is BF16."""
    writer = _with_metadata(path, metadata, **options)
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=gguf.GGMLQuantizationType[tensor[1]])
        elif tensor.dtype == np.uint16:
            writer.add_tensor(name, tensor.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hyper_parameters(architecture: str, **values: Any) -> dict[str, Any]:
    """Metadata that llama.cpp needs to quantize; `values` have '.' written as '__'."""
    defaults = {
        "context_length": 128,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "vocab_size": 64,
    }
    given = {key.replace("__", "."): value for key, value in values.items()}
    return {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in (defaults | given).items()}


def tales(path: Path, dtype: str = "F16") -> Path:
    """The bundled model without its vocabulary: norms in F32, the rest in `dtype`, tensors in the file's order."""
    raw = (TALES / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for hf_name, info in header.items():
        if hf_name == "__metadata__":
            continue
        assert info["dtype"] == "BF16"
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        bits = np.frombuffer(raw[begin:end], "<u2").reshape(info["shape"])
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", hf_name)
        if match:
            name = f"blk.{match[1]}.{_HF_NAMES[match[2]]}.weight"
        else:
            ends = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
            name = ends[hf_name]
        if values.ndim == 1 or dtype == "F32":
            tensors[name] = values
        else:
            tensors[name] = bits if dtype == "BF16" else values.astype(np.float16)
    config = json.loads((TALES / "config.json").read_text())
    metadata = hyper_parameters(
        "qwen3",
        block_count=config["num_hidden_layers"],
        context_length=config["max_position_embeddings"],
        embedding_length=config["hidden_size"],
        feed_forward_length=config["intermediate_size"],
        attention__head_count=config["num_attention_heads"],
        attention__head_count_kv=config["num_key_value_heads"],
        attention__key_length=config["head_dim"],
        attention__value_length=config["head_dim"],
        vocab_size=config["vocab_size"],
    )
    names = ["alpha", "beta\u00e9", ""]
    return write(path, metadata | {"general.file_type": 1, "general.name": "tales", "test.names": names}, tensors)


def dense(
    path: Path, layers: int, embedding: int, feed_forward: int, kv: int, tied: bool, dtype: str = "F16", seed: int = 0
) -> Path:
    """A llama of any row lengths, random weights."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        values = (rng.standard_t(4, shape) * 0.03).astype(np.float32)
        return values.astype(np.float16) if dtype == "F16" else values

    tensors = {"token_embd.weight": weight(96, embedding), "output_norm.weight": np.ones(embedding, np.float32)}
    if not tied:
        tensors["output.weight"] = weight(96, embedding)
    for i in range(layers):
        tensors |= {
            f"blk.{i}.attn_norm.weight": np.ones(embedding, np.float32),
            f"blk.{i}.attn_q.weight": weight(embedding, embedding),
            f"blk.{i}.attn_k.weight": weight(kv, embedding),
            f"blk.{i}.attn_v.weight": weight(kv, embedding),
            f"blk.{i}.attn_output.weight": weight(embedding, embedding),
            f"blk.{i}.ffn_gate.weight": weight(feed_forward, embedding),
            f"blk.{i}.ffn_up.weight": weight(feed_forward, embedding),
            f"blk.{i}.ffn_down.weight": weight(embedding, feed_forward),
        }
    heads = 8
    metadata = hyper_parameters(
        "llama",
        block_count=layers,
        embedding_length=embedding,
        feed_forward_length=feed_forward,
        attention__head_count=heads,
        attention__head_count_kv=heads * kv // embedding,
    )
    return write(path, metadata, tensors)


def qwen3(path: Path, layers: int = 4, embedding: int = 512, vocabulary: int = 2048, seed: int = 0) -> Path:
    """A Qwen3 with heads of 128 as the real ones have, wider together than the embedding; random F16 weights."""
    rng = np.random.default_rng(seed)
    head, heads, kv_heads, wide = 128, embedding // 64, embedding // 128, 3 * embedding

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_t(5, shape) * 0.03).astype(np.float16)

    tensors = {"token_embd.weight": weight(vocabulary, embedding), "output_norm.weight": np.ones(embedding, np.float32)}
    for i in range(layers):
        tensors |= {
            f"blk.{i}.attn_norm.weight": np.ones(embedding, np.float32),
            f"blk.{i}.attn_q.weight": weight(heads * head, embedding),
            f"blk.{i}.attn_k.weight": weight(kv_heads * head, embedding),
            f"blk.{i}.attn_v.weight": weight(kv_heads * head, embedding),
            f"blk.{i}.attn_q_norm.weight": np.ones(head, np.float32),
            f"blk.{i}.attn_k_norm.weight": np.ones(head, np.float32),
            f"blk.{i}.attn_output.weight": weight(embedding, heads * head),
            f"blk.{i}.ffn_norm.weight": np.ones(embedding, np.float32),
            f"blk.{i}.ffn_gate.weight": weight(wide, embedding),
            f"blk.{i}.ffn_up.weight": weight(wide, embedding),
            f"blk.{i}.ffn_down.weight": weight(embedding, wide),
        }
    metadata = hyper_parameters(
        "qwen3",
        block_count=layers,
        embedding_length=embedding,
        feed_forward_length=wide,
        attention__head_count=heads,
        attention__head_count_kv=kv_heads,
        attention__key_length=head,
        attention__value_length=head,
        vocab_size=vocabulary,
    )
    return write(path, metadata, tensors)


def experts(path: Path, layers: int = 2, count: int = 4, seed: int = 0) -> Path:
    """A qwen3moe of `count` experts, random BF16 weights."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        values = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    tensors: dict[str, np.ndarray[Any, Any]] = {
        "token_embd.weight": weight(64, 256),
        "output_norm.weight": np.ones(256, np.float32),
        "output.weight": weight(64, 256),
    }
    for i in range(layers):
        tensors |= {
            f"blk.{i}.attn_norm.weight": np.ones(256, np.float32),
            f"blk.{i}.attn_q.weight": weight(256, 256),
            f"blk.{i}.attn_k.weight": weight(64, 256),
            f"blk.{i}.attn_v.weight": weight(64, 256),
            f"blk.{i}.attn_output.weight": weight(256, 256),
            f"blk.{i}.ffn_gate_inp.weight": rng.standard_normal((count, 256)).astype(np.float32),
            f"blk.{i}.ffn_gate_exps.weight": weight(count, 32, 256),
            f"blk.{i}.ffn_up_exps.weight": weight(count, 32, 256),
            f"blk.{i}.ffn_down_exps.weight": weight(count, 256, 32),
        }
    metadata = hyper_parameters(
        "qwen3moe",
        block_count=layers,
        attention__head_count=8,
        attention__head_count_kv=2,
        expert_count=count,
        expert_used_count=2,
        expert_feed_forward_length=32,
    )
    return write(path, metadata, tensors)


def weights_of(path: Path, seed: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    """Made-up importance, [K] or [E, K], for every tensor of the layers."""
    rng = np.random.default_rng(seed)
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            k, *rest = (int(n) for n in tensor.shape)
            shape = (rest[1], k) if len(rest) == 2 else (k,)
            found[tensor.name] = (rng.standard_normal(shape) ** 2 + 1e-4).astype(np.float32)
    return found
