"""Options that several commands take, from text to what the functions want."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from blockquant.errors import BlockquantError


def overrides_of(given: Iterable[str]) -> list[tuple[str, str]]:
    """(regular expression, format) of each REGEX=FORMAT of --tensor-type.

    llama-quantize lowers the case of these; here capitals match small letters, so that classes such as \\S stay.
    """
    pairs = []
    for text in given:
        # The format comes after the last '=': a regular expression may have one too.
        pattern, separator, format = text.rpartition("=")
        if not separator or not pattern or not format:
            raise typer.BadParameter(
                f"{text!r} is not REGEX=FORMAT, such as 'ffn_down=Q6_K'", param_hint="--tensor-type"
            )
        pairs.append((f"(?i:{pattern})" if pattern != pattern.lower() else pattern, format))
    return pairs


def size_of(option: str, text: str) -> int:
    """Bytes of a size such as 5G."""
    from blockquant.gguf._shards import parse_size

    try:
        return parse_size(text)
    except BlockquantError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
