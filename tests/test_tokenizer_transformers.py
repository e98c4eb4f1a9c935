"""Tokenizers and chat templates against transformers, on real vocabularies: GPT-2's, Qwen2's, Llama's and Phi-3's.

Each vocabulary becomes a Hugging Face directory of the kind that the model's publishers made, which transformers reads;
our converter makes metadata of it, which our tokenizer reads. Llama 3's and Gemma's classes stand on the vocabularies
of Qwen2 and Llama, because theirs are not free to copy: their splitting, normalizing and added tokens are what differs.
"""

from __future__ import annotations

import lzma
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert_models
import pytest
from blockquant import gguf
from blockquant.converter.vocabulary import tokenizer_metadata
from blockquant.token_types import TokenType
from blockquant.transformer import Tokenizer
from blockquant.transformer.chat import render_chat

DATA = Path(__file__).parent / "data" / "vocab"
Json = dict[str, Any]


def vocabulary(name: str, folder: Path) -> Json:
    """The metadata of one of llama.cpp's test vocabularies."""
    path = DATA / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        packed, path = path, folder / path.name
        path.write_bytes(lzma.decompress(packed.with_name(packed.name + ".xz").read_bytes()))
    with gguf.open(path) as file:
        return dict(file.metadata)


def special_entries(found: Json, **options: bool) -> list[Json]:
    """The vocabulary's added tokens as tokenizer.json lists them."""
    kinds = [int(kind) for kind in found["tokenizer.ggml.token_type"]]
    entries = []
    for i, (text, kind) in enumerate(zip(found["tokenizer.ggml.tokens"], kinds, strict=True)):
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            entries.append(convert_models.added(i, str(text), kind != TokenType.USER_DEFINED) | options)
    return entries


def byte_level(found: Json, regex: str | None, **model: Any) -> Json:
    """tokenizer.json of a byte-level vocabulary; without a regex ByteLevel's own."""
    made = convert_models.byte_level_tokenizer(regex or "", [], **model)
    entries = special_entries(found)
    added = {entry["id"] for entry in entries}
    tokens = enumerate(map(str, found["tokenizer.ggml.tokens"]))
    made["model"]["vocab"] = {text: i for i, text in tokens if i not in added and not text.startswith("[PAD")}
    made["model"]["merges"] = [str(merge) for merge in found["tokenizer.ggml.merges"]]
    if regex is None:
        made["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }
    return made | {"added_tokens": entries}


def sentencepiece(found: Json, entries: list[Json], prefix: bool = True) -> Json:
    """tokenizer.json of a SentencePiece vocabulary, its merges in the order of the scores of what they make."""
    made = convert_models.byte_fallback_tokenizer()
    tokens = [str(text) for text in found["tokenizer.ggml.tokens"]]
    ids = {text: i for i, text in enumerate(tokens)}
    merges = []
    for i, text in enumerate(tokens):
        if found["tokenizer.ggml.token_type"][i] == TokenType.NORMAL:
            score = float(found["tokenizer.ggml.scores"][i])
            splits = [(text[:at], text[at:]) for at in range(1, len(text))]
            merges += [(-score, ids[a], ids[b], f"{a} {b}") for a, b in splits if a in ids and b in ids]
    made["model"] |= {"vocab": ids, "merges": [merge for *_, merge in sorted(merges)]}
    if not prefix:
        made["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return made | {"added_tokens": entries}


def gpt2(folder: Path) -> tuple[Json, Json]:
    return byte_level(vocabulary("gpt-2", folder), None), {"tokenizer_class": "GPT2Tokenizer"}


def qwen2(folder: Path) -> tuple[Json, Json]:
    made = byte_level(vocabulary("qwen2", folder), convert_models.QWEN2_REGEX)
    return made | {"normalizer": {"type": "NFC"}}, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}


def llama3(folder: Path) -> tuple[Json, Json]:
    made = byte_level(vocabulary("qwen2", folder), convert_models.LLAMA3_REGEX, ignore_merges=True)
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}


def llama(folder: Path) -> tuple[Json, Json]:
    found = vocabulary("llama-spm", folder)
    declared = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return sentencepiece(found, special_entries(found)), {**declared, "add_bos_token": True}


