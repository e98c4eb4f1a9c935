"""A session: a KV cache that grows with the tokens it is given."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np

from blockquant.errors import BlockquantError
from blockquant.transformer import prompt_cache
from blockquant.transformer.cache import KVCache
from blockquant.transformer.decoder import PROMPT_CHUNK, Decoder
from blockquant.transformer.weights import FloatArray


def check_tokens(tokens: Sequence[SupportsIndex], n_vocab: int, n_ctx: int) -> list[int]:
    """The tokens as a list of int; ValueError for none, too many, or an id outside the vocabulary."""
    ids = [operator.index(token) for token in tokens]
    if not ids:
        raise BlockquantError("there are no tokens; give at least one (an empty prompt needs a BOS token)")
    if len(ids) > n_ctx:
        raise BlockquantError(
            f"{len(ids)} tokens do not fit the context of {n_ctx}; open the model with a larger n_ctx"
        )
    if not 0 <= min(ids) <= max(ids) < n_vocab:
        at = next(i for i, token in enumerate(ids) if not 0 <= token < n_vocab)
        raise BlockquantError(f"token {at} is {ids[at]}, outside the vocabulary of {n_vocab} tokens")
    return ids


class Session:
    """One sequence under way. Sessions of a model are independent of each other; `reset` starts anew."""

    def __init__(
        self, decoder: Decoder, n_ctx: int, cache_type: str | None = None, identity: Callable[[], str] | None = None
    ) -> None:
        self._decoder, self._identity = decoder, identity
        self._cache = KVCache(decoder.config, n_ctx, decoder.cache_type if cache_type is None else cache_type)
        self._tokens: list[int] = []  # may run ahead of the position after an interrupted evaluation
        self._revision = 0

    def belongs_to(self, decoder: Decoder) -> bool:
        """Whether it runs on these weights."""
        return self._decoder is decoder

    @property
    def position(self) -> int:
        """Tokens evaluated so far."""
        return self._cache.position

    @property
    def tokens(self) -> list[int]:
        """The tokens evaluated so far."""
        return self._tokens[: self.position]

    @property
    def revision(self) -> int:
        """Grows whenever tokens come or go, so that who uses a session sees whether somebody else did."""
        return self._revision

    @property
    def n_ctx(self) -> int:
        """The most tokens that the session can hold."""
        return self._cache.n_ctx

    def reset(self) -> None:
        """Forget everything; keeps the memory."""
        self.truncate(0)

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on; ValueError when there are not so many."""
        if not 0 <= position <= self.position:
            raise BlockquantError(f"cannot go to position {position} of a session of {self.position} tokens")
        self._cache.position = position
        self._revision += 1

    @property
    def cache_type(self) -> str:
        """What keys and values are kept as: "f16", "f32" or "q8_0"."""
        return self._cache.kind

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache as it is now; it grows."""
        return self._cache.nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokens and cache to a file, for `load`. The file appears whole or not at all."""
        prompt_cache.save(path, self._cache, self.tokens, *self._fingerprints())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Become what was saved.

        Raises ValueError, and changes nothing, when the file is malformed or was saved from another model or with
        another type of cache, or holds more tokens than fit, or, of a LongRoPE model, when the other session's n_ctx
        was on the other side of the original context; OSError when it cannot be read.
        """
        cache = self._cache
        tokens, layers = prompt_cache.load(path, cache, self._decoder.n_vocab, *self._fingerprints())
        self._tokens, cache.layers, cache.position = tokens, layers, len(tokens)
        self._revision += 1

    def _fingerprints(self) -> tuple[str, str]:
        """Of the model, and of how it rotates in a context of this size."""
        if self._identity is None:
            raise BlockquantError("this session was not made by a model: it cannot be saved or loaded")
        digest = hashlib.sha256()
        for rotation in self._decoder.rotations(self.n_ctx):
            digest.update(rotation.frequencies.tobytes())
        return self._identity(), digest.hexdigest()

    def eval(self, tokens: Sequence[SupportsIndex]) -> FloatArray:
        """Append tokens; the logits of the last one, float32 [V].

        Raises ValueError for no tokens, an unknown id, or a full context; the session is then unchanged.
        """
        ids = self._append(tokens)
        for chunk, is_last in _chunks(ids):
            logits = self._decoder.forward(chunk, self._cache, logits=int(is_last))
        return logits.reshape(-1)

    def move_to(self, tokens: Sequence[SupportsIndex]) -> FloatArray:
        """Make these the tokens of the session; the logits of the last one, float32 [V].

        What the session has in common with them at the beginning is not evaluated again. Raises ValueError as `eval`.
        """
        ids = check_tokens(tokens, self._decoder.n_vocab, self.n_ctx)
        common = self.shared(ids)
        self.truncate(common)
        return self.eval(ids[common:])

    def shared(self, tokens: Sequence[int]) -> int:
        """How many of these tokens `move_to` will not evaluate."""
        pairs = zip(self.tokens, tokens[:-1], strict=False)  # the last one always is, for its logits
        return next(
            (i for i, (have, wanted) in enumerate(pairs) if have != wanted), min(self.position, len(tokens) - 1)
        )

    def _append(self, tokens: Sequence[SupportsIndex]) -> list[int]:
        """Check them and make room."""
        ids = check_tokens(tokens, self._decoder.n_vocab, self.n_ctx)
        self._cache.reserve(len(ids))
        self._tokens[self.position :] = ids
        self._revision += 1
        return ids

    def eval_rows(self, tokens: Sequence[SupportsIndex], first: int = 0) -> Iterator[FloatArray]:
        """Append tokens; yields the logits of tokens `first` and later in pieces, float32 [rows, V]."""
        ids = self._append(tokens)
        done = 0
        for chunk, _ in _chunks(ids):
            done += len(chunk)
            wanted = min(len(chunk), max(0, done - first))
            if wanted:
                yield self._decoder.forward(chunk, self._cache, wanted)  # not held here: rows of a vocabulary are large
            else:
                self._decoder.forward(chunk, self._cache, 0)

    def __repr__(self) -> str:
        return f"Session({self.position} of {self.n_ctx} tokens)"


def _chunks(ids: list[int]) -> Iterator[tuple[list[int], bool]]:
    for start in range(0, len(ids), PROMPT_CHUNK):
        yield ids[start : start + PROMPT_CHUNK], start + PROMPT_CHUNK >= len(ids)


def all_logits(session: Session, tokens: Sequence[SupportsIndex], n_vocab: int) -> FloatArray:
    """The logits of every token, float32 [T, V]."""
    out = np.empty((len(tokens), n_vocab), np.float32)
    row = 0
    for piece in session.eval_rows(tokens):
        out[row : row + len(piece)] = piece
        row += len(piece)
    return out
