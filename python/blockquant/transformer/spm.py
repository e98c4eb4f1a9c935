"""SentencePiece-style merging as llama.cpp does it: the neighbours that form the best-scored token merge first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

SPACE = "\u2581"  # stands for a space inside the vocabulary


class SpmMerger:
    """Splits text (spaces already written as SPACE) into token ids.

    `ids` maps token text to id and `scores` holds each id's score. Characters that no token covers become the bytes
    of their UTF-8 form through `byte_ids` (256 ids, -1 where the vocabulary has none), or `unknown`.
    """

    _CACHE_LIMIT = 1 << 16

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], byte_ids: Sequence[int], unknown: int) -> None:
        self._ids, self._scores, self._byte_ids, self._unknown = ids, scores, byte_ids, unknown
        # Two characters that stand side by side in no token can never merge: text is cut there, and the pieces are
        # short words that repeat. This changes nothing in the result.
        self._pairs = {pair for token in ids for pair in pairwise(token)}
        self._cache: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        out: list[int] = []
        start, pairs = 0, self._pairs
        cuts = [i for i, pair in enumerate(pairwise(text), 1) if pair not in pairs]
        for end in (*cuts, len(text)):
            word, start = text[start:end], end
            found = self._cache.get(word)
            if found is None:
                found = tuple(self._merge(word))
                if len(self._cache) < self._CACHE_LIMIT:
                    self._cache[word] = found
            out.extend(found)
        return out

    def _merge(self, text: str) -> list[int]:
        # symbols[i] is the text that starts at character i, "" once it was merged into an earlier one.
        symbols = list(text)
        before, after = list(range(-1, len(text) - 1)), list(range(1, len(text) + 1))
        queue: list[tuple[float, int, int, int]] = []  # (-score, left, right, length): best score, then leftmost

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < len(text):
                merged = symbols[left] + symbols[right]
                token = self._ids.get(merged)
                if token is not None:
                    heapq.heappush(queue, (-self._scores[token], left, right, len(merged)))

        for i in range(len(text) - 1):
            offer(i, i + 1)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of the two has merged with something else since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[right] < len(text):
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])

        out: list[int] = []
        for symbol in filter(None, symbols):
            token = self._ids.get(symbol)
            if token is not None:
                out.append(token)
            else:
                raw = [self._byte_ids[b] for b in symbol.encode()]
                out.extend(raw if min(raw) >= 0 else [self._unknown])
        return out
