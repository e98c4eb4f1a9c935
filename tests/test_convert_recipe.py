"""Conversion straight to a recipe: the bytes of converting to the checkpoint's own floats and quantizing then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blockquant as bq
import convert_families
import numpy as np
import pytest
from blockquant import gguf
from blockquant.imatrix import Entry, Imatrix

EXAMPLE = Path(__file__).parent.parent / "examples" / "tales-6m"


def both_ways(source: Path, directory: Path, recipe: Any, **options: Any) -> bq.converter.Conversion:
    bq.convert(source, directory / "auto.gguf", "auto")
    bq.quantize_file(directory / "auto.gguf", directory / "two.gguf", recipe, **options)
    done = bq.convert(source, directory / "one.gguf", recipe, **options)
    assert (directory / "one.gguf").read_bytes() == (directory / "two.gguf").read_bytes()
    return done


def matrix_of(path: Path) -> Imatrix:
    """Weights for most tensors of the layers of a GGUF file."""
    rng = np.random.default_rng(3)
    entries = {}
    with gguf.open(path) as file:
        for name, info in file.tensor_infos.items():
            if name.startswith("blk.") and len(info.shape) > 1 and "attn_k" not in name:
                shape = (info.shape[0], info.shape[-1]) if len(info.shape) > 2 else info.shape[-1:]
                sums = (rng.standard_normal(shape) ** 2 + 1e-3).astype(np.float32)
                entries[name] = Entry(sums, np.full(shape[:-1] or (1,), 512, np.int64))
    return Imatrix(entries, ["calib.txt"], 1)


@pytest.mark.parametrize("name", convert_families.CASES)
def test_one_pass_gives_the_bytes_of_two(name: str, tmp_path: Path) -> None:
    source = convert_families.CASES[name][0](tmp_path)
    for recipe in ("Q4_K_M", "Q8_0", "Q5_0"):
        both_ways(source, tmp_path, recipe)
    matrix = matrix_of(tmp_path / "auto.gguf")
    assert len(matrix) > 4
    both_ways(source, tmp_path, "IQ4_NL", imatrix=matrix)


def test_one_pass_with_options(tmp_path: Path) -> None:
    bq.convert(EXAMPLE, tmp_path / "auto.gguf", "auto")
    matrix = matrix_of(tmp_path / "auto.gguf")
    for file in ("m.gguf", "m.dat"):
        matrix.save(tmp_path / file)
        done = both_ways(EXAMPLE, tmp_path, "Q4_K_M", imatrix=tmp_path / file, overrides={"ffn_up": "IQ4_NL"})
        assert set(done.unweighted) == {"token_embd.weight"} | {
            c.name for c in done.choices if c.quantized and "attn_k" in c.name
        }
    both_ways(EXAMPLE, tmp_path, "Q5_0", imatrix=matrix, output_tensor_type="Q8_0", pure=True)
    (tmp_path / "mine.toml").write_text('base = "Q3_K_S"\n[[tensors]]\nname = "attn_v"\nformat = "Q8_0 if layer < 2"\n')
    done = both_ways(EXAMPLE, tmp_path, tmp_path / "mine.toml", token_embedding_type="Q4_0")
    assert done.dtype == "mine"
    formats = {c.name: str(c.format) for c in done.choices}
    assert formats["blk.1.attn_v.weight"] == "Q8_0"
    assert formats["token_embd.weight"] == "Q4_0"


def test_the_result_tells_what_was_not_quantized_as_wanted(tmp_path: Path) -> None:
    done = bq.convert(EXAMPLE, tmp_path / "out.gguf", "Q4_K_M")
    with gguf.open(tmp_path / "out.gguf") as file:
        assert {n: str(i.format) for n, i in file.tensor_infos.items()} == {c.name: str(c.format) for c in done.choices}
    assert sum(done.format_counts.values()) == done.tensors
    assert {c.reason for c in done.kept} == {"a vector"}
    small = bq.convert(convert_families.CASES["llama3"][0](tmp_path), tmp_path / "small.gguf", "Q4_K_M")
    assert {c.reason for c in small.fallbacks} >= {"rows of 64 elements are not whole blocks of Q4_K (256)"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bf16", "pure": True}, "pure goes with a recipe such as Q4_K_M; 'bf16' has no use for it"),
        ({"dtype": "auto", "overrides": {"a": "Q8_0"}}, "overrides goes with a recipe"),
        ({"dtype": "IQ2_XXS"}, r"IQ2_XXS makes '.*' IQ2_XXS, which is useless without an importance matrix: pass"),
        ({"dtype": "Q4_K_X"}, "unknown dtype 'Q4_K_X'; expected f32, f16, bf16, auto, a .toml file or a recipe: Q4_0"),
        ({"dtype": "Q4_0", "imatrix": {"blk.0.attn_q.weight": np.ones(3)}}, "has 3 weights for 'blk.0.attn_q.weight'"),
        ({"dtype": "Q4_0", "imatrix": {"a": np.array([np.nan])}}, "finite and not negative"),
        ({"dtype": "Q4_0", "overrides": {"(": "Q8_0"}}, "not a regular expression"),
    ],
)
def test_refusals_leave_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bq.convert(EXAMPLE, tmp_path / "out.gguf", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_imatrix_that_lacks_a_tensor_that_needs_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the one given has nothing for this tensor"):
        bq.convert(EXAMPLE, tmp_path / "o.gguf", "IQ2_S", imatrix={"blk.0.ffn_up.weight": np.ones(288, np.float32)})


def test_experts_get_their_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blockquant.converter import generic
    from test_saving import save

    rng = np.random.default_rng(0)
    name = "blk.0.ffn_up_exps.weight"
    values = rng.standard_normal((5, 24, 64)).astype(np.float32)
    weights = (rng.standard_normal((5, 64)) ** 2 + 0.01).astype(np.float32)
    metadata = {"llama.block_count": 1, "llama.expert_count": 5}
    # Pieces of 7 rows begin and end inside experts.
    monkeypatch.setattr(generic, "_PIECE_ELEMENTS", 7 * 64)
    found = save({name: values}, tmp_path / "o.gguf", "llama", metadata, "Q4_0", imatrix={name: weights})
    np.testing.assert_array_equal(found[name].data, bq.quantize(values, "Q4_0", weights).data)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from blockquant.cli.app import run

    source = convert_families.CASES["llama3"][0](tmp_path)
    out = tmp_path / "o.gguf"
    line = ["convert", str(source), str(out), "--dtype", "Q4_K_M", "--tensor-type", "attn_v=Q8_0", "--pure"]
    assert run([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["formats"]["Q8_0"] == 2
    assert result["fallbacks"]["blk.0.attn_q.weight"].startswith("Q5_0: rows of 64")
    assert result["kept"]["blk.0.attn_norm.weight"] == "a vector"
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert "tensors Q5_0 instead (rows of 64 elements are not whole blocks of Q4_K (256))" in shown
    assert run(["convert", str(source), str(out), "--dtype", "Q4_K_M", "--tensor-type", "attn_v"]) == 2


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_K_M"])
def test_what_does_not_fit_the_scales_is_found(recipe: str, tmp_path: Path) -> None:
    name, metadata = "blk.0.ffn_up_exps.weight", {"llama.block_count": 1, "llama.attention.head_count": 8}
    values = np.random.default_rng(0).standard_normal((3, 4, 256)).astype(np.float32)
    values[1, 2, 9] = 1e9
    for weights in (None, {name: np.ones((3, 256), np.float32)}):
        with pytest.raises(ValueError, match=rf"tensor '{name}': x\[6, \d+\] is not finite in {recipe[:4]}"):
            bq.save_gguf({name: values}, tmp_path / "o.gguf", "llama", metadata, recipe, imatrix=weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "value"), [("F16", 70000.0), ("BF16", 3.4028e38)])
def test_what_a_float_format_cannot_hold_is_refused(format: str, value: float, tmp_path: Path) -> None:
    values = np.ones((8, 256), np.float32)
    values[0, 3] = np.inf  # what the source says is kept
    bq.save_gguf({"net.weight": values}, tmp_path / "o.gguf", "other", recipe=format.lower())
    with bq.gguf.open(tmp_path / "o.gguf") as file:
        assert np.isinf(np.asarray(file.tensors["net.weight"], np.float32)).sum() == 1
    values[1, 7] = value
    with pytest.raises(ValueError, match=rf"'net.weight': x\[1, 7\] is .*, beyond the range of {format}"):
        bq.save_gguf({"net.weight": values}, tmp_path / "p.gguf", "other", recipe=format.lower())
    assert not (tmp_path / "p.gguf").exists()
