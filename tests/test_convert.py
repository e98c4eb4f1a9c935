"""Conversion against what llama.cpp's converter wrote (tests/data/convert), llama.cpp itself, and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert_families
import convert_models
import llamacpp
import numpy as np
import pytest
from blockquant import gguf
from blockquant.converter import convert
from blockquant.converter.families import families
from blockquant.converter.floats import to_bfloat16_bits, to_float32, to_format
from blockquant.converter.safetensors import SafetensorsFile
from blockquant.imatrix import Entry, Imatrix
from blockquant.quantizer import quantize_file
from record_convert import DATA, EXAMPLE, describe

TEXT = "The man said that he was in the house, and 1234 of them: \n\n it's on the hill. naïve 東京 🚀"


def expected(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", convert_families.CASES)
def test_files_equal_llama_cpps(name: str, tmp_path: Path) -> None:
    make, dtype, _ = convert_families.CASES[name]
    out = tmp_path / "out.gguf"
    convert(make(tmp_path), out, dtype)
    ours, theirs = describe(out), expected(name)
    if name == "bitnet":
        # The mean magnitude that weights are rounded by is a sum of floats, whose order is no fact of the format.
        for record in (ours, theirs):
            record.pop("file_sha256")
            for found in record["tensors"].values():
                found.pop()
    if name == "mistral":
        # From tokenizer.json alone llama.cpp gives every token the score -1000; ours are the ranks of the merges.
        for record in (ours, theirs):
            record["metadata"].pop("tokenizer.ggml.scores")
            record.pop("file_sha256")
    assert ours == theirs
    assert list(ours["metadata"]) == list(theirs["metadata"])
    assert list(ours["tensors"]) == list(theirs["tensors"])


def test_the_bundled_model_equals_llama_cpps(tmp_path: Path) -> None:
    result = convert(EXAMPLE, tmp_path / "out.gguf", "f16")
    assert describe(result.path) == expected("tales-6m")
    assert (result.architecture, result.dtype, result.tensors) == ("qwen3", "F16", 68)
    assert result.nbytes == result.path.stat().st_size


def test_auto_keeps_the_checkpoints_numbers(tmp_path: Path) -> None:
    convert(EXAMPLE, tmp_path / "auto.gguf", "auto")
    convert(EXAMPLE, tmp_path / "bf16.gguf")
    convert(EXAMPLE, tmp_path / "f32.gguf", "F32")
    assert (tmp_path / "auto.gguf").read_bytes() == (tmp_path / "bf16.gguf").read_bytes()
    source = SafetensorsFile(EXAMPLE / "model.safetensors").tensors["model.layers.1.mlp.up_proj.weight"]
    with gguf.open(tmp_path / "auto.gguf") as auto, gguf.open(tmp_path / "f32.gguf") as f32:
        name = "blk.1.ffn_up.weight"
        assert auto.metadata["general.file_type"] == 32
        assert f32.metadata["general.file_type"] == 0
        assert auto.tensors[name].data.tobytes() == source.data.tobytes()
        np.testing.assert_array_equal(f32.tensors[name], to_float32(source.data, "BF16"))


def test_llama_cpp_runs_the_bundled_model(tmp_path: Path) -> None:
    convert(EXAMPLE, tmp_path / "out.gguf", "f16")
    with llamacpp.Model(tmp_path / "out.gguf") as model:
        prompt = model.tokenize("Once upon a time")
        assert (model.bos, model.eos, model.n_vocab) == (0, 0, 4096)
        assert model.metadata("tokenizer.chat_template") is not None
        story = model.detokenize(model.greedy(prompt, 24))
    assert len(story.split()) > 10


# The vocabulary of Gemma and BitNet is Llama 2's with further tokens, which tests/test_tokenizer.py looks at.
@pytest.mark.parametrize("name", ["tales-6m", "llama3", "llama2", "mistral", "qwen3", "qwen2", "phi3", "phi4"])
def test_llama_cpp_tokenizes_as_the_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    directory = EXAMPLE if name == "tales-6m" else convert_families.CASES[name][0](tmp_path)
    convert(directory, tmp_path / "out.gguf")
    if not (directory / "tokenizer.json").is_file():
        # The directory has tokenizer.model alone; the same vocabulary as tokenizer.json is the reference.
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(convert_models.byte_fallback_tokenizer()))
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    words = (EXAMPLE / "eval.txt").read_text("utf-8")[:4000]
    with llamacpp.Model(tmp_path / "out.gguf") as model:
        for text in (TEXT, words, "x", "<|eot_id|> in <tool> the <|im_end|>and"):
            assert model.tokenize(text) == tokenizer.encode(text).ids, text[:40]


def test_a_bare_checkpoint_and_shards_give_the_same_tensors(tmp_path: Path) -> None:
    config = convert_models.base_config("Qwen3ForCausalLM", head_dim=32, tie_word_embeddings=True)
    tokenizer = convert_models.byte_level_tokenizer(convert_models.QWEN2_REGEX, ["<|endoftext|>"])
    whole = convert_models.write_model(tmp_path / "whole", config, "F32", tokenizer)
    shards = convert_models.write_model(tmp_path / "shards", config, "F32", tokenizer, shards=3)
    bare = convert_models.write_model(tmp_path / "bare", config, "F32", tokenizer)
    tensors = convert_models.weights(convert_models.layer_shapes(config), "F32")
    stripped = {name.removeprefix("model."): value for name, value in tensors.items()}
    (bare / "model.safetensors").write_bytes(convert_models.safetensors_bytes(stripped))
    found = []
    for directory in (whole, shards, bare):
        convert(directory, tmp_path / "out.gguf", "f32")
        with gguf.open(tmp_path / "out.gguf") as f:
            found.append({name: np.array(tensor) for name, tensor in f.tensors.items()})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for name, tensor in found[0].items():
            np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text("utf-8")) | changes
    convert_models.write_json(path, {key: value for key, value in config.items() if value is not ...})


def retensor(directory: Path, change: Callable[[convert_models.Tensors], Any]) -> None:
    config = json.loads((directory / "config.json").read_text("utf-8"))
    tensors = convert_models.weights(convert_models.layer_shapes(config), "F32")
    change(tensors)
    (directory / "model.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))


def retoken(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    change(tokenizer)
    convert_models.write_json(path, tokenizer)


def deepen(path: Path, key: str, inner: str) -> None:
    tokenizer = json.loads(path.read_text("utf-8"))
    step = f'{{"type": "Sequence", "{inner}": ['
    tokenizer[key] = "HERE"
    path.write_text(json.dumps(tokenizer).replace('"HERE"', step * 3000 + "]}" * 3000), "utf-8")


def recode(directory: Path) -> None:
    (directory / "tokenizer_config.json").unlink()
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


O_PROJ = "model.layers.1.self_attn.o_proj.weight"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json in it; give a Hugging Face model folder"),
    "bad config": (lambda d: (d / "config.json").write_text("{"), "config.json: not valid JSON"),
    "no object": (lambda d: (d / "config.json").write_text("[1]"), "expected a JSON object, found list"),
    "architecture": (
        lambda d: edit(d, architectures=["T5Model"]),
        "'T5Model' is not supported; supported are.*Qwen3For",
    ),
    "no architecture": (lambda d: edit(d, architectures=...), "architecture None is not supported"),
    "quantized": (lambda d: edit(d, quantization_config={"quant_method": "gptq"}), r"already quantized \(gptq\)"),
    "no hidden size": (lambda d: edit(d, hidden_size=...), "'hidden_size' must be a positive integer, found None"),
    "string layers": (lambda d: edit(d, num_hidden_layers="2"), "'num_hidden_layers' must be a positive integer"),
    "heads": (lambda d: edit(d, num_key_value_heads=3), "4 attention heads are not a multiple of 3 key-value heads"),
    "activation": (lambda d: edit(d, hidden_act="gelu"), "hidden_act 'gelu'"),
    "rope type": (lambda d: edit(d, rope_scaling={"type": "longrope"}), "rope type 'longrope'.*llama3"),
    "rope factor": (lambda d: edit(d, rope_scaling={"type": "linear"}), "'linear' needs the number 'factor'"),
    "partial rope": (lambda d: edit(d, rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    "no weights": (
        lambda d: (d / "model.safetensors").unlink(),
        "no model.safetensors or model.safetensors.index.json",
    ),
    "cut weights": (lambda d: truncate(d / "model.safetensors"), "it is truncated"),
    "empty weights": (lambda d: (d / "model.safetensors").write_bytes(b""), "0 bytes are too few"),
    "layers": (lambda d: edit(d, num_hidden_layers=2**31 - 1), "2147483647 layers need more tensors than the 21 of"),
    "many heads": (
        lambda d: edit(d, num_attention_heads=2**30, num_key_value_heads=2**30, head_dim=64),
        "1073741824 attention heads of 64 values are more than the longest dimension of the checkpoint, 312",
    ),
    "lacks one": (lambda d: retensor(d, lambda t: t.pop(O_PROJ)), f"lacks the tensor '{O_PROJ}' of a llama model"),
    "one more": (
        lambda d: retensor(d, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[O_PROJ]})),
        "'model.layers.2.mlp.up_proj.weight' belongs to no llama model with 2 layers",
    ),
    "bias": (
        lambda d: retensor(d, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": t["model.norm.weight"]})),
        "q_proj.bias' belongs to no llama model",
    ),
    "shape": (
        lambda d: retensor(d, lambda t: t.update({O_PROJ: ("F32", np.zeros((64, 32), np.float32))})),
        rf"'{O_PROJ}' has shape \[64, 32\], config.json makes it \[64, 64\]",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json in it; copy the tokenizer files"),
    "unigram": (lambda d: retoken(d, lambda t: t["model"].update(type="Unigram")), "a tokenizer of type 'Unigram'"),
    "splitting": (
        lambda d: retoken(d, lambda t: t["pre_tokenizer"]["pretokenizers"].pop(0)),
        "none that GGUF has a name for.*--pre-tokenizer.*qwen2",
    ),
    "vocabulary": (lambda d: edit(d, vocab_size=300), "shape.*config.json makes it"),
    "deep steps": (
        lambda d: deepen(d / "tokenizer.json", "post_processor", "processors"),
        "tokenizer.json: (its steps are nested too deeply|not valid JSON)",
    ),
    "token text": (
        lambda d: retoken(d, lambda t: t["added_tokens"][0].update(content=["x"], special=False)),
        r"tokenizer.json: token \['x'\] has the id 299",
    ),
    "not utf-8": (lambda d: recode(d), r"chat_template\.jinja: not UTF-8 at byte 0; save it as UTF-8"),
    "tokens": (
        lambda d: retoken(d, lambda t: t["added_tokens"][0].update(id=4000)),
        "has id 4000 and config.json's vocab_size is 312",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_and_no_file(fault: str, tmp_path: Path) -> None:
    breaks, message = FAULTS[fault]
    directory = convert_models.llama3(tmp_path)
    breaks(directory)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        convert(directory, tmp_path / "out.gguf", "f16")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "README.md", "chat/x.jinja"])
def test_files_of_the_source_are_not_replaced(name: str, tmp_path: Path) -> None:
    directory = convert_models.llama3(tmp_path)
    path = directory / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text("# mine\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the input: write to another file"):
        convert(directory, path, "f16")
    (tmp_path / "link").hardlink_to(path)
    with pytest.raises(ValueError, match="is the input"):
        convert(directory, tmp_path / "link", "f16")
    assert path.read_bytes() == before
    for out in ("out.gguf", "out"):  # a GGUF file in the folder is no source
        for _ in range(2):
            convert(directory, directory / out, "f16")


def test_the_recipe_and_the_importance_matrix_are_not_replaced(tmp_path: Path) -> None:
    recipe, matrix = tmp_path / "mine.toml", tmp_path / "imatrix.gguf"
    recipe.write_text('name = "MINE"\nformat = "Q4_0"\n')
    entry = Entry(np.ones(64, np.float32), np.array([1]))
    Imatrix({"blk.0.ffn_up.weight": entry}).save(matrix)
    for path in (recipe, matrix):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is the input"):
            convert(convert_models.llama3(tmp_path), path, recipe, imatrix=matrix)
        assert path.read_bytes() == before


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a directory"):
        convert(EXAMPLE / "config.json", tmp_path / "out.gguf")
    with pytest.raises(ValueError, match=r"unknown dtype 'int3'.*auto"):
        convert(EXAMPLE, tmp_path / "out.gguf", "int3")
    with pytest.raises(ValueError, match="does not exist; make it first"):
        convert(EXAMPLE, tmp_path / "missing" / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_progress_leaves_no_file(tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(EXAMPLE, tmp_path / "out.gguf", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    result = convert(EXAMPLE, tmp_path / "out.gguf", progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert calls[-1][1:] == (calls[0][2], calls[0][2])
    assert 0 < result.nbytes - calls[0][2] < 200_000
    assert {call[0] for call in calls} == set(gguf.open(result.path).tensors)


def test_pre_tokenizer_can_be_named(tmp_path: Path) -> None:
    directory = convert_models.llama3(tmp_path)
    retoken(directory, lambda t: t["pre_tokenizer"]["pretokenizers"].pop(0))
    convert(directory, tmp_path / "out.gguf", pre_tokenizer="llama-bpe")
    with gguf.open(tmp_path / "out.gguf") as f:
        assert f.metadata["tokenizer.ggml.pre"] == "llama-bpe"


def test_every_stored_dtype_is_read(tmp_path: Path) -> None:
    config = convert_models.base_config("LlamaForCausalLM", tie_word_embeddings=True)
    tokenizer = convert_models.byte_level_tokenizer(convert_models.LLAMA3_REGEX, ["<|endoftext|>"])
    directory = convert_models.write_model(tmp_path / "model", config, "F32", tokenizer)
    values = {}
    for dtype in ("F32", "F16", "BF16", "F64"):
        tensors = convert_models.weights(convert_models.layer_shapes(config), dtype)
        (directory / "model.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
        convert(directory, tmp_path / "out.gguf", "f32")
        with gguf.open(tmp_path / "out.gguf") as f:
            values[dtype] = np.array(f.tensors["blk.0.attn_q.weight"])
    np.testing.assert_array_equal(values["F64"], values["F32"])
    np.testing.assert_array_equal(values["F16"], values["F32"].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(to_bfloat16_bits(values["F32"]), to_bfloat16_bits(values["BF16"]))


def test_bfloat16_rounding() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0, 1 << 31, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x00008000, 0x3F808000], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    ours = to_bfloat16_bits(values)
    with np.errstate(invalid="ignore"):
        wanted = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], wanted.view(np.uint16)[~nan])
    assert np.isnan(to_float32(ours[nan], "BF16")).all()
    halves = to_format(np.array([1e6, -1e6, 65519.0], np.float32), "F32", "F16")
    assert halves.tolist() == [np.inf, -np.inf, 65504.0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_is_bounded_by_a_tensor(tmp_path: Path) -> None:
    config = convert_models.base_config("LlamaForCausalLM", hidden_size=1024, intermediate_size=8192, head_dim=64)
    config |= {"num_hidden_layers": 6, "tie_word_embeddings": True, "num_key_value_heads": 4}
    tokenizer = convert_models.byte_level_tokenizer(convert_models.LLAMA3_REGEX, ["<|endoftext|>"])
    directory = tmp_path / "model"
    directory.mkdir()
    convert_models.write_json(directory / "config.json", config)
    convert_models.write_json(directory / "tokenizer.json", tokenizer)
    # 640 MB of zeros that take no room on the disk; the largest tensor has 32 MB.
    header, at = {}, 0
    for name, shape in convert_models.layer_shapes(config).items():
        nbytes = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + at)
    assert at > 600e6
    code = (
        "import sys; from blockquant.converter import convert; "
        "peak = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) << 10; "
        "before = peak(); convert(sys.argv[1], sys.argv[2], 'f16'); print(peak() - before)"
    )
    command = [sys.executable, "-c", code, str(directory), str(tmp_path / "out.gguf")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 150e6


def test_families_are_registered_once() -> None:
    names = [name for family in set(families.values()) for name in family.architectures]
    assert sorted(names) == sorted(families)
    assert {"Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"} <= set(families)


@pytest.mark.parametrize("options", [["--dtype", "f16"], ["--dtype", "f16", "--json", "--threads", "1"]])
def test_command_line(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typer = pytest.importorskip("typer")
    from blockquant.cli import convert as command

    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    out = tmp_path / "out.gguf"
    app(["convert", str(EXAMPLE), str(out), *options], standalone_mode=False)
    shown = capsys.readouterr().out
    if "--json" in options:
        found = json.loads(shown)
        assert (found["bytes"], found["dtype"], found["tensors"]) == (out.stat().st_size, "F16", 68)
    else:
        assert "qwen3, F16, 68 tensors, 5.8 million parameters, 11.7 MB" in shown
        assert shown.count("\n") == 1
    with pytest.raises(ValueError, match=r"no config\.json"):
        app(["convert", str(tmp_path), str(tmp_path / "no.gguf")], standalone_mode=False)
    assert not (tmp_path / "no.gguf").exists()


def test_the_function_is_there_under_its_public_name() -> None:
    import blockquant

    assert blockquant.convert is convert


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_K_M", "q2_k", "Q4_0"])
@pytest.mark.parametrize("name", ["tales-6m", "qwen2", "llama3"])
def test_a_recipe_gives_the_bytes_of_two_steps(name: str, recipe: str, tmp_path: Path) -> None:
    directory = EXAMPLE if name == "tales-6m" else convert_families.CASES[name][0](tmp_path)
    result = convert(directory, tmp_path / "one.gguf", recipe)
    convert(directory, tmp_path / "float.gguf", "auto")
    quantize_file(tmp_path / "float.gguf", tmp_path / "two.gguf", recipe)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert result.dtype == recipe.upper()
    with llamacpp.Model(tmp_path / "one.gguf") as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def test_recipes_that_cannot_be_done_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="importance matrix"):
        convert(EXAMPLE, tmp_path / "out.gguf", "IQ2_XXS")
    directory = convert_models.qwen2(tmp_path)
    tensors = convert_models.weights(
        convert_models.layer_shapes(json.loads((directory / "config.json").read_text())), "F32"
    )
    tensors["model.layers.1.mlp.up_proj.weight"][1][3, 5] = np.nan
    (directory / "model.safetensors").write_bytes(convert_models.safetensors_bytes(tensors))
    with pytest.raises(ValueError, match=r"'blk\.1\.ffn_up\.weight'.*nan"):
        convert(directory, tmp_path / "out.gguf", "Q8_0")
    assert not (tmp_path / "out.gguf").exists()
