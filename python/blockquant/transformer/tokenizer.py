"""Text to token ids and back, from the metadata of a GGUF file alone."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from blockquant.errors import BlockquantError, MissingExtraError
from blockquant.token_types import TokenType
from blockquant.transformer.keys import Keys
from blockquant.transformer.pretokenizers import PRETOKENIZERS, PreTokenizer
from blockquant.transformer.spm import SPACE, SpmMerger

# Files do not list every token that ends a turn, so these are recognised by their text.
_END_TEXTS = (
    *(
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|endoftext|>",
        "<|end_of_text|>",
    ),
    *("<end_of_turn>", "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<turn|>", "<end_of_utterance>"),
    *("<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Unicode's white space, which Python's str.strip() takes a few control characters for as well. transformers drops all
# of it after Phi-3's special tokens, llama.cpp what is ASCII.
_WHITE_SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_LONG_TEXT = 100_000  # characters from which a faster call pays that starts threads
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_SURROGATE = re.compile("[\ud800-\udfff]")  # in the text of a token: a byte that is not UTF-8


class Tokenizer:
    """The vocabulary of a GGUF file: byte-level BPE (`gpt2`) or SentencePiece-style merging (`llama`).

    Results are llama.cpp's: no Unicode normalization is applied, and special tokens are recognised in text only when
    asked. `metadata` is the file's. Raises ValueError when it holds no vocabulary, one of an unsupported kind, or a
    key of the wrong type.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        keys = Keys(metadata, "tokenizer.ggml")
        self.model: str = keys.optional("model", str) or ""
        tokens = keys.array("tokens", str)
        if not self.model or not tokens:
            raise BlockquantError("the file has no vocabulary (tokenizer.ggml.model, tokenizer.ggml.tokens)")
        if self.model not in ("gpt2", "llama"):
            raise BlockquantError(f"tokenizer model {self.model!r} is not supported; supported: 'gpt2', 'llama'")
        self.tokens: list[str] = tokens
        size = len(self.tokens)
        types, scores = keys.array("token_type", int), keys.array("scores", float)
        for name, array in (("token_type", types), ("scores", scores)):
            if array is not None and len(array) < size:
                raise BlockquantError(f"tokenizer.ggml.{name} has {len(array)} entries for {size} tokens")
        self._types: list[int] = types[:size] if types is not None else [TokenType.NORMAL] * size
        self._ids: dict[str, int] = {token: i for i, token in enumerate(self.tokens)}

        is_bpe = self.model == "gpt2"
        pre = self._pretokenizer(keys.optional("pre", str)) if is_bpe else None

        def token_id(key: str, default: int | None = None) -> int | None:
            value = keys.optional(key, int)
            if value is None and default is not None and default < size and self._types[default] != TokenType.NORMAL:
                value = default  # llama.cpp's, unless it is a word
            return value if value is not None and 0 <= value < size else None

        def flag(key: str, default: bool) -> bool:
            value = keys.optional(key, bool)
            return default if value is None else value

        self.bos_id = token_id("bos_token_id", 11 if is_bpe else 1)
        self.eos_id = token_id("eos_token_id", 11 if is_bpe else 2)
        unknown = token_id("unknown_token_id", None if is_bpe else 0)
        self.add_bos = flag("add_bos_token", pre.add_bos if pre else True) and self.bos_id is not None
        self.add_eos = flag("add_eos_token", False) and self.eos_id is not None
        self._space_prefix = not is_bpe and flag("add_space_prefix", True)
        # A word that merging makes is no end of a turn, even if it looks like one ("</s>" among HTML, in Qwen's).
        merges = keys.array("merges", str) if is_bpe else None
        words = {merge.replace(" ", "") for merge in merges or ()}
        ends = [token_id(key) for key in _END_KEYS] + [self._ids.get(text) for text in _END_TEXTS if text not in words]
        self.end_ids = frozenset({i for i in (*ends, self.eos_id) if i is not None})

        # Special tokens are cut out of the text before anything else, the longest first. Those that end a turn count
        # as control tokens whatever the file calls them.
        control = {i for i, t in enumerate(self._types) if t in (TokenType.CONTROL, TokenType.UNKNOWN)} | self.end_ids
        special = control | {i for i, t in enumerate(self._types) if t == TokenType.USER_DEFINED}
        special = {i for i in special if self.tokens[i]}
        self._hidden = control
        self._special = sorted(special, key=lambda i: (-len(_bytes(self.tokens[i])), i))
        # Phi-3 swallows white space after its special tokens; the file does not say so except by its name.
        name = str(metadata.get("general.name", "")).lower()
        strips = any(word in name for word in ("phi-3", "phi3"))
        kept = {"<unk>", "<s>", "<|endoftext|>"}
        self._strips_right = {i for i in special if strips and self.tokens[i] not in kept}

        if not is_bpe:
            for i, kind in enumerate(self._types):
                if kind == TokenType.BYTE and not _BYTE.fullmatch(self.tokens[i]):
                    raise BlockquantError(
                        f"token {i} is a byte written {self.tokens[i]!r}; expected '<0x00>' to '<0xFF>'"
                    )
        self._pieces: list[bytes | None] = [None] * size
        self._split: Callable[[str], list[int]]
        if pre is not None:
            self._split = self._build_bpe(merges, pre)
        else:
            values = scores if scores is not None else [0.0] * size
            byte_ids = [self._ids.get(f"<0x{b:02X}>", -1) for b in range(256)]
            merger = SpmMerger(self._ids, values, byte_ids, 0 if unknown is None else unknown)
            self._split = lambda text: merger.encode(text.replace(" ", SPACE))

    @staticmethod
    def _pretokenizer(name: str | None) -> PreTokenizer:
        entry = PRETOKENIZERS.get(name or "default")
        if entry is None:
            raise BlockquantError(
                f"pre-tokenizer {name!r} (tokenizer.ggml.pre) is not supported; "
                f"supported: {', '.join(sorted(PRETOKENIZERS))}"
            )
        return entry

    def _build_bpe(self, merges: list[str] | None, pre: PreTokenizer) -> Callable[[str], list[int]]:
        try:
            from tokenizers import Regex, models, pre_tokenizers
            from tokenizers import Tokenizer as HfTokenizer
        except ImportError:
            raise MissingExtraError("tokenizers", "run") from None
        if merges is None:
            raise BlockquantError("the file has a byte-level BPE vocabulary but no tokenizer.ggml.merges")
        words = {token: i for token, i in self._ids.items() if not _SURROGATE.search(token)}
        pairs = []
        for merge in merges:
            left, _, right = merge[1:].partition(" ")
            left = merge[:1] + left
            if left in words and right in words and left + right in words:
                pairs.append((left, right))
        inner = HfTokenizer(models.BPE(words, pairs, ignore_merges=pre.ignore_merges))
        splits: list[Any] = [pre_tokenizers.Split(Regex(e), "isolated") for e in pre.expressions]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])

        def split(text: str) -> list[int]:
            try:
                if len(text) < _LONG_TEXT:
                    return list(inner.encode(text, add_special_tokens=False).ids)
                return list(inner.encode_batch_fast([text], add_special_tokens=False)[0].ids)
            except BaseException as error:
                # Rust's panic has no other name, and is no Exception.
                if type(error).__name__ != "PanicException":
                    raise
            raise BlockquantError(
                f"the text cannot be split into words: {len(text)} characters with too long a run of white space"
            )

        return split

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({self.model}, {len(self)} tokens)"

    def token_to_id(self, text: str) -> int | None:
        """The id of the token whose vocabulary text is exactly `text`, or None."""
        return self._ids.get(text)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        add_special: add the tokens that the file puts before and after a text (BOS, EOS).
        parse_special: read control tokens written in the text (as chat templates do) as those tokens; otherwise
            their characters are tokenized like any other text.

        Raises ValueError for text that is not Unicode, or with more than ten million white-space characters in a row.
        """
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise BlockquantError(
                f"the text holds a lone surrogate at character {e.start}: not valid Unicode"
            ) from None
        out: list[int] = []
        if add_special and self.add_bos:
            assert self.bos_id is not None
            out.append(self.bos_id)
        after_special = True
        for part in self._partition(text, parse_special):
            if isinstance(part, int):
                out.append(part)
                after_special = True
            else:
                prefix = " " if self._space_prefix and after_special else ""
                out.extend(self._split(prefix + part))
                after_special = False
        if add_special and self.add_eos:
            assert self.eos_id is not None
            out.append(self.eos_id)
        return out

    def _partition(self, text: str, parse_special: bool) -> list[str | int]:
        parts: list[str | int] = [text] if text else []
        for token in self._special:
            if token in self._hidden and not parse_special:
                continue
            word = self.tokens[token]
            if word not in text:
                continue
            split: list[str | int] = []
            for part in parts:
                if isinstance(part, int):
                    split.append(part)
                    continue
                pieces = part.split(word)
                for i, piece in enumerate(pieces):
                    if i > 0:
                        split.append(token)
                        if token in self._strips_right:
                            piece = piece.lstrip(_WHITE_SPACE)
                    if piece:
                        split.append(piece)
            parts = split
        return parts

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; b"" for control and unused tokens. They need not be whole characters."""
        found = self._pieces[self._check(token)]
        if found is None:
            found = self._pieces[token] = b"" if token in self._hidden else self._spell(token)
        return found

    def _spell(self, token: int) -> bytes:
        text, kind = self.tokens[token], self._types[token]
        if kind == TokenType.USER_DEFINED or token in self._hidden:
            return _bytes(text)
        if kind == TokenType.NORMAL and self.model == "llama":
            return _bytes(text.replace(SPACE, " "))
        if kind == TokenType.NORMAL:
            return b"".join(_BYTE_OF_CHAR.get(c) or _bytes(c) for c in text)
        if kind == TokenType.BYTE and self.model == "llama":
            return bytes.fromhex(text[3:5])
        return b""  # unused ones and those of no type print nothing, as in llama.cpp

    def _check(self, token: int) -> int:
        if not 0 <= token < len(self.tokens):
            raise BlockquantError(f"token id {token} is outside the vocabulary of {len(self.tokens)} tokens")
        return token

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of a sequence of token ids. Bytes that form no character become U+FFFD.

        skip_special: leave out control tokens instead of writing their text.
        """
        sequence: Sequence[int] = [self._check(int(i)) for i in ids]
        raw = b"".join(map(self.piece if skip_special else self._spell, sequence))
        starts_text = bool(sequence) and (skip_special or sequence[0] not in self._hidden)
        if self._space_prefix and starts_text and raw.startswith(b" "):
            raw = raw[1:]  # the space that encode() put there
        return raw.decode("utf-8", "replace")


class TextStream:
    """Turns token after token into text, holding back bytes that are only part of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes; may be empty."""
        return self._decoder.decode(self._tokenizer.piece(token))


def _bytes(text: str) -> bytes:
    """Of a token's text, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _byte_alphabet() -> dict[str, bytes]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(printable)]
    return {chr(b): bytes([b]) for b in printable} | {chr(256 + i): bytes([b]) for i, b in enumerate(rest)}


_BYTE_OF_CHAR = _byte_alphabet()
