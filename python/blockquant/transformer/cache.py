"""Keys and values of the positions seen so far, per layer, in the blocked layout of the attention kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blockquant import _core
from blockquant.errors import BlockquantError
from blockquant.transformer.config import Config

Array = npt.NDArray[Any]

CACHE_TYPES = ("f32", "f16", "q8_0")


class KVCache:
    """Grows as positions come, up to n_ctx.

    `kind` is "f16", "f32" (for models whose weights are float32), or "q8_0": int8 with a float16 scale for 32 elements
    of a head, 53 % of the memory of f16. Halves saturate.
    """

    def __init__(self, config: Config, n_ctx: int, kind: str) -> None:
        if kind not in CACHE_TYPES:
            raise BlockquantError(f"cache type {kind!r} is not known; known: {', '.join(CACHE_TYPES)}")
        self.n_ctx, self.kind = n_ctx, kind
        self.position = 0  # positions stored, and the position of the next token
        self.scratch: dict[int, Any] = {}  # the decoder's buffers, by number of rows
        self.rotations: list[Any] = []  # the decoder's, in a context of this size
        self._config = config
        self.layers: list[tuple[Array, Array]] = [self._allocate(0) for _ in range(config.n_layers)]

    def _allocate(self, blocks: int) -> tuple[Array, Array]:
        heads, dim, block = self._config.n_kv_heads, self._config.head_dim, _core.cache_block
        if self.kind == "q8_0":  # numbers, then scales, of each head
            shape = (blocks, heads, _core.q8_0_cache_bytes(dim))
            return np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        dtype = np.float32 if self.kind == "f32" else np.float16
        return np.empty((blocks, heads, dim, block), dtype), np.empty((blocks, heads, block, dim), dtype)

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
        """Make room for `count` more positions; ValueError when the context is full.

        Memory that runs out, or an interrupt, leaves a cache that holds what it held and can grow later.
        """
        needed = self.position + count
        if needed > self.n_ctx:
            raise BlockquantError(
                f"the context of {self.n_ctx} tokens is full: {self.position} are used and {count} more were given; "
                f"open the model with a larger n_ctx or start a new session"
            )
        wanted = -(-needed // _core.cache_block)
        limit = -(-self.n_ctx // _core.cache_block)
        # One layer after the other, which takes less memory than all anew beside all that there were. After an
        # interrupt some are larger than the others.
        for i, old in enumerate(self.layers):
            have = old[0].shape[0]
            if wanted <= have:
                continue
            new = self._allocate(min(max(wanted, 2 * have), limit))
            for source, target in zip(old, new, strict=True):
                target[:have] = source
            self.layers[i] = new

    def stored(self, layer: int) -> tuple[Array, Array]:
        """The blocks that hold positions, keys and values."""
        keys, values = self.layers[layer]
        used = -(-self.position // _core.cache_block)
        return keys[:used], values[:used]

    def copies(self, layers: list[tuple[Array, Array]], position: int) -> list[tuple[Array, Array]]:
        """Copies of the blocks of a cache of the same kind that held so many positions, to become `layers`.

        ValueError when they do not fit.
        """
        used = -(-position // _core.cache_block)
        for keys, values in layers:
            for array, mine in zip((keys, values), self.layers[0], strict=True):
                wanted = (used, *mine.shape[1:])
                if array.dtype != mine.dtype or array.shape != wanted:
                    raise BlockquantError(
                        f"blocks {array.dtype} {array.shape} do not fit a cache of {mine.dtype} {wanted}"
                    )
        if len(layers) != len(self.layers):
            raise BlockquantError(f"{len(layers)} layers do not fit a cache of {len(self.layers)}")
        return [(keys.copy(), values.copy()) for keys, values in layers]
