"""Tokenizers from metadata: llama.cpp's own test vectors, the HF tokenizer of the bundled model, and properties."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import convert_families
import llamacpp
import model_files
import numpy as np
import pytest
from blockquant import Model, gguf
from blockquant.converter import convert
from blockquant.errors import BlockquantError
from blockquant.transformer import Tokenizer
from blockquant.transformer.pretokenizers import PRETOKENIZERS
from blockquant.transformer.spm import SPACE, SpmMerger
from blockquant.transformer.tokenizer import TextStream
from hypothesis import given, settings
from hypothesis import strategies as st

VOCABULARIES = Path(__file__).parent / "data" / "vocab"
NAMES = ("llama-spm", "gpt-2")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    made = {}
    for name in NAMES:
        with gguf.open(VOCABULARIES / f"ggml-vocab-{name}.gguf") as file:
            made[name] = Tokenizer(file.metadata)
    return made


@pytest.fixture(scope="module")
def tales() -> Tokenizer:
    with Model.open(model_files.tales("F16")) as model:
        return model.tokenizer


def vectors(name: str) -> list[tuple[str, list[int]]]:
    path = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in Path(f"{path}.out").read_text().split("\n")]
    assert len(texts) == len(ids) > 40
    return list(zip(texts, ids, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpps_vectors(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[name]
    for text, ids in vectors(name):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_decode_gives_the_text_back(name: str, tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers[name]
    is_spm = name == "llama-spm"
    wanted = text.replace(SPACE, " ") if is_spm else text  # the vocabulary has no other way to write a space
    assert tokenizer.decode(tokenizer.encode(text)) == wanted
    # Token by token: never part of a character, and the same text but for the space put before it.
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text, add_special=False)]
    assert all("�" not in piece for piece in pieces) or "�" in text
    assert "".join(pieces) == (" " + wanted if is_spm and text else wanted)


def test_the_bundled_vocabulary_equals_its_tokenizer_json(tales: Tokenizer) -> None:
    hf = pytest.importorskip("tokenizers").Tokenizer.from_file(str(model_files.EXAMPLE / "tokenizer.json"))
    text = model_files.eval_text()[:200_000]
    assert unicodedata.is_normalized("NFC", text)
    assert tales.encode(text) == hf.encode(text).ids

    @settings(max_examples=200, deadline=None)
    @given(text=TEXT)
    def check(text: str) -> None:
        text = unicodedata.normalize("NFC", text)  # tokenizer.json normalizes, llama.cpp and its files do not
        assert tales.encode(text, parse_special=True) == hf.encode(text).ids

    check()


def test_llama_cpp_tokenizes_alike(tales: Tokenizer) -> None:
    texts = [model_files.eval_text()[:20_000], "", " ", "x\r\n\n y", "e\u0301 \u200d👩‍👩‍👧 1234 don't DON'T"]
    texts += ["<|im_start|>user\nhi<|im_end|> <|endoftext|>", "<|im_start", "a<|im_end|><|im_end|>b  "]
    with llamacpp.Model(model_files.tales("F16")) as other:
        for text in texts:
            for special in (False, True):
                for parse in (False, True):
                    assert tales.encode(text, special, parse) == other.tokenize(text, special, parse), text[:40]


@pytest.mark.parametrize("name", convert_families.CASES)
def test_llama_cpp_tokenizes_converted_vocabularies_alike(name: str, tmp_path: Path) -> None:
    convert(convert_families.CASES[name][0](tmp_path), tmp_path / "out.gguf")
    texts = [model_files.eval_text()[:3000], "Hello  world\n\n <|eot_id|> in <tool> the <s> </s>x", "é🦙\t two words"]
    texts += ["x<|end|>y<|end|> y<|user|>\n y<|end|>\t\r\n\v\f y"]
    texts += ["<think> a </think>", "▁two▁words", "  leading and trailing  "]
    with llamacpp.Model(tmp_path / "out.gguf") as other, Model.open(tmp_path / "out.gguf") as model:
        for text in texts:
            for special in (False, True):
                for parse in (False, True):
                    ours = model.tokenizer.encode(text, special, parse)
                    assert ours == other.tokenize(text, special, parse), (text[:40], special, parse)


def merge_slowly(symbols: list[str], ids: dict[str, int], scores: Sequence[float]) -> list[str]:
    """The rule itself: again and again, merge the best-scored pair of neighbours, the leftmost of equals."""
    while True:
        best = None
        for i in range(len(symbols) - 1):
            token = ids.get(symbols[i] + symbols[i + 1])
            if token is not None and (best is None or scores[token] > best[0]):
                best = (scores[token], i)
        if best is None:
            return symbols
        i = best[1]
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.text("ab▁", min_size=2, max_size=5), max_size=12, unique=True),
    scores=st.lists(st.integers(-4, 0), min_size=15, max_size=15),
    text=st.text("ab▁c", max_size=16),
)
def test_merging_follows_the_rule(words: list[str], scores: list[int], text: str) -> None:
    ids = {word: i for i, word in enumerate(["a", "b", "▁", *words])}
    byte_ids = [100 + b for b in range(256)]
    merger = SpmMerger(ids, scores, byte_ids, 0)
    wanted = []
    for symbol in merge_slowly(list(text), ids, scores):
        wanted += [ids[symbol]] if symbol in ids else [100 + b for b in symbol.encode()]
    assert merger.encode(text) == wanted
    assert merger.encode(text) == wanted  # from the cache


def bpe(**changes: Any) -> dict[str, Any]:
    tokens = ["a", "b", "Ġ", "ab", "<end>", "<tool>", "<tool>2", "abab"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 3, 4, 4, 1],
        "tokenizer.ggml.merges": ["a b", "ab ab"],
        "tokenizer.ggml.bos_token_id": 4,
        "tokenizer.ggml.eos_token_id": 4,
    }
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


def test_special_tokens() -> None:
    tokenizer = Tokenizer(bpe())
    assert tokenizer.encode("ab<tool>a<tool>2b") == [3, 5, 0, 6, 1]  # user-defined tokens always, the longest first
    assert tokenizer.encode("a<end>b", parse_special=True) == [0, 4, 1]
    assert 4 not in tokenizer.encode("a<end>b")
    assert tokenizer.decode([0, 4, 5, 1]) == "a<tool>b"
    assert tokenizer.decode([0, 4, 5, 1], skip_special=False) == "a<end><tool>b"
    assert tokenizer.end_ids == {4}
    assert not tokenizer.add_bos
    assert Tokenizer(bpe(bos_token_id=2**32 - 1)).bos_id is None  # as some files say that there is none
    both = Tokenizer(bpe(add_bos_token=True, add_eos_token=True))
    assert both.encode("ab ab") == [4, 3, 2, 3, 4]
    assert both.encode("ab", add_special=False) == [3]
    assert both.encode("") == [4, 4]
    assert both.token_to_id("ab") == 3
    assert both.token_to_id("nothing") is None
    assert len(both) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "no vocabulary"),
        ({"tokens": None}, "no vocabulary"),
        ({"model": "bert"}, "'bert' is not supported; supported: 'gpt2', 'llama'"),
        ({"pre": "unheard"}, "pre-tokenizer 'unheard'"),
        ({"merges": None}, "no tokenizer.ggml.merges"),
        ({"token_type": [1, 1]}, "token_type has 2 entries for 8 tokens"),
        ({"bos_token_id": math.inf}, "bos_token_id is inf; expected int"),
        ({"eos_token_id": "x"}, "eos_token_id is 'x'; expected int"),
        ({"eot_token_id": np.array([1, 2])}, "eot_token_id is an array; expected int"),
        ({"tokens": 5}, "tokens is 5; expected an array of str"),
        ({"tokens": "abc"}, "tokens is 'abc'; expected an array of str"),
        ({"tokens": np.arange(8)}, "tokens holds 0; expected an array of str"),
        ({"tokens": [["a"]]}, "tokens is an array of arrays"),
        ({"merges": np.array([1, 2])}, "merges holds 1; expected an array of str"),
        ({"token_type": np.full(8, np.inf)}, "token_type holds inf; expected an array of int"),
        ({"token_type": [True] * 8}, "token_type holds True; expected an array of int"),
        ({"scores": ["a"] * 8}, "scores holds 'a'; expected an array of float"),
        ({"add_bos_token": np.array([True])}, "add_bos_token is an array; expected bool"),
        ({"add_bos_token": "false"}, "add_bos_token is 'false'; expected bool"),
        ({"pre": ["gpt-2"]}, "pre is an array; expected str"),
        (
            {"model": "llama", "token_type": [1, 6, 1, 1, 1, 1, 1, 1]},
            "token 1 is a byte written 'b'; expected '<0x00>'",
        ),
    ],
)
def test_unusable_vocabularies(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BlockquantError, match=message):
        Tokenizer(bpe(**changes))


def test_wrong_input() -> None:
    tokenizer = Tokenizer(bpe())
    for ids in ([8], [-1], [0, 99]):
        with pytest.raises(ValueError, match="outside the vocabulary of 8 tokens"):
            tokenizer.decode(ids)
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
@pytest.mark.parametrize("kind", [0, 1, 3, 4, 5])
def test_llama_cpp_writes_odd_tokens_alike(name: str, kind: int, tmp_path: Path) -> None:
    convert(convert_families.CASES[name][0](tmp_path), tmp_path / "whole.gguf")
    with gguf.open(tmp_path / "whole.gguf") as file:
        metadata, tensors = dict(file.typed_metadata()), dict(file.tensors)
        tokens, types = (file.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
        words = [i for i, text in enumerate(tokens) if types[i] == 1 and text.isascii() and text.isalpha()][-2:]
        # One token of a kind that is rare, and one of bytes that are not UTF-8.
        tokens = [text if i != words[0] else "\udcff\udcfe" + text for i, text in enumerate(tokens)]
        types = np.array([kind if i in words else t for i, t in enumerate(types)], np.int32)
        changes = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
        model_files.write(tmp_path / "odd.gguf", metadata | changes, tensors)
    texts = ["Hello two words", tokens[words[1]], f"a {tokens[words[1]]}\xff\xfe b"]
    with llamacpp.Model(tmp_path / "odd.gguf") as other, Model.open(tmp_path / "odd.gguf") as model:
        ours = model.tokenizer
        for text in texts:
            for parse in (False, True):
                assert ours.encode(text, False, parse) == other.tokenize(text, False, parse), text
        plain = ours.encode("Hello", False)
        # Where a word of a byte-level vocabulary is not UTF-8, llama.cpp writes a remark instead.
        for word in words[int(name == "qwen2" and kind == 1) :]:
            for skip in (False, True):
                ids = [*plain, word]
                assert ours.decode(ids, skip_special=skip) == other.detokenize(ids, not skip), (word, skip)


def test_bytes_among_tokens() -> None:
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xfF>", "\udcffab", "c"]
    spm = {
        "model": "llama",
        "tokens": tokens,
        "token_type": [2, 3, 3, 6, 6, 1, 1],
        "add_space_prefix": False,
        "eos_token_id": 2,
    }
    tokenizer = Tokenizer(bpe(**spm))
    assert [tokenizer.piece(i) for i in range(7)] == [b"", b"", b"", b"\n", b"\xff", b"\xffab", b"c"]
    assert tokenizer.decode([5, 6]) == "\ufffdabc"
    assert tokenizer.encode("c\n", add_special=False) == [6, 3]


def test_long_texts_are_split_alike(tales: Tokenizer) -> None:
    text = model_files.eval_text()[:150_000]
    place = text.index(" ", 60_000)  # a word begins here
    assert tales.encode(text) == tales.encode(text[:place]) + tales.encode(text[place:])


def test_white_space_without_end_is_an_error(tales: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BlockquantError, match="cannot be split into words: 10100001 characters"):
        tales.encode(" " * 10_100_000 + "b")


def test_pre_tokenizer_expressions_compile() -> None:
    regex = pytest.importorskip("tokenizers").Regex
    for name, entry in PRETOKENIZERS.items():
        for expression in entry.expressions:
            assert regex(expression), name
