"""llama.cpp as a test oracle: load a GGUF file, tokenize, and get the logits of every position, through ctypes.

The library is the one inside the xllamacpp wheel, which exports llama.cpp's C interface. The parameter structs are
taken by value from llama.cpp's own `*_default_params` into a buffer larger than any release's struct, and only fields
whose place the default values prove are changed; a release that moved them skips the test instead of misreading.

    with llamacpp.Model(path) as m:
        ids = m.tokenize("Once upon a time")
        logits = m.logits(ids)          # float32 [T, V]
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import pytest

_STRUCT_BYTES = 1024


class _Params(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * _STRUCT_BYTES),)

    def words(self) -> np.ndarray:
        return np.frombuffer(self, np.int32)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_log_lines: list[str] = []


@_LOG_CALLBACK
def _log(_level: int, text: bytes, _user: Any) -> None:
    _log_lines.append(text.decode("utf-8", "replace"))
    del _log_lines[:-200]


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded llama.cpp library; skips the calling test when xllamacpp is not installed."""
    xllamacpp = pytest.importorskip("xllamacpp")
    lib = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    p, i32, b = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "llama_log_set": (None, (_LOG_CALLBACK, p)),
        "llama_backend_init": (None, ()),
        "llama_model_default_params": (_Params, ()),
        "llama_context_default_params": (_Params, ()),
        "llama_model_load_from_file": (p, (ctypes.c_char_p, _Params)),
        "llama_model_free": (None, (p,)),
        "llama_model_get_vocab": (p, (p,)),
        "llama_model_desc": (i32, (p, ctypes.c_char_p, ctypes.c_size_t)),
        "llama_model_meta_val_str": (i32, (p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)),
        "llama_vocab_n_tokens": (i32, (p,)),
        "llama_vocab_bos": (i32, (p,)),
        "llama_vocab_eos": (i32, (p,)),
        "llama_init_from_model": (p, (p, _Params)),
        "llama_free": (None, (p,)),
        "llama_set_n_threads": (None, (p, i32, i32)),
        "llama_get_memory": (p, (p,)),
        "llama_memory_clear": (None, (p, b)),
        "llama_batch_init": (_Batch, (i32, i32, i32)),
        "llama_batch_free": (None, (_Batch,)),
        "llama_decode": (i32, (p, _Batch)),
        "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (p, i32)),
        "llama_tokenize": (i32, (p, ctypes.c_char_p, i32, ctypes.POINTER(i32), i32, b, b)),
        "llama_detokenize": (i32, (p, ctypes.POINTER(i32), i32, ctypes.c_char_p, i32, b, b)),
    }
    for name, (restype, argtypes) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    lib.llama_log_set(_log, None)
    lib.llama_backend_init()
    return lib


def _context_params(lib: ctypes.CDLL, n_ctx: int, flash_attention: bool, kv_type: str) -> _Params:
    params: _Params = lib.llama_context_default_params()
    words = params.words()
    # n_ctx, n_batch, n_ubatch, n_seq_max; threads; rope, pooling, attention and flash attention "auto"; F16 cache.
    known = (words[:4], words[7:9], words[10:14], words[26:28])
    if [w.tolist() for w in known] != [[512, 2048, 512, 1], [4, 4], [-1] * 4, [1, 1]]:
        pytest.skip("this xllamacpp release lays out llama_context_params in another way")
    words[0:3] = n_ctx
    words[13] = int(flash_attention)
    words[26:28] = {"f32": 0, "f16": 1, "q8_0": 8}[kv_type]
    return params


class Model:
    """A GGUF file loaded by llama.cpp on the CPU, with a context of `n_ctx` tokens. Raises ValueError if it refuses.

    One thread by default: the models of the tests are small, and waiting threads spin on a busy machine.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_ctx: int = 512,
        n_threads: int = 1,
        *,
        flash_attention: bool = False,
        kv_type: str = "f16",
    ) -> None:
        self._lib, self._model, self._context = library(), None, None
        _log_lines.clear()
        self._model = self._lib.llama_model_load_from_file(os.fsencode(path), self._lib.llama_model_default_params())
        if not self._model:
            raise ValueError(f"llama.cpp does not load {path}: {''.join(_log_lines)[-2000:]}")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self.bos: int = self._lib.llama_vocab_bos(self._vocab)
        self.eos: int = self._lib.llama_vocab_eos(self._vocab)
        self.n_ctx = n_ctx
        params = _context_params(self._lib, n_ctx, flash_attention, kv_type)
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise ValueError(f"llama.cpp makes no context for {path}: {''.join(_log_lines)[-2000:]}")
        self._lib.llama_set_n_threads(self._context, n_threads, n_threads)

    def close(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def metadata(self, key: str) -> str | None:
        """The value of a metadata key as llama.cpp prints it, or None."""
        buffer = ctypes.create_string_buffer(1 << 20)
        length = self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode()

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        n = self._lib.llama_tokenize(self._vocab, data, len(data), ids, len(ids), add_special, parse_special)
        assert n >= 0, f"llama_tokenize needs {-n} places"
        return list(ids[:n])

    def detokenize(self, ids: Sequence[int], unparse_special: bool = True) -> str:
        array, buffer = (ctypes.c_int32 * len(ids))(*ids), ctypes.create_string_buffer(64 * len(ids) + 64)
        n = self._lib.llama_detokenize(self._vocab, array, len(ids), buffer, len(buffer), False, unparse_special)
        assert n >= 0, f"llama_detokenize needs {-n} bytes"
        return buffer.raw[:n].decode("utf-8", "replace")

    def reset(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._position = 0

    _position = 0

    def eval(self, tokens: Sequence[int]) -> np.ndarray:
        """Append `tokens` to the context; the logits of each of them, float32 [T, V]."""
        count = len(tokens)
        assert 0 < count <= self.n_ctx - self._position, f"{count} tokens do not fit n_ctx={self.n_ctx}"
        batch = self._lib.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, self._position + i, 1
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
            status = self._lib.llama_decode(self._context, batch)
            assert status == 0, f"llama_decode gave {status}: {''.join(_log_lines)[-500:]}"
            self._position += count
            rows = [self._lib.llama_get_logits_ith(self._context, i) for i in range(count)]
            return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows]).copy()
        finally:
            self._lib.llama_batch_free(batch)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits of every position of `tokens` in a fresh context, float32 [T, V]."""
        self.reset()
        return self.eval(tokens)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` most likely tokens after `tokens`, one at a time (as generation does)."""
        row, out = self.logits(tokens)[-1], []
        for _ in range(count):
            out.append(int(row.argmax()))
            row = self.eval(out[-1:])[-1]
        return out
