"""Names, sizes, sampling defaults and model cards as general.* metadata, against gguf-py's own reading of them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import convert_models
import numpy as np
import pytest
from blockquant import gguf
from blockquant.cli.convert import notes
from blockquant.converter import convert
from blockquant.converter.general import general_metadata, parse_name, sampling_metadata, size_label, title
from blockquant.converter.model_card import card_metadata, read_model_card
from hypothesis import given, settings
from hypothesis import strategies as st

PARTS = [
    "Qwen3", "Llama", "3.1", "v0.3", "7b1", "0.6B", "8x7B", "30B", "A3B", "128K", "mini", "small", "xl", "Instruct",
    "chat", "it", "2507", "bf16", "q4_0", "hf", "", "7B", "1.5b", "large", "iter2", "GPTQ", "1M", "lora", "v2",
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("gguf").Metadata


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("-".join).filter(bool),
    st.sampled_from(["", "meta-llama/", "./", "Qwen/"]),
    st.sampled_from([596_049_920, 8_030_261_248, 5_771_264, 30_532_122_624]),
)
def test_names_are_taken_apart_as_gguf_py_does(theirs: Any, name: str, organization: str, parameters: int) -> None:
    ours = parse_name(organization + name, parameters)
    found = (ours.full, ours.organization, ours.basename, ours.finetune, ours.version, ours.size_label)
    assert found == theirs.get_model_id_components(organization + name, parameters)
    assert title(name) == theirs.id_to_title(name)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**13))
def test_size_labels(parameters: int) -> None:
    gguf = pytest.importorskip("gguf")
    assert size_label(parameters) == gguf.size_label(parameters, parameters, 0, 0)


def test_size_label_examples() -> None:
    assert [size_label(n) for n in (260_032, 5_771_264, 596_049_920, 8_030_261_248)] == ["260K", "5.8M", "596M", "8.0B"]


def test_general_keys_come_from_the_card_then_the_config_then_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Tales-6M-Instruct-v2"
    folder.mkdir()
    found = general_metadata(folder, {}, {}, 5_771_264)
    assert found == {
        "general.name": "Tales 6M Instruct v2",
        "general.version": "v2",
        "general.finetune": "Instruct",
        "general.basename": "Tales",
        "general.size_label": "6M",
    }
    found = general_metadata(folder, {"_name_or_path": "some-body/Fables-7M"}, {"author": "me"}, 5_771_264)
    assert found["general.name"] == "Fables 7M"
    assert found["general.organization"] == "Some Body"
    assert found["general.author"] == "me"
    assert found["general.size_label"] == "7M"
    found = general_metadata(folder, {"_name_or_path": "/home/x/y"}, {"model_name": "Mine"}, 5_771_264)
    assert found["general.name"] == "Mine"


def test_sampling_defaults() -> None:
    found = sampling_metadata({"temperature": 1, "top_k": 20, "top_p": 0.8, "do_sample": True, "min_p": None})
    assert {key: (type(value), float(value)) for key, value in found.items()} == {
        "general.sampling.top_k": (np.int32, 20.0),
        "general.sampling.top_p": (np.float32, float(np.float32(0.8))),
        "general.sampling.temp": (np.float32, 1.0),
    }


@pytest.mark.parametrize("value", [3_000_000_000, -(2**31) - 1, math.inf, math.nan, 10**400, True, "20", [20]])
def test_sampling_defaults_that_do_not_fit_are_left_out(value: Any) -> None:
    assert sampling_metadata({"top_k": value, "top_p": 0.5}) == {"general.sampling.top_p": np.float32(0.5)}
    if not isinstance(value, int) or abs(value) > 2**40:
        assert sampling_metadata({"temperature": value}) == {}


CARDS = [
    "",
    "no head\n",
    "---\nlicense: mit\n",
    "---\nlicense: mit\n---\n# text\nlicense: gpl\n",
    "---\nlicense: [mit, apache-2.0]\ntags:\n- a\n- 'b c'\n- \"no\"\nlanguage: en # English\n---\n",
    "---\ntags: []\nmodel-index:\n- name: x\n  results:\n    - task:\n        type: y\nlanguage:\n  - de\n---\n",
    "---\nlicense_name: own\nlicense_link: 'LICENSE # 1'\nurl: https://example.org\nbase_model: Qwen/Qwen3-0.6B\n---\n",
    "---\nbase_model:\n- https://huggingface.co/a/b-v1.0\n- plain\ndatasets:\n- org/data\npipeline_tag: text\n---\n",
    "---\ntags: [a, b,\n  'c, d',\n]\nlicense: mit\ndatasets:\n  [\n    \"org/a\",\n    org/b\n  ]\n---\n",
    "---\nlicense_name: 'it''s mine'\nlicense_link: \"a\\\"b#c\" # where\nlicense: other\n---\n",
    "---\nlicense_name: a long\n  name here\nlicense : other\ntags: &t\n- a\nlanguage: *t\n---\n",
    "---\n\tlicense: mit\n\ttags:\n\t- a\n---\n",
    "---\nlicense_name: |\n  text\n  more\n---\n",
    "---\nextra_gated_prompt: >-\n  tags: in a text\n  of lines\nlicense: other\nlibrary_name: null\n---\n",
]


@pytest.mark.parametrize(
    ("head", "wanted", "told"),
    [
        ("license: ''\nlicense_name: \"\"\ntags: ['', b, ~]\nname: Null\nauthor:\n", {"tags": ["b"]}, False),
        (
            "version: 1.10\nlanguage: no\ntags: [1, 2.50, true]\n",
            {"tags": ["1", "2.50", "true"], "language": "no"},
            False,
        ),
        ("datasets:\n- name: x\n- org/z\nlanguage: [en, [fr]]\n", {"datasets": ["org/z"], "language": ["en"]}, False),
        ("license: {a: b}\n[1, 2]: x\n", {}, True),
        ("license: mit\nlicense: [\n", {"license": "mit"}, True),
        ("- a\n", {}, False),
        ("tags: *nothing\n", {}, True),
        ("tags: " + "[" * 100_000, {}, True),
        ("license: m\0it\n", {}, True),
        (
            "name: A: b\nlicense: mit\nauthor: @x\ntags:\n- a\n# c\n- b\nlicense_name: two\n  lines\n{{ card }}\n",
            {"license": "mit", "tags": ["a", "b"], "license_name": "two lines"},
            True,
        ),
    ],
)
def test_heads_of_model_cards(head: str, wanted: dict[str, Any], told: bool, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}---\n# text\n", "utf-8")
    left_out: list[str] = []
    found = read_model_card(tmp_path, left_out)
    version = {"version": "1.10"} if "1.10" in head else {}
    assert found == wanted | version
    assert [line.partition(": ")[0] for line in left_out] == ["the head of README.md (license, tags, ...)"] * told
    assert not any("\n" in line for line in left_out)
    card_metadata(found, 5_771_264)
    general_metadata(tmp_path, {}, found, 5_771_264)


def test_a_list_is_no_name(tmp_path: Path) -> None:
    found = general_metadata(tmp_path / "Some-7B", {}, {"name": ["a"], "author": ["b", "c"]}, 5_771_264)
    assert found["general.name"] == "Some 7B"
    assert "general.author" not in found


def test_without_pyyaml_the_card_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    source = convert_models.qwen3(tmp_path)
    done = convert(source, tmp_path / "out.gguf")
    assert "general.license" not in gguf.open(tmp_path / "out.gguf").metadata
    needs = "this needs the 'PyYAML' package: pip install 'blockquant[convert]'"
    assert done.left_out == (f"the head of README.md (license, tags, ...): {needs}",)
    assert notes(done) == [f"left out: {done.left_out[0]}"]


@pytest.mark.parametrize("card", CARDS)
def test_model_cards_are_read_as_gguf_py_does(theirs: Any, card: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(card, "utf-8")
    metadata = theirs.load(None, folder, None, 5_771_264)

    class Recorder:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def __getattr__(self, name: str) -> Any:
            return lambda *args: self.calls.append((name.removeprefix("add_"), *args))

    recorder = Recorder()
    metadata.size_label = metadata.size_label or "5.8M"
    metadata.set_gguf_meta_model(recorder)
    wanted = {}
    for name, *args in recorder.calls:
        kind = next((k for k in ("base_model", "dataset") if name.startswith(k + "_")), None)
        if kind and len(args) == 2:
            wanted[f"general.{kind}.{args[0]}.{name.removeprefix(kind + '_')}"] = args[1]
        elif kind:
            wanted[f"general.{kind}.count"] = args[0]
        else:
            key = name.replace("license_", "license.").replace("source_", "source.", 1)
            wanted[f"general.{key}"] = args[0]
    found = read_model_card(folder)
    ours = {**general_metadata(folder, {}, found, 5_771_264), **card_metadata(found, 5_771_264)}
    # gguf-py writes the count of an empty list and keys without a value; a file does not need them.
    assert ours == {key: value for key, value in wanted.items() if value not in (None, [], 0)}
