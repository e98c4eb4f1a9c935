"""`blockquant run`: text from a model, as it comes."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from blockquant.errors import BlockquantError


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    model: Annotated[Path, typer.Argument(help="GGUF file.", show_default=False)],
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; read from standard input when absent.", show_default=False)
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Answer the prompt with the file's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Stop after this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability; 1 keeps all.")] = 0.95,
    min_p: Annotated[
        float, typer.Option(help="Keep tokens at least this likely against the best; 0 keeps all.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End at this string (repeatable).", show_default=False)] = None,
    ctx: Annotated[
        int | None, typer.Option(help="Tokens of context; what the model was trained for.", show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all CPUs.", show_default=False)] = None,
) -> None:
    """Continue a prompt, or answer it with --chat.

    Text goes to standard output, speed to standard error.

    Example: `blockquant run tales.gguf "Once upon a time" -n 200 -t 0.8`
    """
    from blockquant.transformer import Model

    if system is not None and not chat:
        raise BlockquantError("--system needs --chat")
    if prompt is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise BlockquantError("there is no prompt: give it after the file, or pipe it to standard input")
        prompt = sys.stdin.read()
    with Model.open(model, threads=threads, n_ctx=ctx) as opened:
        if chat:
            messages = [{"role": "system", "content": system}] if system is not None else []
            start = functools.partial(opened.chat, [*messages, {"role": "user", "content": prompt}])
        else:
            start = functools.partial(opened.generate, prompt)
        text = start(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop or (),
        )
        if not chat and sys.stdout.isatty():
            sys.stdout.write(prompt)
        try:
            for piece in text:
                sys.stdout.write(piece)
                sys.stdout.flush()
        finally:
            sys.stdout.write("\n")
            sys.stdout.flush()
            _print_speed(text.prompt_tokens, text.prompt_seconds, len(text.tokens), text.generation_seconds)


def _print_speed(prompt: int, prompt_seconds: float, generated: int, generation_seconds: float) -> None:
    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f} tokens/s" if seconds > 0 else "-"

    # The first generated token comes out of the prompt's pass, so it is not counted in the speed.
    print(
        f"prompt: {prompt} tokens, {rate(prompt, prompt_seconds)}; "
        f"generated: {generated} tokens, {rate(max(0, generated - 1), generation_seconds)}",
        file=sys.stderr,
    )
