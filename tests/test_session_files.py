"""The kinds of KV cache, and sessions in files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import convert_families
import llamacpp
import model_files
import numpy as np
import pytest
from blockquant import Model, _core, gguf
from blockquant.cli import app
from blockquant.converter import convert
from blockquant.transformer import Session

PROMPT = "Once upon a time there was a fox who"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(model_files.tales("Q8_0"))


def ids_of(model: Model, count: int) -> list[int]:
    return model.tokenizer.encode(model_files.eval_text()[30_000:40_000])[:count]


# ---- kinds of cache ----


def test_the_default_follows_the_weights(model: Model) -> None:
    assert model.session().cache_type == "f16"
    assert model.session(cache_type="q8_0").cache_type == "q8_0"
    with Model.open(model_files.tales("F32")) as exact:
        assert exact.session().cache_type == "f32"
    with Model.open(model_files.tales("Q8_0"), cache_type="q8_0") as small:
        assert small.session().cache_type == "q8_0"
        assert small.session(cache_type="f16").cache_type == "f16"
    for options in ({"cache_type": "q4_0"},):
        with pytest.raises(ValueError, match="cache type 'q4_0' is not known; known: f32, f16, q8_0"):
            Model.open(model_files.tales("Q8_0"), **options)
        with pytest.raises(ValueError, match="cache type 'q4_0' is not known"):
            model.session(**options)


def test_q8_0_halves_the_memory_and_little_else(model: Model) -> None:
    ids = ids_of(model, 500)
    rows: dict[str, np.ndarray[Any, Any]] = {}
    sizes: dict[str, int] = {}
    with Model.open(model_files.tales("F16")) as exact:
        for kind in ("f32", "f16", "q8_0"):
            session = exact.session(cache_type=kind)
            rows[kind] = np.concatenate(list(session.eval_rows(ids)))
            sizes[kind] = session.cache_bytes
    assert sizes["q8_0"] / sizes["f16"] == 34 / 64
    unit = float(rows["f32"].std())

    def error(kind: str) -> float:
        return float(np.sqrt(np.mean((rows[kind] - rows["f32"]) ** 2))) / unit

    assert error("f16") < 0.002
    # int8 rounds by 0.4 % of the largest of 32 elements.
    assert error("f16") < error("q8_0") < 0.02


def test_q8_0_follows_llama_cpps(model: Model) -> None:
    ids = ids_of(model, 300)
    ours = np.concatenate(list(model.session(cache_type="q8_0").eval_rows(ids)))
    plain = model.logits(ids)
    with llamacpp.Model(model_files.tales("Q8_0"), flash_attention=True, kv_type="q8_0") as other:
        theirs = other.logits(ids)
    with Model.open(model_files.decoded("Q8_0")) as decoded:
        exact = decoded.logits(ids)

    def error(rows: np.ndarray[Any, Any]) -> float:
        return float(np.sqrt(np.mean((rows - exact) ** 2)))

    assert error(plain) < error(ours) < 1.3 * error(theirs)


def test_a_prompt_in_pieces_is_the_same(model: Model) -> None:
    ids = ids_of(model, 90)
    for kind in ("f16", "q8_0"):
        whole, pieces = model.session(cache_type=kind), model.session(cache_type=kind)
        wanted = whole.eval(ids)
        for start in range(0, len(ids), 17):
            logits = pieces.eval(ids[start : start + 17])
        np.testing.assert_allclose(logits, wanted, atol=2e-3 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("isa", _core.available_isas())
def test_cache_arrays_are_checked(isa: str) -> None:
    size = _core.q8_0_cache_bytes(64)
    assert size == 34 * 64
    good = np.zeros((2, 2, size), np.uint8)
    k = np.ones((40, 2, 64), np.float32)
    _core.store_kv(k, k, good, good.copy(), 0)
    q = np.ones((1, 4, 64), np.float32)
    _core.attention(q, good, good, np.empty_like(q), 39, 0.1, 0)
    for bad in (good[:, :, :-1].copy(), good[..., None], good.view(np.int8), good.astype(np.float64)):
        with pytest.raises((ValueError, TypeError), match="KV cache"):
            _core.store_kv(k, k, bad, bad, 0)
        with pytest.raises((ValueError, TypeError), match="KV cache"):
            _core.attention(q, bad, bad, np.empty_like(q), 39, 0.1, 0)
    with pytest.raises(ValueError, match="holds 64 positions"):
        _core.store_kv(k, k, good, good, 30)


# ---- files ----


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_a_saved_session_goes_on(model: Model, kind: str, tmp_path: Path) -> None:
    ids = ids_of(model, 150)
    session = model.session(cache_type=kind)
    session.eval(ids[:100])
    session.save(tmp_path / "session.gguf")
    wanted = [session.eval([token]) for token in ids[100:110]]
    other = model.session(n_ctx=400, cache_type=kind)
    other.eval(ids[:7])
    other.load(tmp_path / "session.gguf")
    assert (other.position, other.tokens) == (100, ids[:100])
    for token, row in zip(ids[100:110], wanted, strict=True):
        np.testing.assert_array_equal(other.eval([token]), row)
    empty = model.session(cache_type=kind)
    empty.save(tmp_path / "empty.gguf")
    other.load(tmp_path / "empty.gguf")
    assert other.tokens == []


def saved(model: Model, path: Path, **options: Any) -> Path:
    session = model.session(**options)
    session.eval(ids_of(model, 40))
    session.save(path)
    return path


def test_a_session_of_something_else_is_refused(model: Model, tmp_path: Path) -> None:
    path = saved(model, tmp_path / "session.gguf")
    session = model.session()
    session.eval([5, 6, 7])

    def refused(by: Session, file: Path, why: str) -> None:
        before = by.tokens
        with pytest.raises(ValueError, match=why):
            by.load(file)
        assert by.tokens == before

    with Model.open(model_files.tales("Q4_0")) as other:
        refused(other.session(), path, "saved from another model")
    refused(model.session(cache_type="q8_0"), path, "its cache is f16, the session's is q8_0")
    refused(model.session(n_ctx=39), path, "40 tokens, more than the context of 39")
    refused(session, model_files.tales("Q8_0"), "is not a session file")
    refused(session, model_files.EXAMPLE / "eval.txt", "GGUF")
    with pytest.raises(FileNotFoundError):
        session.load(tmp_path / "missing.gguf")
    with gguf.open(path) as file:
        metadata, tensors = dict(file.typed_metadata()), {n: np.array(t) for n, t in file.tensors.items()}
    changes: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"session.tokens": np.arange(41, dtype=np.int32)}, {}, "do not fit a cache"),
        ({"session.tokens": np.array([5, 4096], np.int32)}, {}, "token ids outside the vocabulary of 4096"),
        ({"session.tokens": np.array([-1], np.int32)}, {}, "token ids outside"),
        ({"session.tokens": "words"}, {}, "no list of token ids"),
        ({"session.tokens": ["a", "b"]}, {}, "no list of token ids"),
        ({"session.tokens": [[5], [6, 7]]}, {}, "no list of token ids"),
        ({"session.tokens": np.array([5.0, 6.0], np.float32)}, {}, "no list of token ids"),
        ({"session.version": np.uint32(1)}, {}, "version 1, expected 2"),
        ({"session.version": np.array([1, 1], np.uint32)}, {}, "version no int, expected 2"),
        ({"session.version": True}, {}, "version no int, expected 2"),
        ({"general.type": np.array([1, 2], np.uint32)}, {}, "is not a session file"),
        ({"session.model": np.array([1, 2], np.uint32)}, {}, "saved from another model"),
        ({"session.cache": ["f16", "f16"]}, {}, "its cache is no str, the session's is f16"),
        ({}, {"layer.0.keys": tensors["layer.0.keys"].astype(np.float32)}, "do not fit a cache"),
        ({}, {"layer.1.values": tensors["layer.1.values"][:, :1]}, "do not fit a cache"),
    ]
    for index, (new_metadata, new_tensors, why) in enumerate(changes):
        bad = model_files.write(tmp_path / f"bad{index}.gguf", metadata | new_metadata, tensors | new_tensors)
        if "session.tokens" in new_metadata and why == "do not fit a cache":
            continue  # 41 tokens need as many blocks as 40: the sizes cannot tell
        refused(session, bad, why)
    del tensors["layer.3.keys"]
    refused(session, model_files.write(tmp_path / "less.gguf", metadata, tensors), "lacks 'layer.3.keys'")


def test_lists_of_the_architecture_tell_models_apart(tmp_path: Path) -> None:
    checkpoint = convert_families.MAKERS["gemma3"](tmp_path)
    convert(checkpoint, tmp_path / "plain.gguf", "f32")
    files = [tmp_path / f"{name}.gguf" for name in ("local", "again", "global")]
    with gguf.open(tmp_path / "plain.gguf") as source:
        for path, is_local in zip(files, (True, True, False), strict=True):
            pattern = {"gemma3.attention.sliding_window_pattern": [is_local] * 7}
            model_files.write(path, dict(source.typed_metadata()) | pattern, source.tensors)
    with Model.open(files[0]) as local, Model.open(files[1]) as again, Model.open(files[2]) as other:
        session = local.session()
        session.eval(range(40))
        session.save(tmp_path / "session.gguf")
        again.session().load(tmp_path / "session.gguf")
        with pytest.raises(ValueError, match="saved from another model"):
            other.session().load(tmp_path / "session.gguf")


def test_hostile_files_are_refused_in_one_line(model: Model, tmp_path: Path) -> None:
    data = saved(model, tmp_path / "session.gguf").read_bytes()
    session, rng = model.session(), random.Random(0)
    bad = tmp_path / "bad.gguf"
    for _ in range(150):
        changed = bytearray(data)
        if rng.random() < 0.3:
            del changed[rng.randrange(len(changed)) :]
        else:
            for _ in range(rng.randrange(1, 6)):
                changed[rng.randrange(min(len(changed), 4000))] = rng.randrange(256)
        bad.write_bytes(changed)
        said = ""
        try:
            session.load(bad)
        except ValueError as error:
            said = str(error)
        assert "\n" not in said
        assert all(0 <= token < model.n_vocab for token in session.tokens)


def test_an_interrupted_load_changes_nothing(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ids = saved(model, tmp_path / "session.gguf"), ids_of(model, 100)
    session, fresh = model.session(), model.session()
    session.eval(ids[60:90])
    fresh.eval(ids[60:90])

    def interrupted(_file: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFFile, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.load(path)
    assert session.tokens == ids[60:90]
    np.testing.assert_array_equal(session.eval(ids[90:]), fresh.eval(ids[90:]))


def test_run_with_a_prompt_cache(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, cache = str(model_files.tales("Q8_0")), tmp_path / "cache.gguf"
    wanted = model.generate(PROMPT, max_tokens=8).text()
    command = ["run", path, PROMPT, "-n", "8", "--prompt-cache", str(cache)]
    for known in (False, True):
        assert app.run(command) == 0
        out, err = capsys.readouterr()
        assert out == wanted + "\n"
        assert ("known)" in err) is known
    assert app.run([*command, "--cache-type", "q8_0"]) == 1
    assert "its cache is f16" in capsys.readouterr().err
    assert app.run(["run", path, PROMPT, "-n", "3", "--cache-type", "q8_0"]) == 0
    assert app.run(["run", path, PROMPT, "-n", "3", "--cache-type", "q5"]) == 1
    assert "known: f32, f16, q8_0" in capsys.readouterr().err


def test_a_prompt_cache_does_not_change_longropes_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its factors go by the size of the session; a file of the other factors is of no use."""
    path, cache = tmp_path / "phi.gguf", tmp_path / "cache.gguf"
    convert(convert_families.MAKERS["phi4"](tmp_path), path, "f32")
    answers = set()
    for count, anew, known in ((20, False, False), (20, False, True), (110, True, False), (110, False, True)):
        command = ["run", str(path), "the man said that he was", "-n", str(count), "--temperature", "1"]
        assert app.run(command) == 0
        wanted = capsys.readouterr().out
        assert app.run([*command, "--prompt-cache", str(cache)]) == 0
        out, err = capsys.readouterr()
        assert out == wanted
        assert ("(LongRoPE) are other ones: the prompt is evaluated anew" in err, "known)" in err) == (anew, known)
        answers.add(wanted[:20])
    assert len(answers) == 2
    with Model.open(path) as model:
        assert [model.session_for(count).n_ctx for count in (100, 101, 801)] == [100, 800, 800]
        with pytest.raises(ValueError, match="was saved in a context of another size than 100"):
            model.session(100).load(cache)
    with Model.open(path, n_ctx=60) as model:
        assert model.session_for(20).n_ctx == 60


def test_run_looks_for_the_folder_of_a_prompt_cache_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(model_files.tales("Q8_0"))
    assert app.run(["run", path, PROMPT, "--prompt-cache", str(tmp_path / "nowhere" / "cache.gguf")]) == 1
    out, err = capsys.readouterr()
    assert (out, "its folder does not exist" in err) == ("", True)
    monkeypatch.chdir(tmp_path)
    assert app.run(["run", path, PROMPT, "-n", "2", "--prompt-cache", "cache.gguf"]) == 0
