"""Generation: sampling filters, stop strings, whole characters, chat templates, and the run and eval commands."""

from __future__ import annotations

import io
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import pytest
from blockquant import Model, gguf
from blockquant.cli import app
from blockquant.transformer import Sampling
from blockquant.transformer.chat import render_chat
from blockquant.transformer.generation import Generation
from blockquant.transformer.perplexity import negative_log_likelihoods
from blockquant.transformer.sampling import Sampler
from blockquant.transformer.tokenizer import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(model_files.tales("Q8_0"))


# ---- sampling ----


def allowed(logits: np.ndarray[Any, Any], options: Sampling) -> set[int]:
    """The tokens that the filters leave, straight from their description."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if options.top_k:
        order = order[: options.top_k]
    weights = [math.exp(float(logits[i]) - float(logits[order[0]])) for i in order]
    total, reached, kept = sum(weights), 0.0, []
    for i, weight in zip(order, weights, strict=True):
        kept.append((i, weight))
        reached += weight / total
        if options.top_p < 1 and reached >= options.top_p:
            break
    return {i for i, weight in kept if weight >= options.min_p * weights[0]}


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.31, 0.62, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 0.9, 1.0]),
)
def test_sampling_draws_what_the_filters_leave(values: list[int], top_k: int, top_p: float, min_p: float) -> None:
    logits = np.array(values, np.float32) / 2
    options = Sampling(1.5, top_k, top_p, min_p, seed=3)
    sampler = Sampler(options)
    drawn = {sampler(logits) for _ in range(60)}
    assert drawn <= allowed(logits, options)
    if top_k == 1 or min_p == 1.0:
        assert all(logits[i] == logits.max() for i in drawn)


def test_sampling_frequencies_follow_the_temperature() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for temperature in (0.5, 1.0, 2.0):
        sampler = Sampler(Sampling(temperature, top_k=0, top_p=1.0, min_p=0.0, seed=1))
        counts = Counter(sampler(logits) for _ in range(6_000))
        wanted = np.exp(logits.astype(float) / temperature)
        wanted /= wanted.sum()
        for token, share in enumerate(wanted):
            assert counts[token] / 6_000 == pytest.approx(share, abs=0.025)


def test_greedy_ignores_the_filters() -> None:
    logits = np.array([0.0, 3.0, 2.9], np.float32)
    assert Sampler(Sampling(0.0, top_k=2, top_p=0.1, min_p=1.0))(logits) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"top_p": 1.1}, "top_p must be"),
        ({"min_p": -0.1}, "min_p must be"),
        ({"min_p": 1.5}, "min_p must be"),
        ({"seed": -1}, "seed must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"stop": ""}, "stop string must not be empty"),
        ({"stop": ["a", ""]}, "stop string must not be empty"),
        ({"prompt": []}, "there are no tokens"),
        ({"prompt": ""}, "there are no tokens"),
        ({"prompt": [4096]}, "token 0 is 4096, outside the vocabulary of 4096 tokens"),
        ({"prompt": [1] * 1025}, "1025 tokens do not fit the context of 1024"),
    ],
)
def test_wrong_options_fail_at_once(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**({"prompt": PROMPT} | options))


# ---- text ----


def test_the_seed_decides(model: Model) -> None:
    def text(seed: int) -> str:
        return model.generate(PROMPT, 24, temperature=1.0, seed=seed).text()

    assert text(5) == text(5)
    assert len({text(seed) for seed in range(4)}) > 1


def test_generation_reports(model: Model) -> None:
    generation = model.generate(PROMPT, max_tokens=12)
    pieces = list(generation)
    assert all(pieces)
    assert "".join(pieces) == model.tokenizer.decode(generation.tokens)
    assert (generation.stop_reason, len(generation.tokens)) == ("length", 12)
    assert generation.prompt_tokens == len(model.tokenizer.encode(PROMPT))
    assert generation.prompt_seconds > 0
    assert generation.generation_seconds > 0
    assert list(generation) == []
    ids = model.generate(model.tokenizer.encode(PROMPT), max_tokens=12)
    assert ids.text() == "".join(pieces)


def test_no_eos_follows_a_prompt(model: Model, tmp_path: Path) -> None:
    with gguf.open(model_files.tales("Q8_0")) as source:
        metadata = dict(source.typed_metadata()) | {"tokenizer.ggml.add_eos_token": True}
        model_files.write(tmp_path / "eos.gguf", metadata, source.tensors)
    with Model.open(tmp_path / "eos.gguf") as other:
        assert other.tokenizer.encode(PROMPT) == [*model.tokenizer.encode(PROMPT), model.tokenizer.eos_id]
        assert other.generate(PROMPT, max_tokens=8).text() == model.generate(PROMPT, max_tokens=8).text()


def test_stop_strings(model: Model) -> None:
    whole = model.generate(PROMPT, max_tokens=40).text()
    for stop in (whole[10:13], whole[5:6], whole[17:31], [whole[25:30], whole[8:12]]):
        strings = [stop] if isinstance(stop, str) else stop
        generation = model.generate(PROMPT, max_tokens=40, stop=stop)
        text = generation.text()
        assert text == whole[: min(whole.find(s) for s in strings)]
        assert generation.stop_reason == "stop"
    # The end of the text might have begun a stop string, but did not: it is not lost.
    assert model.generate(PROMPT, max_tokens=40, stop=whole[-3:] + "never").text() == whole


class Scripted:
    """A session that makes a generation produce given tokens."""

    n_ctx, revision = 10_000, 0

    def __init__(self, tokens: list[int], n_vocab: int) -> None:
        self.tokens, self.n_vocab, self.position = tokens, n_vocab, 0

    def eval(self, _tokens: list[int]) -> np.ndarray[Any, Any]:
        logits = np.zeros(self.n_vocab, np.float32)
        logits[self.tokens[self.position]] = 1
        self.position += 1
        return logits

    move_to = eval

    def shared(self, _tokens: list[int]) -> int:
        return 0


def scripted(model: Model, tokens: list[int], **options: Any) -> list[str]:
    session: Any = Scripted(tokens, model.n_vocab)
    stop = options.get("stop", ())
    return list(Generation(session, model.tokenizer, [5], options.get("max_tokens", len(tokens)), Sampling(), stop))


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_characters_are_never_cut(text: str) -> None:
    with Model.open(model_files.tales("F16")) as model:
        tokens = model.tokenizer.encode(text)
        assert "".join(scripted(model, tokens)) == text
        for count in range(1, len(tokens)):  # cut anywhere: a prefix in whole characters
            assert text.startswith("".join(scripted(model, tokens, max_tokens=count)))


def test_end_tokens_end(model: Model) -> None:
    end = model.tokenizer.token_to_id("<|im_end|>")
    assert end is not None
    tokens = model.tokenizer.encode("and so")
    assert "".join(scripted(model, [*tokens, end, 300, 301])) == "and so"


def test_a_full_context_is_told() -> None:
    with Model.open(model_files.tales("F16"), n_ctx=20) as model:
        generation = model.generate(PROMPT, max_tokens=100)
        with pytest.raises(ValueError, match="context of 20 tokens is full after 17 generated tokens"):
            generation.text()
        fits = 20 - generation.prompt_tokens + 1
        assert fits == 17
        assert model.generate(PROMPT, max_tokens=fits).text() == model.tokenizer.decode(generation.tokens)


def test_a_full_context_shifts(model: Model) -> None:
    with Model.open(model_files.tales("F16"), n_ctx=24) as small:
        generation = small.generate(PROMPT, max_tokens=60, context_shift=True)
        text = generation.text()
        assert (generation.stop_reason, len(generation.tokens)) == ("length", 60)
        assert text == small.tokenizer.decode(generation.tokens)
        # Every token is what a fresh model says after the tokens that it could see.
        tokens, visible = generation.tokens, list(generation._prompt)
        with Model.open(model_files.tales("F16")) as fresh:
            for token in tokens:
                assert int(fresh.logits(visible)[-1].argmax()) == token
                if len(visible) == 24:
                    visible = visible[12:]
                visible.append(token)
        one = small.session(1)
        assert len(small.generate([5], max_tokens=5, session=one, context_shift=True).text())


def test_a_shift_keeps_bos(model: Model) -> None:
    session = model.session(16)
    bos = model.tokenizer.bos_id
    assert bos is not None
    generation = model.generate([bos, 400, 401, 402], max_tokens=14, session=session, context_shift=True)
    generation.text()
    assert session.tokens[0] == bos
    assert session.tokens[1:] == (generation._prompt + generation.tokens)[-len(session.tokens) : -1]


# ---- sessions ----


def test_sessions_remember_their_tokens(model: Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was a fox who said")
    wanted = model.logits(ids)
    session = model.session()
    session.eval(ids[:6])
    assert session.tokens == ids[:6]
    other = [*ids[:4], 700, 701]
    session.eval(other[4:])
    evaluated: list[int] = []
    forward = session._decoder.forward

    def counting(tokens: Any, *rest: Any, **options: Any) -> Any:
        evaluated.append(len(tokens))
        return forward(tokens, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session._decoder, "forward", counting)
        logits = session.move_to(ids)
    assert evaluated == [len(ids) - 6]  # ids[4:6] were still there
    assert session.tokens == ids
    np.testing.assert_allclose(logits, wanted[-1], atol=1e-3)
    np.testing.assert_array_equal(session.move_to(ids), logits)
    session.truncate(3)
    assert (session.position, session.tokens) == (3, ids[:3])
    for position in (-1, 4):
        with pytest.raises(ValueError, match="cannot go to position"):
            session.truncate(position)
    session.reset()
    assert session.tokens == []


def test_an_interrupted_evaluation_leaves_a_usable_session(model: Model) -> None:
    ids = model.tokenizer.encode(model_files.eval_text()[:3000])[:600]
    session, fresh = model.session(), model.session()
    forward, calls = session._decoder.forward, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session._decoder, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.eval(ids)
    assert 0 < session.position < len(ids)
    assert session.tokens == ids[: session.position]
    np.testing.assert_array_equal(session.move_to(ids), fresh.eval(ids))


def test_generation_continues_a_session(model: Model) -> None:
    session = model.session()
    first = model.generate(PROMPT, max_tokens=10, session=session).text()
    assert session.position > 10
    second = model.generate(PROMPT + first, max_tokens=10, session=session).text()
    assert second == model.generate(PROMPT + first, max_tokens=10).text()
    again = model.generate(PROMPT + first, max_tokens=3, session=session)
    assert second.startswith(again.text())
    assert again.known_tokens == again.prompt_tokens - 1
    with Model.open(model_files.tales("F16")) as other, pytest.raises(ValueError, match="belongs to another model"):
        other.generate(PROMPT, session=session)


@pytest.mark.parametrize("use", ["generate", "eval", "reset"])
def test_two_texts_on_one_session_do_not_mix(model: Model, use: str) -> None:
    session = model.session()
    text = model.generate(PROMPT, max_tokens=12, session=session)
    next(text)
    if use == "generate":  # of so many tokens that the position is the same
        other = model.generate(text._prompt[::-1], max_tokens=12, session=session)
        next(other)
        assert session.position == len(text._prompt)
    elif use == "eval":
        session.eval([5])
    else:
        session.reset()
    with pytest.raises(ValueError, match="session was used for something else"):
        text.text()
    if use == "generate":
        other.text()
        assert session.tokens == [*other._prompt, *other.tokens][:-1]


def test_sampling_options_reach_the_sampler(model: Model) -> None:
    plain = model.generate(PROMPT, max_tokens=12)
    plain.text()
    token = plain.tokens[0]
    biased = model.generate(PROMPT, max_tokens=12, logit_bias={token: -math.inf})
    biased.text()
    assert token not in biased.tokens
    # The prompt counts as seen.
    ids = model.tokenizer.encode(PROMPT)
    penalised = model.generate([*ids, token, token], max_tokens=1, frequency_penalty=100.0)
    penalised.text()
    assert penalised.tokens[0] not in [*ids, token]
    with pytest.raises(ValueError, match="logit_bias names token 4096, outside the vocabulary of 4096"):
        model.generate(PROMPT, logit_bias={4096: 1.0})
    with pytest.raises(TypeError, match="temprature"):
        model.generate(PROMPT, temprature=1.0)


# ---- chat ----


def test_chat_uses_the_files_template(model: Model) -> None:
    messages = [{"role": "user", "content": "Tell me of the fox."}]
    prompt = "<|im_start|>user\nTell me of the fox.<|im_end|>\n<|im_start|>assistant\n"
    template = model.metadata["tokenizer.chat_template"]
    assert render_chat(template, messages, model.tokenizer) == prompt
    ids = model.tokenizer.encode(prompt, parse_special=True)
    assert ids.count(1) == 2
    chat = model.chat(messages, max_tokens=16)
    assert chat.prompt_tokens == len(ids)
    assert chat.text() == model.generate(prompt, max_tokens=16).text()


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] | tojson }}{{ eos_token }}", '<|endoftext|>"é<"<|endoftext|>'),
        (
            "{%- for m in messages %}\n  {{- m.role }}{% if loop.index > 0 %}{% break %}{% endif %}\n{% endfor %}",
            "user",
        ),
        ("{{ strftime_now('%Y')|length }}{% if add_generation_prompt %}!{% endif %}", "4!"),
    ],
)
def test_template_functions(model: Model, template: str, wanted: str) -> None:
    assert render_chat(template, [{"role": "user", "content": "é<"}], model.tokenizer) == wanted


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, [{"role": "user", "content": "x"}], "no chat template"),
        ("x", [], "no messages"),
        ("x", [{"role": "user"}], "message 0 lacks 'content'"),
        ("{{ raise_exception('roles must alternate') }}", [{"role": "user", "content": "x"}], "roles must alternate"),
        ("{% for %}", [{"role": "user", "content": "x"}], "template fails"),
        ("{{ messages.__class__.__mro__ }}", [{"role": "user", "content": "x"}], "unsafe"),
        ("{{ messages.append(1) }}", [{"role": "user", "content": "x"}], "template fails"),
    ],
)
def test_bad_chats(model: Model, template: str | None, messages: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_chat(template, messages, model.tokenizer)


def test_chat_adds_one_bos(tmp_path: Path) -> None:
    for template in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        with gguf.open(model_files.tales("F16")) as source:
            metadata = dict(source.typed_metadata()) | {
                "tokenizer.chat_template": template,
                "tokenizer.ggml.add_bos_token": True,
            }
            model_files.write(tmp_path / "bos.gguf", metadata, source.tensors)
        with Model.open(tmp_path / "bos.gguf") as model:
            chat = model.chat([{"role": "user", "content": "a fox"}], max_tokens=1)
            assert chat._prompt == [0, *model.tokenizer.encode("a fox", add_special=False)]


# ---- perplexity ----


def test_perplexity_scores_the_second_halves(model: Model) -> None:
    text = model_files.eval_text()[:4000]
    tokens = model.tokenizer.encode(text)
    n_ctx = 64
    found = model.perplexity(text, n_ctx=n_ctx)
    losses = []
    for start in range(0, len(tokens) - n_ctx + 1, n_ctx):
        ids = tokens[start : start + n_ctx]
        logits = model.logits(ids).astype(np.float64)
        for at in range(n_ctx // 2, n_ctx - 1):
            losses.append(np.log(np.exp(logits[at]).sum()) - logits[at, ids[at + 1]])
    assert found["windows"] == len(tokens) // n_ctx
    assert found["tokens"] == len(losses) == found["windows"] * 31
    assert found["nll"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["ppl"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)
    assert found["stderr"] == pytest.approx(found["ppl"] * np.std(losses) / math.sqrt(len(losses) - 1), rel=1e-2)
    calls: list[tuple[str, int, int]] = []
    assert model.perplexity(text, n_ctx=n_ctx, chunks=3, progress=lambda *a: calls.append(a))["tokens"] == 93
    assert calls == [("perplexity", i, 3) for i in (1, 2, 3)]


def test_perplexity_replaces_the_first_token_by_bos(model: Model) -> None:
    tokenizer = Tokenizer(dict(model.metadata) | {"tokenizer.ggml.add_bos_token": True})
    other = Model.open(model_files.tales("Q8_0"))
    other.__dict__["tokenizer"] = tokenizer
    text = model_files.eval_text()[:800]
    ids = tokenizer.encode(text)
    assert ids[0] == 0
    n_ctx = 64
    losses = []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        window = ids[start : start + n_ctx]
        logits = model.logits([0, *window[1:]])[n_ctx // 2 : -1]
        losses.extend(negative_log_likelihoods(logits, np.array(window[n_ctx // 2 + 1 :])))
    assert other.perplexity(text, n_ctx=n_ctx)["nll"] == pytest.approx(float(np.mean(losses)), rel=1e-6)


def test_perplexity_needs_text(model: Model) -> None:
    with pytest.raises(
        ValueError, match=r"the text has \d+ tokens; perplexity with windows of 512 needs at least 1024"
    ):
        model.perplexity("too short")
    for options in ({"n_ctx": 3}, {"n_ctx": 64, "chunks": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            model.perplexity(model_files.eval_text()[:2000], **options)


# ---- command line ----


def test_run_command(model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(model_files.tales("Q8_0"))
    wanted = model.generate(PROMPT, max_tokens=12).text()
    assert app.run(["run", path, PROMPT, "--max-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    assert out == wanted + "\n"
    assert "generated: 12 tokens" in err
    assert "tokens/s" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    assert app.run(["run", path, "-n", "12", "--stop", wanted[4:6], "--threads", "1"]) == 0
    assert capsys.readouterr().out == wanted[: wanted.find(wanted[4:6])] + "\n"
    chat = model.chat([{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0.7, seed=4).text()
    assert app.run(["run", path, "Hello", "--chat", "-n", "8", "-t", "0.7", "--seed", "4"]) == 0
    assert capsys.readouterr().out == chat + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.gguf", "x"], "missing.gguf"),
        (["MODEL", "x", "--system", "be kind"], "--system needs --chat"),
        (["MODEL", "x", "--top-p", "3"], "top_p"),
        (["MODEL", "x", "--ctx", "0"], "n_ctx"),
        (["MODEL", ""], "no tokens"),
        (["TEXT", "x"], "GGUF"),
    ],
)
def test_run_fails_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"MODEL": str(model_files.tales("Q8_0")), "TEXT": str(model_files.EXAMPLE / "eval.txt")}
    assert app.run(["run", *(names.get(a, a) for a in arguments)]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert err.strip().count("\n") == 0
    assert not out.strip()


def test_run_takes_the_sampling_options(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"repeat_penalty": 1.4, "frequency_penalty": 0.2, "presence_penalty": 0.1}
    options |= {"repeat_last_n": 9, "typical_p": 0.7, "temperature": 0.9, "logit_bias": {300: -math.inf, 301: 2.5}}
    wanted = model.generate(PROMPT, max_tokens=20, **options).text()
    assert wanted != model.generate(PROMPT, max_tokens=20, temperature=0.9).text()
    arguments = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if k != "logit_bias"]
    arguments += ["--logit-bias", "300=-inf", "--logit-bias", "301=2.5", "-n", "20"]
    path = str(model_files.tales("Q8_0"))
    assert app.run(["run", path, PROMPT, *arguments]) == 0
    assert capsys.readouterr().out == wanted + "\n"
    assert app.run(["run", path, PROMPT, "-n", "60", "--ctx", "24", "--context-shift"]) == 0
    assert "generated: 60 tokens" in capsys.readouterr().err
    assert app.run(["run", path, PROMPT, "--logit-bias", "x=2"]) == 1
    assert "expected TOKEN=NUMBER" in capsys.readouterr().err


def test_run_with_closed_streams(
    model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python sets those to None that are closed when it starts."""
    command = ["run", str(model_files.tales("Q8_0")), PROMPT, "-n", "4"]
    wanted = model.generate(PROMPT, max_tokens=4).text()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert app.run(command) == 0
    assert capsys.readouterr().out == wanted + "\n"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert app.run(command) == 1
    assert "standard output is closed" in capsys.readouterr().err


