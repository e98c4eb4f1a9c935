"""Tokenizer metadata: splitting names, special tokens as gguf-py reads them, SentencePiece files, odd inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convert_families
import convert_models
import llamacpp
import numpy as np
import pytest
from blockquant.converter.pre_tokenizers import pre_tokenizer_name
from blockquant.converter.sentencepiece import read_pieces
from blockquant.converter.special_tokens import special_metadata
from blockquant.converter.vocabulary import TokenType, tokenizer_metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from record_convert import DATA

SPLITS = {
    "qwen2": convert_models.QWEN2_REGEX,
    "smaug-bpe": convert_models.LLAMA3_REGEX,
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "gpt-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "seed-coder": (
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|"
        "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_splitting_regexes_have_names(name: str) -> None:
    tokenizer = convert_models.byte_level_tokenizer(SPLITS[name], [])
    assert pre_tokenizer_name(tokenizer) == name
    # The same with removal of what is between the matches, as tiktoken's are converted.
    split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
    split |= {"behavior": "Removed", "invert": True}
    assert pre_tokenizer_name(tokenizer) == name
    split |= {"behavior": "MergedWithNext"}
    with pytest.raises(ValueError, match="none that GGUF has a name for"):
        pre_tokenizer_name(tokenizer)


def test_llama3_looks_words_up_first() -> None:
    tokenizer = convert_models.byte_level_tokenizer(convert_models.LLAMA3_REGEX, [], ignore_merges=True)
    assert pre_tokenizer_name(tokenizer) == "llama-bpe"


def test_byte_level_steps_have_names() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer_name({"pre_tokenizer": byte_level, "model": {}}) == "gpt-2"
    both = {"type": "Sequence", "pretokenizers": [digits, {**byte_level, "use_regex": True}]}
    assert pre_tokenizer_name({"pre_tokenizer": both, "model": {}}) == "smollm"
    for other in (None, 3, {"type": "Sequence"}, {"type": "Whitespace"}, {"type": "Split", "pattern": {"String": " "}}):
        with pytest.raises(ValueError, match=r"pass its name as pre_tokenizer") as caught:
            pre_tokenizer_name({"pre_tokenizer": other})
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """llama.cpp and HF tokenizers of the byte-level cases and of the byte-fallback one."""
    tokenizers = pytest.importorskip("tokenizers")
    from blockquant.converter import convert

    loaded = []
    for name in ("llama3", "qwen3", "mistral"):
        directory = convert_families.CASES[name][0](tmp_path_factory.mktemp(name))
        out = directory / "out.gguf"
        convert(directory, out)
        loaded.append((llamacpp.Model(out), tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))))
    yield loaded
    for model, _ in loaded:
        model.close()


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Co")), max_size=40), st.integers(0, 2))
def test_llama_cpp_splits_random_text_as_the_tokenizer(models: Any, text: str, which: int) -> None:
    model, tokenizer = models[which]
    # Unicode data differs between the two libraries for rare characters; NUL ends a C string.
    text = "".join(c if ord(c) < 0x2000 or 0x4E00 <= ord(c) < 0x9FFF else " the " for c in text if c != "\0")
    normalized = tokenizer.normalizer.normalize_str(text) if which == 1 else text
    if text:
        assert model.tokenize(normalized) == tokenizer.encode(text).ids


@pytest.mark.parametrize("case", convert_models.special_token_cases())
def test_special_tokens_are_those_of_llama_cpp(case: str, tmp_path: Path) -> None:
    files = convert_models.special_token_cases()[case]
    for name, value in files.items():
        convert_models.write_json(tmp_path / name, value)
    wanted = json.loads((DATA / "special_tokens.json").read_text("utf-8"))[case]
    assert special_metadata(tmp_path, files["tokenizer.json"], 10) == wanted
    # Tokens given as objects mean the same.
    declared = {
        k: {"content": v} if k.endswith("_token") and isinstance(v, str) else v
        for k, v in files["tokenizer_config.json"].items()
    }
    convert_models.write_json(tmp_path / "tokenizer_config.json", declared)
    assert special_metadata(tmp_path, files["tokenizer.json"], 10) == wanted


def byte_level_directory(path: Path, specials: list[str], **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    tokenizer = convert_models.byte_level_tokenizer(convert_models.QWEN2_REGEX, specials)
    convert_models.write_json(path / "tokenizer.json", tokenizer)
    for name, value in files.items():
        convert_models.write_json(path / f"{name}.json", value)
    return path


def test_token_types(tmp_path: Path) -> None:
    specials = ["<|end|>", "user:<tool>", "user:<|looks|>", "user:▁word", "user:<named>", "user:<listed>"]
    declared = {"pad_token": "<named>", "additional_special_tokens": ["<listed>"]}
    found = tokenizer_metadata(byte_level_directory(tmp_path, specials, tokenizer_config=declared), 310)
    first = 256 + len(convert_models.MERGE_PAIRS)
    types = found["tokenizer.ggml.token_type"]
    assert types.dtype == np.int32
    assert (types[:first] == TokenType.NORMAL).all()
    control, user = TokenType.CONTROL, TokenType.USER_DEFINED
    assert types[first : first + 6].tolist() == [control, user, control, user, control, control]
    assert found["tokenizer.ggml.tokens"][first + 3] == " word"
    assert found["tokenizer.ggml.tokens"][first + 6 :] == [f"[PAD{i}]" for i in range(first + 6, 310)]
    assert (types[first + 6 :] == TokenType.UNUSED).all()


def test_merges_of_both_spellings_and_with_spaces(tmp_path: Path) -> None:
    directory = byte_level_directory(tmp_path, [])
    tokenizer = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    pairs = tokenizer["model"]["merges"]
    listed = tokenizer_metadata(directory, 310)["tokenizer.ggml.merges"]
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in pairs]
    convert_models.write_json(directory / "tokenizer.json", tokenizer)
    assert tokenizer_metadata(directory, 310)["tokenizer.ggml.merges"] == listed
    tokenizer["model"]["merges"] = [["a b", "c"]]
    convert_models.write_json(directory / "tokenizer.json", tokenizer)
    assert tokenizer_metadata(directory, 310)["tokenizer.ggml.merges"] == ["aĠb c"]
    for bad in (["a b c"], [["a"]], [3], [["a", 3]]):
        tokenizer["model"]["merges"] = bad
        convert_models.write_json(directory / "tokenizer.json", tokenizer)
        with pytest.raises(ValueError, match="no pair of tokens"):
            tokenizer_metadata(directory, 310)


def test_chat_templates(tmp_path: Path) -> None:
    directory = byte_level_directory(tmp_path, [])
    assert "tokenizer.chat_template" not in tokenizer_metadata(directory, 310)
    convert_models.write_json(directory / "chat_template.json", {"chat_template": "from json"})
    assert tokenizer_metadata(directory, 310)["tokenizer.chat_template"] == "from json"
    (directory / "chat_template.jinja").write_text("from jinja", "utf-8")
    assert tokenizer_metadata(directory, 310)["tokenizer.chat_template"] == "from jinja"
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("more", "utf-8")
    found = tokenizer_metadata(directory, 310)
    assert found["tokenizer.chat_template"] == "from jinja"
    assert found["tokenizer.chat_template.rag"] == "more"
    assert found["tokenizer.chat_templates"] == ["rag"]
    convert_models.write_json(directory / "tokenizer_config.json", {"chat_template": "declared"})
    assert tokenizer_metadata(directory, 310)["tokenizer.chat_template"] == "declared"
    convert_models.write_json(directory / "tokenizer_config.json", {"chat_template": 3})
    with pytest.raises(ValueError, match="the chat template is neither"):
        tokenizer_metadata(directory, 310)


@pytest.mark.parametrize(
    ("normalizer", "splitter", "declared", "wanted"),
    [
        ({"type": "Sequence", "normalizers": [{"type": "Prepend"}, {"type": "Replace"}]}, None, None, None),
        ({"type": "Replace"}, None, None, False),
        (None, {"type": "Metaspace", "prepend_scheme": "first"}, None, None),
        (None, {"type": "Metaspace", "prepend_scheme": "never"}, None, False),
        (None, {"type": "Metaspace", "prepend_scheme": "never"}, True, True),
    ],
)
def test_space_before_the_text(normalizer: Any, splitter: Any, declared: Any, wanted: Any, tmp_path: Path) -> None:
    tokenizer = convert_models.byte_fallback_tokenizer() | {"normalizer": normalizer, "pre_tokenizer": splitter}
    convert_models.write_json(tmp_path / "tokenizer.json", tokenizer)
    if declared is not None:
        convert_models.write_json(tmp_path / "tokenizer_config.json", {"add_prefix_space": declared})
    found = tokenizer_metadata(tmp_path, len(convert_models.pieces()))
    assert found.get("tokenizer.ggml.add_space_prefix") == wanted


def test_sentencepiece_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    whole = convert_models.sentencepiece_bytes()
    path.write_bytes(whole)
    found = [(piece.text, piece.score, piece.kind) for piece in read_pieces(path)]
    assert found == convert_models.pieces()
    path.write_bytes(convert_models.sentencepiece_bytes(model_type=1))
    with pytest.raises(ValueError, match="model type 1; only BPE"):
        read_pieces(path)
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"tokenizer\.model: "):
            read_pieces(path)
    rng = np.random.default_rng(5)
    for _ in range(100):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_pieces(path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_added_tokens_beyond_the_model_are_left_out(kind: str, tmp_path: Path) -> None:
    size = len(convert_models.pieces())
    if kind == "tokenizer.model":
        (tmp_path / kind).write_bytes(convert_models.sentencepiece_bytes())
        convert_models.write_json(tmp_path / "added_tokens.json", {"[PAD]": size})
    else:
        tokenizer = convert_models.byte_fallback_tokenizer()
        tokenizer["added_tokens"].append(convert_models.added(size, "[PAD]"))
        convert_models.write_json(tmp_path / kind, tokenizer)
    declared = {str(size + i): {"content": text, "special": True} for i, text in enumerate(("[PAD]", "<more>"))}
    convert_models.write_json(
        tmp_path / "tokenizer_config.json", {"pad_token": "[PAD]", "added_tokens_decoder": declared}
    )
    left_out: list[str] = []
    found = tokenizer_metadata(tmp_path, size, left_out=left_out)
    assert found["tokenizer.ggml.tokens"] == [text for text, _, _ in convert_models.pieces()]
    assert "tokenizer.ggml.padding_token_id" not in found
    assert left_out == [
        f"2 added tokens, of which the first is '[PAD]' with id {size}: config.json's vocab_size is {size}"
    ]
    # Where the model has rows for them they are there.
    whole = tokenizer_metadata(tmp_path, size + 2, left_out=left_out)
    assert whole["tokenizer.ggml.tokens"][size:] == ["[PAD]", "<more>"]
    assert len(left_out) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post_processor": {"type": "Sequence", "processors": 5}}, None),
        ({"post_processor": {"type": "Sequence", "processors": True}}, None),
        ({"normalizer": {"type": "Sequence", "normalizers": 5}}, None),
        ({"added_tokens": [{"id": 0, "content": ["x"]}]}, None),
        ({"added_tokens": [{"id": 339, "content": ["x"]}]}, r"token \['x'\] has the id 339"),
        ({"added_tokens": [{"id": 340, "content": {}}]}, r"token {} has the id 340"),
    ],
)
def test_odd_files_beside_a_sentencepiece_file(changes: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(convert_models.sentencepiece_bytes())
    plain = tokenizer_metadata(tmp_path, 340)
    convert_models.write_json(tmp_path / "tokenizer.json", changes)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            tokenizer_metadata(tmp_path, 340)
        return
    found = tokenizer_metadata(tmp_path, 340)
    assert found["tokenizer.ggml.tokens"] == plain["tokenizer.ggml.tokens"]


def test_the_sentencepiece_file_must_fit_the_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(convert_models.sentencepiece_bytes())
    with pytest.raises(ValueError, match="vocab_size is 300; the tokenizer belongs to another model"):
        tokenizer_metadata(tmp_path, 300)
    found = tokenizer_metadata(tmp_path, 340)
    assert found["tokenizer.ggml.token_type"][:3].tolist() == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert found["tokenizer.ggml.tokens"][339] == "[PAD339]"
    assert found["tokenizer.ggml.scores"].dtype == np.float32
