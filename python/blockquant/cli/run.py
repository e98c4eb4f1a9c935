"""`blockquant run`: text from a model, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockquant.errors import BlockquantError

if TYPE_CHECKING:
    from blockquant.transformer import Generation


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    model: Annotated[Path, typer.Argument(help="GGUF file.", show_default=False)],
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; read from standard input when absent.", show_default=False)
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer with the file's chat template; without a prompt, hold a conversation."),
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Stop after this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability; 1 keeps all.")] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Keep tokens at least this likely against the best; 0 keeps all.")
    ] = 0.05,
    typical_p: Annotated[
        float, typer.Option(help="Keep the most typical tokens up to this probability; 1 keeps all.")
    ] = 1.0,
    repeat_penalty: Annotated[float, typer.Option(help="Divide the logits of recent tokens by this.")] = 1.0,
    frequency_penalty: Annotated[float, typer.Option(help="Subtract this for each time a token was recent.")] = 0.0,
    presence_penalty: Annotated[float, typer.Option(help="Subtract this for tokens that were recent.")] = 0.0,
    repeat_last_n: Annotated[int, typer.Option(help="How many tokens are recent; -1: all.")] = 64,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(help="TOKEN=NUMBER, added to the logit of a token id (repeatable).", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End at this string (repeatable).", show_default=False)] = None,
    ctx: Annotated[
        int | None, typer.Option(help="Tokens of context; what the model was trained for.", show_default=False)
    ] = None,
    context_shift: Annotated[
        bool, typer.Option("--context-shift", help="When the context is full, forget its older half and go on.")
    ] = False,
    cache_type: Annotated[
        str | None,
        typer.Option(help="Keep keys and values as f16, f32, or q8_0 (half the memory of f16).", show_default=False),
    ] = None,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            help="Start from this file where it fits the prompt, and leave the text in it. (LongRoPE models, such as "
            "Phi-4-mini, start anew when the text first exceeds the context before the extension.)",
            show_default=False,
        ),
    ] = None,
    pack: Annotated[
        bool,
        typer.Option(
            "--pack",
            help="Lay weights out for this CPU where text comes faster so (below 4 bits), for as much memory again.",
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads; all CPUs.", show_default=False)] = None,
) -> None:
    """Continue a prompt, or answer it with --chat.

    Text goes to standard output, speed to standard error.

    Example: `blockquant run tales.gguf "Once upon a time" -n 200 -t 0.8`
    """
    from blockquant.transformer import Model
    from blockquant.transformer.prompt_cache import OtherRotationError

    if system is not None and not chat:
        raise BlockquantError("--system needs --chat")
    if sys.stdout is None:
        raise BlockquantError("standard output is closed, so there is nowhere to write the text")
    if prompt_cache is not None and not prompt_cache.absolute().parent.is_dir():
        raise BlockquantError(f"--prompt-cache {prompt_cache}: its folder does not exist; make it first")
    talk = chat and prompt is None and sys.stdin is not None and sys.stdin.isatty()
    if prompt is None and not talk:
        if sys.stdin is None or sys.stdin.isatty():
            raise BlockquantError("there is no prompt: give it after the file, or pipe it to standard input")
        prompt = sys.stdin.read()
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repeat_penalty": repeat_penalty,
        "repeat_last_n": repeat_last_n,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "logit_bias": dict(map(_bias, logit_bias or ())),
        "seed": seed,
        "stop": stop or (),
    }
    with Model.open(model, threads=threads, n_ctx=ctx, cache_type=cache_type, pack=pack) as opened:
        if opened.n_ctx > opened.config.context_length:
            known = opened.config.context_length
            _tell(f"the model was trained for {known} tokens of context: beyond, its text may fall apart")
        if talk:
            from blockquant.cli.conversation import Conversation, converse

            if prompt_cache is not None:
                raise BlockquantError("--prompt-cache is for single prompts, not for conversations")
            converse(Conversation(opened, system, options), _show, _print_speed)
            return
        assert prompt is not None
        options["context_shift"] = context_shift
        if chat:
            messages = [{"role": "system", "content": system}] if system is not None else []
            tokens = opened.chat_tokens([*messages, {"role": "user", "content": prompt}])
        else:
            tokens = opened.prompt_tokens(prompt)
        if prompt_cache is not None:
            session = options["session"] = opened.session_for(len(tokens) + max_tokens)
            if prompt_cache.exists():
                try:
                    session.load(prompt_cache)
                except OtherRotationError as error:
                    _tell(f"{error}: the prompt is evaluated anew")
        text = opened.generate(tokens, **options)
        if not chat and sys.stdout.isatty():
            sys.stdout.write(prompt)
        try:
            _show(text)
        finally:
            _print_speed(text)
            if prompt_cache is not None:
                session.save(prompt_cache)


def _tell(line: str) -> None:
    """To standard error, where it is open; print() would take standard output instead."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def _show(pieces: Iterable[str]) -> None:
    """Write text as it comes."""
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def _bias(text: str) -> tuple[int, float]:
    token, _, number = text.partition("=")
    try:
        return int(token), float(number)
    except ValueError:
        raise BlockquantError(f"--logit-bias {text!r}: expected TOKEN=NUMBER, such as 42=-1.5 or 42=-inf") from None


def _print_speed(text: Generation) -> None:
    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f} tokens/s" if seconds > 0 else "-"

    # The first generated token comes out of the prompt's pass, so it is not counted in the speed.
    new = text.prompt_tokens - text.known_tokens
    known = f" ({text.known_tokens} known)" if text.known_tokens else ""
    _tell(
        f"prompt: {text.prompt_tokens} tokens{known}, {rate(new, text.prompt_seconds)}; "
        f"generated: {len(text.tokens)} tokens, {rate(max(0, len(text.tokens) - 1), text.generation_seconds)}"
    )
