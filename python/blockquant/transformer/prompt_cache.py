"""Files that hold a session: its tokens and its KV cache, so that a long prompt is evaluated once.

They are GGUF files, whose reader refuses what is malformed:
    general.type             "session"
    session.version          2
    session.model            fingerprint of the model, hexadecimal
    session.rotation         of how it rotates in a context of the session's size, which LongRoPE goes by
    session.cache            "f16", "f32" or "q8_0"
    session.tokens           int32 array
    layer.N.keys, layer.N.values   the blocks as the attention kernel reads them; Q8_0 as int8
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from blockquant import gguf
from blockquant._tensor import QuantizedTensor
from blockquant.errors import BlockquantError
from blockquant.transformer.cache import KVCache

Layers = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]

VERSION = 2
SAMPLE = 4096  # bytes of each tensor's beginning and end that the fingerprint sees


class OtherRotationError(BlockquantError):
    """The session was saved in a context of a size for which the model's rotations are other ones."""


def fingerprint(file: Any) -> str:
    """Tells models apart: names, shapes and formats of the tensors, some of their bytes, and what changes the loop."""
    digest = hashlib.sha256()
    architecture = str(file.architecture)
    for key, value in file.metadata.items():
        if key.startswith(f"{architecture}."):
            is_array = isinstance(value, np.ndarray)
            said = f"{value.dtype.str}{value.shape}" if is_array else repr(value)
            digest.update(f"{key}={said}\n".encode("utf-8", "surrogateescape"))
            digest.update(value.tobytes() if is_array else b"")
    for name, info in file.tensor_infos.items():
        digest.update(f"{name} {info.format} {info.shape}\n".encode("utf-8", "surrogateescape"))
        tensor = file.tensors[name]
        flat = (tensor.data if isinstance(tensor, QuantizedTensor) else tensor).reshape(-1).view(np.uint8)
        digest.update(flat[:SAMPLE].tobytes())
        digest.update(flat[-SAMPLE:].tobytes())
    return digest.hexdigest()


def save(path: str | os.PathLike[str], cache: KVCache, tokens: list[int], model: str, rotation: str) -> None:
    """Write the file; it appears whole or not at all."""
    metadata = {
        "general.type": "session",
        "session.version": np.uint32(VERSION),
        "session.model": model,
        "session.rotation": rotation,
        "session.cache": cache.kind,
        "session.tokens": np.array(tokens, np.int32),
    }
    with gguf.create(path, metadata) as writer:
        for layer in range(len(cache.layers)):
            for name, array in zip(("keys", "values"), cache.stored(layer), strict=True):
                if array.size:
                    writer.add_tensor(f"layer.{layer}.{name}", _as_stored(array))


def load(
    path: str | os.PathLike[str], cache: KVCache, n_vocab: int, model: str, rotation: str
) -> tuple[list[int], Layers]:
    """The tokens of the file, and the layers that the cache is to have.

    Raises ValueError when they are not for it: OtherRotationError when only the size of the context is to blame.
    """
    with gguf.open(path) as file:

        def refuse(why: str) -> BlockquantError:
            return BlockquantError(f"{os.fspath(path)!s} does not hold a session for this model: {why}")

        metadata = file.metadata

        def get(key: str, kind: type) -> Any:
            value = metadata.get(key)
            return value if type(value) is kind else f"no {kind.__name__}"  # arrays would not compare to one bool

        if get("general.type", str) != "session":
            raise refuse("it is not a session file")
        if get("session.version", int) != VERSION:
            raise refuse(f"it has version {get('session.version', int)}, expected {VERSION}; delete it")
        if get("session.model", str) != model:
            raise refuse("it was saved from another model")
        if get("session.cache", str) != cache.kind:
            raise refuse(f"its cache is {get('session.cache', str)}, the session's is {cache.kind}")
        if get("session.rotation", str) != rotation:
            raise OtherRotationError(
                f"{os.fspath(path)!s} was saved in a context of another size than {cache.n_ctx}, in which this model's "
                f"rotations (LongRoPE) are other ones"
            )
        tokens = metadata.get("session.tokens")
        if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu":
            raise refuse("session.tokens is no list of token ids")
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_vocab:
            raise refuse(f"it has token ids outside the vocabulary of {n_vocab}")
        if tokens.size > cache.n_ctx:
            raise refuse(f"it has {tokens.size} tokens, more than the context of {cache.n_ctx}")
        layers = cache.layers
        if tokens.size:
            found = []
            for layer in range(len(cache.layers)):
                names = [f"layer.{layer}.{part}" for part in ("keys", "values")]
                missing = [name for name in names if name not in file.tensors]
                if missing:
                    raise refuse(f"it lacks {missing[0]!r}")
                keys, values = (_from_stored(np.asarray(file.tensors[name])) for name in names)
                found.append((keys, values))
            try:
                layers = cache.copies(found, int(tokens.size))
            except BlockquantError as error:
                raise refuse(str(error)) from None
        ids: list[int] = tokens.tolist()
        return ids, layers


def _as_stored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.view(np.int8) if array.dtype == np.uint8 else array


def _from_stored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.view(np.uint8) if array.dtype == np.int8 else array
