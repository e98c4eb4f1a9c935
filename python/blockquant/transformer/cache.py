"""Keys and values of the positions seen so far, per layer, in the blocked layout of the attention kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant.errors import BlockquantError
from blockquant.transformer.config import Config

Array = npt.NDArray[Any]


class KVCache:
    """Grows as positions come, up to n_ctx. float16, or float32 for models whose weights are float32."""

    def __init__(self, config: Config, n_ctx: int, dtype: npt.DTypeLike) -> None:
        self.n_ctx = n_ctx
        self.position = 0  # positions stored, and the position of the next token
        self.scratch: dict[int, Any] = {}  # the decoder's buffers, by number of rows
        self._config, self._dtype = config, np.dtype(dtype)
        self.layers: list[tuple[Array, Array]] = [self._allocate(0) for _ in range(config.n_layers)]

    def _allocate(self, blocks: int) -> tuple[Array, Array]:
        heads, dim, block = self._config.n_kv_heads, self._config.head_dim, _core.cache_block
        keys = np.empty((blocks, heads, dim, block), self._dtype)
        return keys, np.empty((blocks, heads, block, dim), self._dtype)

    def store(self, layer: int, k: Array, v: Array) -> None:
        """Put the keys and values [rows, kv_heads, dim] of the tokens from `position` on into a layer."""
        _core.store_kv(k, v, *self.layers[layer], self.position)

    def attend(self, layer: int, q: Array, out: Array, scale: float, window: int, threads: int) -> None:
        """Causal attention of the queries q [rows, heads, dim] of the tokens from `position` on, into `out` like q.

        The keys and values of those tokens must have been stored. window: how many positions a query sees, its own
        included, or 0 for all.
        """
        _core.attention(q, *self.layers[layer], out, self.position, scale, window, threads)

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def reserve(self, count: int) -> None:
        """Make room for `count` more positions; ValueError when the context is full."""
        needed = self.position + count
        if needed > self.n_ctx:
            raise BlockquantError(
                f"the context of {self.n_ctx} tokens is full: {self.position} are used and {count} more were given; "
                f"open the model with a larger n_ctx or start a new session"
            )
        have = self.layers[0][0].shape[0]
        wanted = -(-needed // _core.cache_block)
        if wanted <= have:
            return
        limit = -(-self.n_ctx // _core.cache_block)
        blocks = min(max(wanted, 2 * have), limit)
        for i, old in enumerate(self.layers):
            new = self._allocate(blocks)
            for source, target in zip(old, new, strict=True):
                target[:have] = source
            self.layers[i] = new
