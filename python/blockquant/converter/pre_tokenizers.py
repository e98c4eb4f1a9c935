r"""Which of GGUF's named pre-tokenizers a tokenizer.json splits its text with.

A GGUF file does not hold the splitting regex, only a name that llama.cpp knows (`tokenizer.ggml.pre`). llama.cpp's
converter finds the name by hashing the ids of a fixed text, which works for the tokenizers it has met; here the name
comes from the splitting steps themselves, so a newly trained vocabulary of a known kind is recognized too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockquant.errors import BlockquantError

Steps = tuple[str, ...]

_BYTES = "bytes"
_GPT2 = "bytes+gpt2-regex"
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER_LOWER = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_PATH_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_CJK_OLD = "[一-龥ࠀ-一가-퟿]+"
_CJK_NEW = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"

_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_TEKKEN = rf"{_UPPER_LOWER[0]}|{_UPPER_LOWER[1]}|\p{{N}}|{_PATH_SYMBOLS}|{_SPACES}"
_GPT4O = rf"{_UPPER_LOWER[0]}{_CONTRACTION}?|{_UPPER_LOWER[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_PATH_SYMBOLS}|{_SPACES}"
_DEEPSEEK3 = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"

# Splitting steps -> name. Where llama.cpp knows a regex under several names, the plainest is taken.
_NAMES: dict[Steps, str] = {
    (_QWEN2, _BYTES): "qwen2",
    (_LLAMA3, _BYTES): "llama-bpe",
    (_GPT2,): "gpt-2",
    ("digits", _GPT2): "smollm",
    (_QWEN35, _BYTES): "qwen35",
    (_SEED, _BYTES): "seed-coder",
    (_TEKKEN, _BYTES): "tekken",
    (_GPT4O, _BYTES): "gpt-4o",
    (r"\p{N}{1,3}", _CJK_NEW, _DEEPSEEK3, _BYTES): "deepseek-v3",
    ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_OLD, "digits", _BYTES): "deepseek-coder",
}


def _canonical(regex: str) -> str:
    """One spelling for a regex: control characters written as escapes, the alternation without an outer group."""
    for plain, escaped in (("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t")):
        regex = regex.replace(plain, escaped)
    return regex


_CANONICAL_NAMES: dict[Steps, str] = {tuple(map(_canonical, steps)): name for steps, name in _NAMES.items()}


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Steps:
    """The splitting steps of a tokenizer.json `pre_tokenizer`, flattened; what is not understood stays visible."""
    if not isinstance(pre_tokenizer, Mapping):
        return ()
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        parts = pre_tokenizer.get("pretokenizers")
        return tuple(step for part in (parts if isinstance(parts, list) else ()) for step in _steps(part))
    if kind == "ByteLevel":
        return (_GPT2 if pre_tokenizer.get("use_regex", True) else _BYTES,)
    if kind == "Digits":
        return ("digits" if pre_tokenizer.get("individual_digits") else "digit runs",)
    if kind == "Split":
        pattern = pre_tokenizer.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        # Isolating the matches and removing what lies between them are the same where the matches cover all text.
        usual = (pre_tokenizer.get("behavior"), pre_tokenizer.get("invert")) in (("Isolated", False), ("Removed", True))
        if isinstance(regex, str) and usual:
            return (_canonical(regex),)
    return (f"{kind} {dict(pre_tokenizer)}",)


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """`tokenizer.ggml.pre` of a byte-level BPE tokenizer.json. Raises ValueError when it has no known name."""
    steps = _steps(tokenizer.get("pre_tokenizer"))
    name = _CANONICAL_NAMES.get(steps)
    if name is None:
        shown = " then ".join(step if len(step) < 60 else step[:57] + "..." for step in steps) or "none"
        raise BlockquantError(
            f"tokenizer.json: its pre-tokenizer ({shown}) is none that GGUF has a name for; if llama.cpp knows it, "
            f"pass its name as pre_tokenizer=... (--pre-tokenizer); recognized are {', '.join(_NAMES.values())}"
        )
    model = tokenizer.get("model")
    if name == "llama-bpe" and not (isinstance(model, Mapping) and model.get("ignore_merges")):
        # The same split; "llama-bpe" also looks whole words up before merging, which this tokenizer does not.
        return "smaug-bpe"
    return name
