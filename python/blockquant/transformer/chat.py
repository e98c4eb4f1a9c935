"""The chat template that comes with a file, rendered in a sandbox: templates are code from strangers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from blockquant.errors import BlockquantError, MissingExtraError
from blockquant.transformer.tokenizer import Tokenizer

# Far more than any conversation that fits a context needs.
MOST_STEPS = 2_000_000  # turns of loops: about a second
STEPS_OF_A_CALL = 10  # a macro takes that much longer
MOST_CHARACTERS = 1 << 26
MOST_BITS = 10_000  # of a number


def render_chat(template: str | None, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> str:
    """The prompt text of a conversation, up to where the assistant's answer begins.

    messages: dicts with "role" ("system", "user", "assistant") and "content". Raises ValueError when the file has no
    template, when a message lacks a field, or when the template refuses the conversation, fails or does not end.
    """
    if template is not None and not isinstance(template, str):
        raise BlockquantError(f"tokenizer.chat_template holds {type(template).__name__}; expected text")
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
        import jinja2  # noqa: F401
    except ImportError:
        raise MissingExtraError("jinja2", "run") from None

    def special(token: int | None) -> str:
        return "" if token is None else tokenizer.tokens[token]

    variables = {
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "bos_token": special(tokenizer.bos_id),
        "eos_token": special(tokenizer.eos_id),
    }
    try:
        return _render(template, variables)
    except Exception as e:  # a template can raise whatever Python can
        reason = " ".join(str(e).split()) or type(e).__name__
        raise BlockquantError(f"the file's chat template fails on this conversation: {reason}") from e


def _render(template: str, variables: Mapping[str, Any]) -> str:
    from jinja2 import nodes

    environment = _environment()
    tree = environment.parse(template)
    # Each turn of a loop counts, and so does each item that a loop leaves out; what `~` joins is measured.
    for loop in list(tree.find_all(nodes.For)):
        turn = nodes.EnvironmentAttribute("turn", lineno=loop.lineno)
        loop.body.insert(0, nodes.ExprStmt(turn, lineno=loop.lineno))
        if loop.test is not None:
            loop.test = nodes.And(turn, loop.test, lineno=loop.lineno)
    for join in list(tree.find_all(nodes.Concat)):
        measured = nodes.EnvironmentAttribute("measured")
        join.nodes = [nodes.Call(measured, [part], [], None, None, lineno=join.lineno) for part in join.nodes]
    pieces: list[str] = []
    size = 0
    for piece in environment.from_string(tree).generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_CHARACTERS:
            raise BlockquantError(f"it writes more than {MOST_CHARACTERS} characters")
    return "".join(pieces)


def _environment() -> Any:
    """A sandbox with what templates are written for: transformers' filters, functions and tags.

    Turns of loops, calls, and what `+`, `~`, `*` and `**` make are limited. What a single filter or method takes, such
    as a padding to 10^10 characters, is not.
    """
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

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

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**"})
        steps = 0

        def count(self, steps: int) -> None:
            self.steps += steps
            if self.steps > MOST_STEPS:
                raise BlockquantError(f"it takes more than {MOST_STEPS} steps")

        @property
        def turn(self) -> bool:
            """Looked at in each turn of a loop: an attribute takes less time than a call."""
            self.count(1)
            return True

        def range(self, *bounds: int) -> range:
            found = safe_range(*bounds)
            # Turns of a loop over it count when they are taken; made into a list it takes a fraction of that.
            self.count(len(found) // 50)
            return found

        def measured(self, value: Any) -> Any:
            if isinstance(value, str) and len(value) > MOST_CHARACTERS:
                raise BlockquantError(f"it makes a text of {len(value)} characters")
            return value

        def call(self, /, *arguments: Any, **options: Any) -> Any:
            self.count(STEPS_OF_A_CALL)
            return super().call(*arguments, **options)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _is_too_large(operator, left, right):
                raise BlockquantError(f"the result of its {operator!r} is too large")
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": refuse,
        "range": environment.range,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "namespace": Namespace,
    }
    return environment


def _is_too_large(operator: str, left: Any, right: Any) -> bool:
    """Whether a sum, product or power of texts, lists or whole numbers would take more than is reasonable."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return bits > MOST_BITS
    sizes = [len(side) if isinstance(side, Sized) else side for side in (left, right)]
    if not all(isinstance(size, int) for size in sizes):
        return False
    return (sizes[0] + sizes[1] if operator == "+" else sizes[0] * sizes[1]) > MOST_CHARACTERS
