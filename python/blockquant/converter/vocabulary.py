"""The `tokenizer.*` metadata: the vocabulary of tokenizer.json or of a SentencePiece tokenizer.model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blockquant.converter.config import read_json
from blockquant.converter.pre_tokenizers import pre_tokenizer_name
from blockquant.converter.sentencepiece import read_pieces
from blockquant.converter.special_tokens import special_metadata, special_texts
from blockquant.errors import BlockquantError
from blockquant.token_types import TokenType

_ADDED_SCORE = -1000.0
_PADDING_SCORE = -10000.0
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
_SPACE_MARK = "▁"


def tokenizer_metadata(
    directory: Path,
    vocab_size: int,
    pre_tokenizer: str | None = None,
    config: Mapping[str, Any] | None = None,
    left_out: list[str] | None = None,
) -> dict[str, Any]:
    """All `tokenizer.*` keys of a Hugging Face directory, padded to the model's `vocab_size`.

    `pre_tokenizer` overrides the detected `tokenizer.ggml.pre` of a byte-level vocabulary. `config` is the model's,
    default the config.json of the directory. What has no place in the file is told in `left_out`. Raises ValueError
    when there is no tokenizer, it is of a kind GGUF cannot hold, or it has more tokens than the model.
    """
    path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if not path.is_file() and not model_path.is_file():
        raise BlockquantError(
            f"{directory}: no tokenizer.json in it; copy the tokenizer files beside config.json "
            "(tokenizer.save_pretrained() writes them)"
        )
    tokenizer = read_json(path, required=False)
    beyond: dict[int, str] = {}
    try:
        if model_path.is_file():
            found = _sentencepiece(directory, tokenizer, _Vocabulary(model_path, vocab_size, beyond))
        else:
            found = _of_tokenizer_json(directory, tokenizer, path, vocab_size, pre_tokenizer, beyond)
        found |= special_metadata(directory, tokenizer, vocab_size, config)
    except RecursionError:
        raise BlockquantError(f"{path}: its steps are nested too deeply") from None
    if beyond and left_out is not None:
        first = min(beyond)
        left_out.append(
            f"{len(beyond)} added tokens, of which the first is {beyond[first]!r:.60} with id {first}: config.json's "
            f"vocab_size is {vocab_size}"
        )
    return found


def _of_tokenizer_json(
    directory: Path,
    tokenizer: Mapping[str, Any],
    path: Path,
    vocab_size: int,
    pre_tokenizer: str | None,
    beyond: dict[int, str],
) -> dict[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise BlockquantError(
            f"{path}: a tokenizer of type {kind!r}; only BPE (byte-level or with byte fallback) is read"
        )
    if model.get("byte_fallback"):
        return _byte_fallback(directory, tokenizer, _Vocabulary(path, vocab_size, beyond))
    return _byte_level(directory, tokenizer, _Vocabulary(path, vocab_size), pre_tokenizer)


class _Vocabulary:
    """Tokens by id while they are collected; ids without a token become unused padding.

    An added token with an id that the model has not is left out and listed in `beyond` where there is such a list; else
    it is an error, as for any other token.
    """

    def __init__(self, path: Path, size: int, beyond: dict[int, str] | None = None) -> None:
        self._path = path
        self._beyond = beyond
        self.texts = [f"[PAD{i}]" for i in range(size)]
        self.types = np.full(size, TokenType.UNUSED, np.int32)
        self.scores = np.full(size, _PADDING_SCORE, np.float32)

    def set(self, token: object, text: object, kind: TokenType, score: float = _ADDED_SCORE) -> None:
        if type(token) is not int or not isinstance(text, str) or token < 0:
            raise BlockquantError(f"{self._path}: token {text!r:.60} has the id {token!r:.60}")
        if token >= len(self.texts):
            raise BlockquantError(
                f"{self._path}: token {text!r:.60} has id {token} and config.json's vocab_size is {len(self.texts)}; "
                "the tokenizer belongs to another model"
            )
        self.texts[token], self.types[token], self.scores[token] = text, kind, score

    def set_added(self, token: object, text: object, special: bool) -> None:
        """A token outside the merges: control if special, else user defined (its spaces written plainly)."""
        if special or (isinstance(text, str) and _looks_special(text)):
            self.add(token, text, TokenType.CONTROL)
        else:
            plain = text.replace(_SPACE_MARK, " ") if isinstance(text, str) else text
            self.add(token, plain, TokenType.USER_DEFINED)

    def add(self, token: object, text: object, kind: TokenType) -> None:
        if self._beyond is not None and type(token) is int and token >= len(self.texts) and isinstance(text, str):
            self._beyond[token] = text
        else:
            self.set(token, text, kind)

    def set_all_added(self, directory: Path, tokenizer: Mapping[str, Any], start: int = 0) -> None:
        """The added tokens of tokenizer.json with ids from `start`, and all of tokenizer_config.json."""
        special = special_texts(directory)
        entries = tokenizer.get("added_tokens")
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, Mapping):
                raise BlockquantError(f"{self._path}: an added token is {entry!r:.60}")
            token, text = entry.get("id"), entry.get("content")
            if not (isinstance(token, int) and token < start):
                self.set_added(token, text, bool(entry.get("special")) or (isinstance(text, str) and text in special))
        declared = read_json(directory / "tokenizer_config.json", required=False).get("added_tokens_decoder")
        for token, entry in declared.items() if isinstance(declared, Mapping) else ():
            if isinstance(entry, Mapping) and str(token).isdecimal():
                text = entry.get("content")
                is_special = bool(entry.get("special")) or (isinstance(text, str) and text in special)
                self.set_added(int(token), text, is_special)


def _looks_special(text: str) -> bool:
    """Control tokens that some checkpoints forget to mark as special."""
    if text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return any(text.startswith(start) and text.endswith(end) for start, end in ends)


def _base_vocabulary(path: Path, tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise BlockquantError(f"{path}: no vocabulary in it")
    return vocabulary


def _merges(path: Path, tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merge pairs of either spelling: "a b" strings or [a, b] lists."""
    merges = tokenizer["model"].get("merges")
    pairs: list[tuple[str, str]] = []
    for merge in merges if isinstance(merges, list) else ():
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise BlockquantError(f"{path}: {merge!r:.60} is no pair of tokens to merge")
        pairs.append((pair[0], pair[1]))
    return pairs