def test_run_warns_of_a_context_beyond_training(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(model_files.tales("Q8_0"))
    for size, warned in (("1024", False), ("1025", True)):
        assert app.run(["run", path, PROMPT, "-n", "2", "--ctx", size]) == 0
        assert ("trained for 1024 tokens of context" in capsys.readouterr().err) is warned


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_conversation(model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["Tell me of a fox.", "", "And then?", "/undo", "/what", "/reset", "Tell me of a fox.", "/exit"])
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    assert app.run(["run", str(model_files.tales("Q8_0")), "--chat", "-n", "10"]) == 0
    out, err = capsys.readouterr()
    messages = [{"role": "user", "content": "Tell me of a fox."}]
    first = model.chat(messages, max_tokens=10).text()
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    second = model.chat(messages, max_tokens=10).text()
    assert out == f"{first}\n{second}\n{first}\n"
    assert err.count("/reset forgets") == 2
    assert err.count("known)") >= 1


def test_a_conversation_survives_interruption_and_a_full_context(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from blockquant.cli.conversation import Conversation, converse

    def show(pieces: Any) -> None:
        shows.append([])
        for piece in pieces:
            shows[-1].append(piece)
            if len(shows) == 2 and len(shows[-1]) == 3:
                raise KeyboardInterrupt

    shows: list[list[str]] = []
    reports: list[Any] = []
    lines = iter(["A fox", "A wolf", "A king", "A queen", "word " * 400, "A cat"])

    def read(_prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    with Model.open(model_files.tales("Q8_0"), n_ctx=100) as small:
        talk = Conversation(small, "Be brief.", {"max_tokens": 16})
        converse(talk, show, reports.append)
    err = capsys.readouterr().err
    assert err.count("(stopped)") == 1
    assert err.count("the oldest questions and answers are forgotten") >= 1
    assert "tokens do not fit the context of 100" in err
    assert len(reports) == 4  # the second was stopped, the fifth too long
    said = [turn["content"] for turn in talk._turns]
    assert said[-4:-1] == ["A queen", "".join(shows[3]), "A cat"]  # what did not fit changed nothing


def test_eval_command(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(model_files.eval_text()[:3000], "utf-8")
    wanted = model.perplexity(text.read_text("utf-8"), n_ctx=64, chunks=4)
    command = ["eval", str(model_files.tales("Q8_0")), str(text), "--ctx", "64", "--chunks", "4"]
    assert app.run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in wanted} == wanted
    assert app.run(command) == 0
    assert capsys.readouterr().out.startswith(f"perplexity {wanted['ppl']:.4f} +/- {wanted['stderr']:.4f}")
    text.write_bytes(b"\xff\xfe")
    assert app.run(command) == 1
    assert "is not UTF-8 text" in capsys.readouterr().err
    text.write_text("short")
    assert app.run(command) == 1
    assert "needs at least 128" in capsys.readouterr().err
