"""Chat templates of strangers: what they raise is one line, and they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockquant import gguf
from blockquant.errors import BlockquantError
from blockquant.transformer.chat import render_chat
from blockquant.transformer.tokenizer import Tokenizer

LOOP = "{% for i in range(99999) %}"
GROW = "{% set n = namespace(a='abcdefgh', i=3) %}{% for i in range(60) %}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with gguf.open(Path(__file__).parent / "data" / "vocab" / "ggml-vocab-gpt-2.gguf") as file:
        return Tokenizer(file.metadata)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for a in [1] %}" * 25 + "{% endfor %}" * 25, "nested"),
        (LOOP * 2 + "{% endfor %}{% endfor %}", "more than 2000000 steps"),
        (LOOP + LOOP.replace(" %", " if i < 0 %") + "{% endfor %}{% endfor %}", "more than 2000000 steps"),
        (LOOP + "{{ range(99999) | list | length }}{% endfor %}", "more than 2000000 steps"),
        ("{% set m = messages * 9 %}" + "{% for a in m %}" * 9 + "{% endfor %}" * 9, "more than 2000000 steps"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "more than 2000000 steps",
        ),
        (LOOP + "x" * 999 + "{% endfor %}", "writes more than 67108864 characters"),
        (GROW + "{% set n.a = n.a ~ n.a %}{% endfor %}", "a text of 134217728 characters"),
        (GROW + "{% set n.a = n.a + n.a %}{% endfor %}", r"result of its '\+' is too large"),
        (GROW + "{% set n.i = n.i * n.i %}{% endfor %}", r"result of its '\*' is too large"),
        ("{{ 'a' * 10**11 }}", r"result of its '\*' is too large"),
        ("{{ 9 ** 99999999 }}", r"result of its '\*\*' is too large"),
        (5, "tokenizer.chat_template holds int; expected text"),
        (np.array([1, 2]), "tokenizer.chat_template holds ndarray; expected text"),
    ],
)
def test_hostile_templates(tokenizer: Tokenizer, template: Any, message: str) -> None:
    with pytest.raises(BlockquantError, match=message) as caught:
        render_chat(template, [{"role": "user", "content": "x"}], tokenizer)
    assert "\n" not in str(caught.value)


def test_counting_changes_no_template(tokenizer: Tokenizer) -> None:
    template = (
        "{% for a in [1, 2, 3] if a > 1 %}{{ loop.index }}/{{ loop.length }}{{ a ~ 'x' ~ none }}{% else %}n{% endfor %}"
        "{% for a in [] %}{% else %}e{% endfor %}{{ 2 * 3 + 4.5 }}{{ [1] + [2] }}{{ 'ab' * 3 }}{{ 2 ** -1 }}"
        "{% for a in [[[]], []] recursive %}<{{ loop(a) }}>{% endfor %}{{ range(2, 5) | list }}{{ dict(self=2) }}"
        # As templates look back from each of thousands of messages.
        "{% for i in range(5000) %}{% for j in range(i, -1, -1) %}{% break %}{% endfor %}{% endfor %}"
    )
    wanted = "1/22xNone2/23xNonee10.5[1, 2]ababab0.5<<>><>[2, 3, 4]{'self': 2}"
    assert render_chat(template, [{"role": "user", "content": "x"}], tokenizer) == wanted
