"""The chat template that comes with a file, rendered in a sandbox: templates are code from strangers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from blockquant.errors import BlockquantError, MissingExtraError
from blockquant.transformer.tokenizer import Tokenizer


def render_chat(template: str | None, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> str:
    """The prompt text of a conversation, up to where the assistant's answer begins.

    messages: dicts with "role" ("system", "user", "assistant") and "content". Raises ValueError when the file has no
    template, when a message lacks a field, or when the template refuses the conversation.
    """
    if not template:
        raise BlockquantError(
            "the file has no chat template (tokenizer.chat_template); generate from plain text instead"
        )
    if not messages:
        raise BlockquantError("there are no messages; give at least one {'role': 'user', 'content': ...}")
    for i, message in enumerate(messages):
        missing = [field for field in ("role", "content") if field not in message]
        if missing:
            raise BlockquantError(f"message {i} lacks {missing[0]!r}")
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise MissingExtraError("jinja2", "run") from None

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def special(token: int | None) -> str:
        return "" if token is None else tokenizer.tokens[token]

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            bos_token=special(tokenizer.bos_id),
            eos_token=special(tokenizer.eos_id),
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as e:
        raise BlockquantError(f"the file's chat template fails on this conversation: {e}") from e
