"""The conversation of `run --chat`: a person writes, the model answers, both see what was said before."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

from blockquant.errors import BlockquantError
from blockquant.transformer import Model

HELP = "/reset forgets the conversation, /undo the last answer and its question, /exit leaves; Ctrl-C stops an answer"

Message = dict[str, str]
Show = Callable[[Any], None]


class Conversation:
    """Messages, and a session that holds their tokens."""

    def __init__(self, model: Model, system: str | None, options: dict[str, Any]) -> None:
        self._model, self._options = model, options
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[Message] = []
        self._session = model.session()

    def answer(self, text: str, show: Show) -> None:
        """Say something; `show` gets the answer, an iterator of its pieces. What was shown of an interrupted answer
        stays part of the conversation."""
        turns, tokens = self._fit([*self._turns, {"role": "user", "content": text}])
        options = {"context_shift": True, "session": self._session, **self._options}
        generation = self._model.generate(tokens, **options)
        if len(turns) <= len(self._turns):
            print("(the context is full: the oldest questions and answers are forgotten)", file=sys.stderr)
        self._turns = turns
        said: list[str] = []

        def pieces() -> Any:
            for piece in generation:
                said.append(piece)
                yield piece

        try:
            show(pieces())
        finally:
            self._turns.append({"role": "assistant", "content": "".join(said)})
            self.generation = generation

    def _fit(self, turns: list[Message]) -> tuple[list[Message], list[int]]:
        """The turns and their tokens, without the oldest where they would leave no room for an answer."""
        room = min(self._options["max_tokens"], self._session.n_ctx // 4)
        while True:
            tokens = self._model.chat_tokens([*self._system, *turns])
            if len(tokens) + room <= self._session.n_ctx or len(turns) < 3:
                return turns, tokens
            turns = turns[2:]

    def undo(self) -> None:
        del self._turns[-2:]

    def reset(self) -> None:
        self._turns.clear()


def converse(conversation: Conversation, show: Show, report: Callable[[Any], None]) -> None:
    """Read lines until the end of input or /exit."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # editing and history for input
    print(HELP, file=sys.stderr)
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if not line:
            continue
        if line.startswith("/"):
            if line in ("/exit", "/quit", "/bye"):
                return
            if line == "/reset":
                conversation.reset()
            elif line == "/undo":
                conversation.undo()
            else:
                print(HELP, file=sys.stderr)
            continue
        try:
            conversation.answer(line, show)
            report(conversation.generation)
        except KeyboardInterrupt:
            print("(stopped)", file=sys.stderr)
        except BlockquantError as error:
            print(f"blockquant: {error}", file=sys.stderr)
