"""GGUF files for the model tests: the bundled model in any format, and small random ones, made once per process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
from blockquant import gguf
from blockquant.converter import convert

EXAMPLE = Path(__file__).parent.parent / "examples" / "tales-6m"


@functools.cache
def directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="blockquant-models-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def tales(recipe: str) -> Path:
    """examples/tales-6m as F32, F16 or BF16, or quantized from BF16 by a recipe."""
    path = directory() / f"tales-{recipe}.gguf"
    if recipe in ("F32", "F16", "BF16"):
        convert(EXAMPLE, path, recipe.lower())
    else:
        bq.quantize_file(tales("BF16"), path, recipe)
    return path


@functools.cache
def decoded(recipe: str) -> Path:
    """tales(recipe) with every tensor decoded to F32: the same weights, multiplied by float activations."""
    path = directory() / f"tales-{recipe}-decoded.gguf"
    with gguf.open(tales(recipe)) as source:
        tensors = {name: np.asarray(tensor, np.float32) for name, tensor in source.tensors.items()}
        write(path, source.typed_metadata(), tensors)
    return path


@functools.cache
def eval_text() -> str:
    return (EXAMPLE / "eval.txt").read_bytes().decode()


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    with gguf.create(path, dict(metadata)) as writer:
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
    return path


def random_model(
    architecture: str, *, heads: int = 4, kv_heads: int = 2, dim: int = 16, seed: int = 0, **metadata: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Metadata and float32 tensors of a two-layer model without a vocabulary; `metadata` adds `<architecture>.*`
    keys, with "__" for ".". Give a value of None to leave a key out."""
    rng = np.random.default_rng(seed)
    n_embd, n_ff, n_vocab, layers = 64, 96, 80, 2
    keys = {
        "block_count": layers,
        "context_length": 256,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
    } | {key.replace("__", "."): value for key, value in metadata.items()}
    full = {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}

    def matrix(n: int, k: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((n, k)) * 1.5 / np.sqrt(k)).astype(np.float32)

    def vector(n: int) -> np.ndarray[Any, Any]:
        return (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)

    tensors = {"token_embd.weight": matrix(n_vocab, n_embd)}
    for i in range(layers):
        layer = {
            "attn_norm": vector(n_embd),
            "attn_q": matrix(heads * dim, n_embd),
            "attn_k": matrix(kv_heads * dim, n_embd),
            "attn_v": matrix(kv_heads * dim, n_embd),
            "attn_output": matrix(n_embd, heads * dim),
            "ffn_norm": vector(n_embd),
            "ffn_gate": matrix(n_ff, n_embd),
            "ffn_up": matrix(n_ff, n_embd),
            "ffn_down": matrix(n_embd, n_ff),
        }
        if architecture == "qwen3":
            layer |= {"attn_q_norm": vector(dim), "attn_k_norm": vector(dim)}
        tensors |= {f"blk.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    tensors |= {"output_norm.weight": vector(n_embd), "output.weight": matrix(n_vocab, n_embd)}
    return {"general.architecture": architecture} | full, tensors


def reference_logits(
    metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]], ids: list[int]
) -> np.ndarray[Any, Any]:
    """What the model computes, written plainly in float64: the whole score matrix, no cache."""
    architecture = metadata["general.architecture"]

    def key(name: str) -> Any:
        return metadata[f"{architecture}.{name}"]

    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, kv_heads, dim = key("attention.head_count"), key("attention.head_count_kv"), key("attention.key_length")
    count = len(ids)

    def norm(x: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        mean = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean + key("attention.layer_norm_rms_epsilon")) * weight

    def project(x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    dims = metadata.get(f"{architecture}.rope.dimension_count", dim)
    speed = key("rope.freq_base") ** (-2 * np.arange(dims // 2) / dims)
    speed = speed / metadata.get(f"{architecture}.rope.scaling.factor", 1.0) / w.get("rope_freqs.weight", 1.0)
    turn = np.exp(1j * np.outer(np.arange(count), speed))[:, None]

    def rotate(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out = x.copy()
        even, odd = (
            (slice(0, dims, 2), slice(1, dims, 2))
            if architecture == "llama"
            else (
                slice(0, dims // 2),
                slice(dims // 2, dims),
            )
        )
        turned = (x[..., even] + 1j * x[..., odd]) * turn
        out[..., even], out[..., odd] = turned.real, turned.imag
        return out

    x = w["token_embd.weight"][ids]
    for i in range(key("block_count")):
        p = f"blk.{i}."
        h = norm(x, w[p + "attn_norm.weight"])
        q = project(h, p + "attn_q").reshape(count, heads, dim)
        k, v = (project(h, p + f"attn_{n}").reshape(count, kv_heads, dim) for n in "kv")
        if architecture == "qwen3":
            q, k = norm(q, w[p + "attn_q_norm.weight"]), norm(k, w[p + "attn_k_norm.weight"])
        q, k, v = rotate(q), rotate(k).repeat(heads // kv_heads, 1), v.repeat(heads // kv_heads, 1)
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(dim)
        scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + project(np.einsum("hts,shd->thd", weights, v).reshape(count, -1), p + "attn_output")
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = project(h, p + "ffn_gate")
        x = x + project(gate / (1 + np.exp(-gate)) * project(h, p + "ffn_up"), p + "ffn_down")
    return norm(x, w["output_norm.weight"]) @ w["output.weight"].T
