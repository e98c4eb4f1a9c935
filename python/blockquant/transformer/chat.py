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
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "run") from None

    def special(token: int | None) -> str:
        return "" if token is None else tokenizer.tokens[token]

    try:
        text: str = (
            _environment()
            .from_string(template)
            .render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                bos_token=special(tokenizer.bos_id),
                eos_token=special(tokenizer.eos_id),
            )
        )
        return text
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as e:
        raise BlockquantError(f"the file's chat template fails on this conversation: {e}") from e


def _environment() -> Any:
    """A sandbox with what templates are written for: transformers' filters, functions and tags."""
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        chosen = {key: options[key] for key in ("separators", "sort_keys") if key in options}
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **chosen)

    class Generation(jinja2.ext.Extension):
        """{% generation %}, which marks the assistant's words for training: only its body matters here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Namespace(jinja2.utils.Namespace):
        """Attributes with an underscore in front are Python's own, and stay so."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.TemplateError(f"a namespace cannot hold {name!r}")
            super().__setitem__(name, value)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "namespace": Namespace,
    }
    return environment