def phi3(folder: Path) -> tuple[Json, Json]:
    found = vocabulary("phi-3", folder)
    entries = special_entries(found, rstrip=True)
    for entry in entries:
        entry["rstrip"] = entry["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    made = sentencepiece(found, entries)
    made["model"]["vocab"] = {t: i for t, i in made["model"]["vocab"].items() if i < 32000}
    declared = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
    return made, {**declared, "unk_token": "<unk>", "add_bos_token": False}


def gemma(folder: Path) -> tuple[Json, Json]:
    found = vocabulary("llama-spm", folder)
    entries = special_entries(found)
    ids = {str(text): i for i, text in enumerate(found["tokenizer.ggml.tokens"])}
    texts = ["<start_of_turn>", "<end_of_turn>"]
    texts += [f"user:{text}" for text in ("\n\n", "\n\n\n", "\t\t", "<table>", "▁▁", "▁▁▁▁")]
    for text in texts:
        plain = text.removeprefix("user:")
        # Like Gemma's, runs of spaces are normalized before they are looked for.
        entry = convert_models.added(ids.setdefault(plain, len(ids)), plain, plain == text)
        entries.append(entry | {"normalized": "▁" in plain})
    made = sentencepiece(found, entries, prefix=False)
    declared = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return made, {**declared, "add_bos_token": True}


CLASSES: dict[str, Callable[[Path], tuple[Json, Json]]] = {
    made.__name__: made for made in (gpt2, qwen2, llama3, llama, phi3, gemma)
}
LARGE = ("qwen2", "llama3")  # take transformers ten seconds to read

PIECES = (
    *(
        "Hello",
        " world",
        "don't",
        "WE'LL",
        "I'M",
        "naïve",
        "Straße",
        "İstanbul",
        "ǅ",
        "日本語",
        "テスト",
        "한국어",
        "ไทย",
    ),
    *("русский", "עברית", "العربية", "हिन्दी", "ﬁ", "½", "²", "Ⅷ", "٣", "１２", "123456789", "3.14", "0x1F", "1,000"),
    *("🦙", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "\u200d", "\u200b", "\ufeff", "\u00a0", "\u3000", "\u2028", "\u0085"),
    *(
        "\x00",
        "\x01",
        "\x1b[0m",
        "\x7f",
        "\r",
        "\n",
        "\r\n",
        "\n\n\n",
        "\t",
        "\t\t",
        " ",
        "  ",
        "     ",
        " \n ",
        "\v\f",
    ),
    *("!!!", "...", "'s", "''", '"', "#include <x>", "a_b", "x->y", "</s>", "<s>", "<unk>", "<|im_end|>", "<|end|>"),
    *(
        "<|endoftext|>",
        "<start_of_turn>",
        "<table>",
        "<0x0A>",
        "▁",
        "▁▁",
        "Ġ",
        "�",
        "\U0010ffff",
        "𝕳𝖊𝖑𝖑𝖔",
        "ℵ₀",
        "…",
        "—",
    ),
)


def corpus() -> list[str]:
    chooser = random.Random(7)
    texts = ["", *PIECES, *(" " + piece for piece in PIECES), *(piece + " " for piece in PIECES)]
    texts += ["".join(chooser.choices(PIECES, k=chooser.randint(2, 12))) for _ in range(400)]
    texts.append((convert_models.Path(__file__).parent.parent / "README.md").read_text("utf-8"))
    return [unicodedata.normalize("NFC", text) for text in texts]  # GGUF has no normalizer


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in CLASSES]
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Tokenizer]:
    """A class, transformers' tokenizer and ours."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer, declared = CLASSES[request.param](folder)
    convert_models.write_json(folder / "tokenizer.json", tokenizer)
    convert_models.write_json(folder / "tokenizer_config.json", declared)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    size = max(theirs.get_vocab().values()) + 1
    metadata = tokenizer_metadata(folder, size, "llama-bpe" if request.param == "llama3" else None)
    metadata |= {"general.name": "Phi-3"} if request.param == "phi3" else {}
    return request.param, theirs, Tokenizer(metadata)


def test_ids_equal_transformers(both: tuple[str, Any, Tokenizer]) -> None:
    name, theirs, ours = both
    for text in corpus():
        if name == "gemma" and "▁" in text:
            continue  # GGUF writes the spaces of an added token plainly; "▁▁" typed as such is no longer that token
        wanted = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_special=False, parse_special=True) == wanted, (name, text[:80])


def test_llama_cpps_vectors_of_larger_vocabularies(tmp_path: Path) -> None:
    for name in ("phi-3", "qwen2"):
        tokenizer = Tokenizer(vocabulary(name, tmp_path))
        path = DATA / f"ggml-vocab-{name}.gguf"
        texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
        lines = Path(f"{path}.out").read_text().split("\n")
        assert len(texts) == len(lines) > 40
        for text, line in zip(texts, lines, strict=True):
            assert tokenizer.encode(text, add_special=False) == [int(i) for i in line.split()], (name, text)


CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": '  2 < 3 & "x"\n\n'}],
    [
        {"role": "user", "content": "naïve 🦙"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": "{{ braces }} {% if %}"},
    ],
]

# Written for this test after the shapes that published templates have: turns, trimming, namespaces, loop controls,
# slices from the end, macros, tests, filters, dates, refusals.
TEMPLATES = {
    "turns": """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m['content'] | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
    "thinking": """{%- set ns = namespace(last=messages|length - 1, seen=false) -%}
{%- for m in messages[::-1] -%}
  {%- set i = (messages|length - 1) - loop.index0 -%}
  {%- if not ns.seen and m.role == 'user' -%}{%- set ns.seen = true -%}{%- set ns.last = i -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- if m.content is string and '</think>' in m.content -%}
    {{- m.content.split('</think>')[-1].lstrip('\\n') -}}
  {%- elif loop.index0 > ns.last -%}{%- continue -%}
  {%- else -%}{{- bos_token if loop.first else '' -}}[{{ m.role | upper }}] {{ m.content | tojson }}
{% endif -%}
{%- endfor -%}{{- '[ASSISTANT]' if add_generation_prompt -}}""",
    "macros": """{% macro turn(m, name='?') %}<start_of_turn>{{ name }}
{{ m.content | trim }}<end_of_turn>
{% endmacro %}{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0].content %}
    {% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{% for m in rest %}{{ turn(m, 'model' if m.role == 'assistant' else m.role) }}{% endfor %}{{ first }}""",
    "undefined": "{% if tools is defined and tools %}tools{% else %}{{ tools }}none{% endif %}{{ eos_token }}",
    "training": "{% for m in messages %}{% generation %}{{ m.content }}|{% endgeneration %}{% endfor %}",
    "dates": "{{ strftime_now('%Y')[:2] }}{{ dict(a=1)['a'] }}",
    "tojson": "{{ messages | tojson(indent=2) }}{{ messages[0] | items | list | length }}",
    "refusal": "{% if messages | length > 2 %}{{ raise_exception('too long: ' ~ messages | length) }}{% endif %}ok",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The directory of a small tokenizer with <s> and </s>."""
    convert_models.write_json(tmp_path / "tokenizer.json", convert_models.byte_fallback_tokenizer())
    declared = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    convert_models.write_json(tmp_path / "tokenizer_config.json", declared)
    return tmp_path


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates_equal_transformers(name: str, small: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(small)
    ours = Tokenizer(tokenizer_metadata(small, len(theirs)))
    for messages in CONVERSATIONS:
        if name == "refusal" and len(messages) > 2:
            with pytest.raises(ValueError, match="too long: 3"):
                render_chat(TEMPLATES[name], messages, ours)
            continue
        wanted = theirs.apply_chat_template(
            messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
        )
        assert render_chat(TEMPLATES[name], messages, ours) == wanted


def test_chat_templates_are_in_a_sandbox(small: Path) -> None:
    ours = Tokenizer(tokenizer_metadata(small, 400))
    for attack in (
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{% for i in range(99999999999) %}{% endfor %}",
    ):
        with pytest.raises(ValueError, match="chat template fails"):
            render_chat(attack, CONVERSATIONS[0], ours)