def _byte_level(
    directory: Path, tokenizer: Mapping[str, Any], vocabulary: _Vocabulary, pre_tokenizer: str | None
) -> dict[str, Any]:
    """GPT-2 style BPE over bytes (Llama 3, Qwen)."""
    path = directory / "tokenizer.json"
    for text, token in _base_vocabulary(path, tokenizer).items():
        vocabulary.set(token, text, TokenType.NORMAL)
    vocabulary.set_all_added(directory, tokenizer)
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer or pre_tokenizer_name(tokenizer),
        "tokenizer.ggml.tokens": vocabulary.texts,
        "tokenizer.ggml.token_type": vocabulary.types,
    }
    # A space separates the pair, so one inside a token is written as the byte-level alphabet writes it.
    merges = [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in _merges(path, tokenizer)]
    if merges:
        found["tokenizer.ggml.merges"] = merges
    return found


def _spm_metadata(directory: Path, tokenizer: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any]:
    return {
        **_space_prefix(directory, tokenizer),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": vocabulary.texts,
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.token_type": vocabulary.types,
    }


def _space_prefix(directory: Path, tokenizer: Mapping[str, Any]) -> dict[str, bool]:
    """`add_space_prefix` where the files say it, or where tokenizer.json puts no space before the text."""
    declared = read_json(directory / "tokenizer_config.json", required=False).get("add_prefix_space")
    if isinstance(declared, bool):
        return {"tokenizer.ggml.add_space_prefix": declared}
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    if isinstance(splitter, Mapping) and splitter.get("type") == "Metaspace":
        return {"tokenizer.ggml.add_space_prefix": False} if splitter.get("prepend_scheme") == "never" else {}
    if isinstance(normalizer, Mapping) and splitter is None:
        steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
        kinds = [step.get("type") for step in (steps if isinstance(steps, list) else ()) if isinstance(step, Mapping)]
        return {} if "Prepend" in kinds else {"tokenizer.ggml.add_space_prefix": False}
    return {}


def _byte_fallback(directory: Path, tokenizer: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any]:
    """SentencePiece BPE from tokenizer.json alone (Llama 2, TinyLlama).

    SentencePiece merges the pair whose result scores highest, tokenizer.json the pair that stands first: the score of a
    token is minus the rank of the first merge that makes it. (llama.cpp's converter gives every token -1000 here, with
    which text is split in other places than the tokenizer splits it.)
    """
    path = directory / "tokenizer.json"
    ranks: dict[str, int] = {}
    for left, right in _merges(path, tokenizer):
        ranks.setdefault(left + right, len(ranks))
    unknown = tokenizer["model"].get("unk_token")
    for text, token in _base_vocabulary(path, tokenizer).items():
        kind = TokenType.BYTE if _BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL
        kind = TokenType.UNKNOWN if text == unknown else kind
        vocabulary.set(token, text, kind, 0.0 - ranks[text] if text in ranks else _ADDED_SCORE)
    vocabulary.set_all_added(directory, tokenizer)
    return _spm_metadata(directory, tokenizer, vocabulary)


def _sentencepiece(directory: Path, tokenizer: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any]:
    """SentencePiece BPE from its own file, with the added tokens of the files beside it."""
    pieces = read_pieces(directory / "tokenizer.model")
    for token, piece in enumerate(pieces):
        # A user-defined piece merges like any other in GGUF unless the tokenizer lists it as added.
        kind = TokenType.NORMAL if piece.kind == TokenType.USER_DEFINED else TokenType(piece.kind)
        vocabulary.set(token, piece.text, kind, piece.score)
    for text, token in read_json(directory / "added_tokens.json", required=False).items():
        vocabulary.add(token, text, TokenType.USER_DEFINED)
    vocabulary.set_all_added(directory, tokenizer, start=len(pieces))
    return _spm_metadata(directory, tokenizer, vocabulary)
