"""Generation: an iterator of text that knows how fast it went and why it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from blockquant.errors import BlockquantError
from blockquant.transformer.sampling import Sampler, Sampling
from blockquant.transformer.session import Session
from blockquant.transformer.tokenizer import TextStream, Tokenizer


class Generation(Iterator[str]):
    """Yields text as tokens come: whole characters only, never empty, and nothing of a stop string.

    Attributes, up to date at every step: `tokens` (ids generated so far), `prompt_tokens`, `known_tokens` (those of the
    prompt that the session held already), `prompt_seconds`, `generation_seconds`, `stop_reason` (None while running,
    then "end" for an end-of-text token, "stop" for a stop string, "length" for max_tokens).

    A session that something else used meanwhile is an error (ValueError), as what follows would continue another text.

    When the context is full, it is an error, or with `context_shift` the older half of the tokens is dropped. The first
    `keep` tokens stay. What stays is evaluated anew: moving the cached keys would be faster, but they were computed
    from what has just been dropped, and the text would depend on it.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        context_shift: bool = False,
        keep: int = 0,
    ) -> None:
        self.tokens: list[int] = []
        self.prompt_tokens, self.known_tokens = len(prompt), 0
        self.prompt_seconds = 0.0
        self.generation_seconds = 0.0
        self.stop_reason: str | None = None
        self._session, self._tokenizer, self._prompt = session, tokenizer, prompt
        self._max_tokens, self._sampler, self._stop = max_tokens, Sampler(sampling), tuple(stop)
        self._context_shift, self._keep = context_shift, keep
        self._text = self._run()

    def __next__(self) -> str:
        return next(self._text)

    def text(self) -> str:
        """All the text that is left."""
        return "".join(self)

    def _ids(self) -> Iterator[int]:
        start = time.perf_counter()
        self.known_tokens = self._session.shared(self._prompt)
        logits = self._session.move_to(self._prompt)
        revision = self._session.revision
        self._sampler.accept(self._prompt)
        self.prompt_seconds = time.perf_counter() - start
        while True:
            start = time.perf_counter()
            token = self._sampler(logits)
            if token in self._tokenizer.end_ids:
                self.stop_reason = "end"
                return
            self.tokens.append(token)
            done = len(self.tokens) >= self._max_tokens
            self.generation_seconds += time.perf_counter() - start
            yield token
            if done:
                self.stop_reason = "length"
                return
            if self._session.revision != revision:
                raise BlockquantError(
                    "the session was used for something else while this text was generated: finish one text before "
                    "the next, or give each a session of its own"
                )
            start = time.perf_counter()
            if self._session.position >= self._session.n_ctx:
                self._make_room()
            logits = self._session.eval([token])
            revision = self._session.revision
            self.generation_seconds += time.perf_counter() - start

    def _make_room(self) -> None:
        session = self._session
        if not self._context_shift:
            raise BlockquantError(
                f"the context of {session.n_ctx} tokens is full after {len(self.tokens)} generated tokens; "
                f"open the model with a larger n_ctx, ask for fewer, or allow context_shift"
            )
        tokens = session.tokens
        keep = min(self._keep, len(tokens) // 2)
        kept = tokens[:keep] + tokens[keep + max(1, (len(tokens) - keep) // 2) :]
        if kept:
            session.move_to(kept)
        else:
            session.reset()

    def _run(self) -> Iterator[str]:
        stream, held = TextStream(self._tokenizer), ""
        for token in self._ids():
            held += stream.push(token)
            cut = min((at for at in (held.find(s) for s in self._stop) if at >= 0), default=-1)
            if cut >= 0:
                self.stop_reason = "stop"
                held = held[:cut]
                break
            ready = len(held) - _partial_stop(held, self._stop)
            if ready:
                yield held[:ready]
                held = held[ready:]
        if held:
            yield held


def _partial_stop(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop string could begin with."""
    longest = max(map(len, stop), default=1)
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(s.startswith(text[-length:]) for s in stop):
            return length
    return 0
