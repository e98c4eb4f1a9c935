"""Special token ids, whether BOS and EOS are added, and the chat template, from the files beside tokenizer.json."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blockquant.converter.config import read_json, read_text
from blockquant.errors import BlockquantError

# Role in Hugging Face's files -> role in GGUF's key (which misspells the separator).
_ROLES: dict[str, str] = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
_ADDABLE = ("bos", "eos", "sep")


def token_text(entry: object) -> str | None:
    """The text of a token in tokenizer_config.json and its like: a string, or an object with `content`."""
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    return text if isinstance(text, str) else None


def special_texts(directory: Path) -> set[str]:
    """Texts that tokenizer_config.json and special_tokens_map.json call special, whatever tokenizer.json says."""
    found: set[str] = set()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = read_json(directory / name, required=False)
        for key, value in values.items():
            if key in ("additional_special_tokens", "extra_special_tokens"):
                entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
                found.update(text for entry in entries if (text := token_text(entry)))
            elif key.endswith("_token") and (text := token_text(value)):
                found.add(text)
    return found


def _templates(processor: object) -> Iterator[Mapping[str, Any]]:
    """The post-processors of a tokenizer.json, flattened."""
    if isinstance(processor, Mapping):
        if processor.get("type") == "Sequence":
            for part in _list(processor, "processors"):
                yield from _templates(part)
        else:
            yield processor


def _edge_token(template: object, last: bool) -> str | None:
    """The special token that a template puts first or last, if it does."""
    if not isinstance(template, list) or len(template) < 2:
        return None
    piece = template[-1 if last else 0]
    entry = piece.get("SpecialToken") if isinstance(piece, Mapping) else None
    text = entry.get("id") if isinstance(entry, Mapping) else None
    return text if isinstance(text, str) else None


def special_metadata(
    directory: Path, tokenizer: Mapping[str, Any], vocab_size: int, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`tokenizer.ggml.*_token_id`, `tokenizer.ggml.add_*_token` and `tokenizer.chat_template`, in llama.cpp's order.

    Ids that no other file gives come from `config`, default the config.json of the directory.
    """
    declared = read_json(directory / "tokenizer_config.json", required=False)
    texts = {role: token_text(declared.get(f"{role}_token")) for role in (*_ROLES, "cls")}
    texts["bos"] = texts["bos"] or texts["cls"]
    texts["eos"] = texts["eos"] or texts["sep"]
    roles = [role for role in _ROLES if role not in ("eot", "eom")]
    added: dict[str, bool] = {}
    for processor in _templates(tokenizer.get("post_processor")):
        if processor.get("type") == "ByteLevel":
            added.setdefault("bos", False)
            added.setdefault("eos", False)
        elif processor.get("type") == "TemplateProcessing":
            if first := _edge_token(processor.get("single"), last=False):
                # A first token that is neither BOS nor CLS is the CLS of a tokenizer that does not declare one.
                texts["bos"] = texts["bos"] or first
                texts["cls"] = texts["cls"] or first
                added["bos"] = first in (texts["bos"], texts["cls"])
            if final := _edge_token(processor.get("single"), last=True):
                if texts["eos"] and texts["eos"] != final:
                    # What ends a text is the end token; the declared one then ends a turn.
                    texts["eot"] = texts["eos"]
                    roles.append("eot")
                texts["eos"], added["eos"] = final, True

    ids: dict[str, int] = {}
    by_text = {
        entry["content"]: entry.get("id")
        for entry in _list(tokenizer, "added_tokens")
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str)
    }
    if config is None:
        config = read_json(directory / "config.json", required=False)
    for role in roles:
        flag = declared.get(f"add_{role}_token")
        if role in _ADDABLE and isinstance(flag, bool):
            added.setdefault(role, flag)
        token = by_text.get(texts[role]) if texts[role] else None
        if type(token) is int and 0 <= token < vocab_size:
            ids[role] = token
    text = config.get("text_config")
    for role in roles:
        token = config.get(f"{role}_token_id")
        if token is None and isinstance(text, Mapping):
            token = text.get(f"{role}_token_id")
        if role not in ids and type(token) is int and 0 <= token < vocab_size:
            ids[role] = token

    found: dict[str, Any] = {f"tokenizer.ggml.{_ROLES[role]}_token_id": token for role, token in ids.items()}
    found.update({f"tokenizer.ggml.add_{role}_token": value for role, value in added.items()})
    found.update(chat_template_metadata(directory, declared))
    return found


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values.get(key)
    return value if isinstance(value, list) else []


def chat_template_metadata(directory: Path, declared: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template: tokenizer_config.json's own, else chat_template.jinja, else chat_template.json.

    Raises ValueError when it is neither a string nor a list of named templates.
    """
    template: Any = declared.get("chat_template")
    jinja = directory / "chat_template.jinja"
    if template is None and jinja.is_file():
        template = read_text(jinja)
        more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        if more:
            template = [{"name": "default", "template": template}]
            template += [{"name": path.stem, "template": read_text(path)} for path in more]
    elif template is None:
        template = read_json(directory / "chat_template.json", required=False).get("chat_template")
    if template is None:
        return {}
    if isinstance(template, str):
        return {"tokenizer.chat_template": template} if template else {}
    if not isinstance(template, list) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in template
    ):
        raise BlockquantError(f"{directory}: the chat template is neither a text nor a list of named texts")
    allowed = string.ascii_letters + string.digits
    named = {"".join(c if c in allowed else "_" for c in entry["name"]): entry["template"] for entry in template}
    default = named.pop("default", None)
    found: dict[str, Any] = {f"tokenizer.chat_template.{name}": text for name, text in named.items() if name}
    if named:
        found["tokenizer.chat_templates"] = list(named)
    if default:
        found["tokenizer.chat_template"] = default
    return found
