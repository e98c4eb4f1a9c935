"""llama.cpp's loop through its C functions, for comparisons on this machine.

Needs llama-cpp-python built from source for this CPU (see third_party/README.md). `Llama.eval` of that package would
lose a third of the speed of generation; these calls lose nothing.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from typing import Any


def library() -> Any:
    """The C interface, silenced; ImportError where it is not installed."""
    from llama_cpp import llama_cpp as api

    if not hasattr(api, "_quiet"):
        api._quiet = api.llama_log_callback(lambda _level, _text, _user: None)
        api.llama_log_set(api._quiet, c.c_void_p(0))
        api.llama_backend_init()
    return api


class LlamaModel:
    """A model and a context of n_ctx tokens with a float16 cache and otherwise default settings."""

    def __init__(self, path: str, n_ctx: int, threads: int) -> None:
        self._api = api = library()
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self._model:
            raise OSError(f"llama.cpp does not load {path}")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, params)
        self._memory = api.llama_get_memory(self._context)

    def eval(self, tokens: Sequence[int]) -> None:
        """Append tokens; the logits of the last one are then there."""
        ids = (c.c_int32 * len(tokens))(*tokens)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError("llama_decode failed")
        self._api.llama_get_logits_ith(self._context, -1)

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on."""
        self._api.llama_memory_seq_rm(self._memory, 0, position, -1)

    def close(self) -> None:
        """Free everything."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)
