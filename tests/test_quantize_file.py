"""Quantized files: equal to llama-quantize's, reported truthfully, and never half written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import blockquant as bq
import ml_dtypes
import numpy as np
import pytest
import quantize_models as models
from blockquant import gguf, recipes
from blockquant.imatrix import Entry, Imatrix

GOLDEN = Path(__file__).parent / "data" / "quantize" / "golden.json"
RECIPES = ["Q4_K_M", "Q8_0", "Q2_K", "Q3_K_M", "Q6_K", "Q5_K_M", "Q4_0", "Q4_K_S"]


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.tales(tmp_path_factory.mktemp("tales") / "f16.gguf")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return models.dense(tmp_path / "small.gguf", layers=2, embedding=256, feed_forward=256, kv=64, tied=False)


def digest(path: Path) -> dict[str, Any]:
    """Formats and bytes of all tensors, in file order; `crc` tells which tensor it is when they differ."""
    import zlib

    with gguf.open(path) as file:
        blobs = {n: np.ascontiguousarray(getattr(t, "data", t)).tobytes() for n, t in file.tensors.items()}
        whole = hashlib.sha256()
        for name, blob in blobs.items():
            whole.update(f"{name} {file.tensor_infos[name].format} {len(blob)}\n".encode() + blob)
        crc = " ".join(f"{zlib.crc32(blob):08x}" for blob in blobs.values())
    return {"sha256": whole.hexdigest(), "crc": crc}


def sources(directory: Path) -> dict[str, Path]:
    return {
        "tales": models.tales(directory / "tales.gguf"),
        "rows-64-172": models.dense(directory / "odd.gguf", layers=3, embedding=64, feed_forward=172, kv=32, tied=True),
        "experts": models.experts(directory / "experts.gguf"),
    }


GOLDEN_CASES = [
    *(("tales", recipe, False) for recipe in RECIPES),
    *(("tales", recipe, True) for recipe in ("Q4_K_M", "Q2_K", "Q4_0")),
    *(("rows-64-172", recipe, False) for recipe in ("Q4_K_M", "Q2_K", "Q8_0", "Q6_K")),
    *(("experts", recipe, True) for recipe in ("Q4_K_M", "Q3_K_M", "Q5_0")),
]


def golden_key(model: str, recipe: str, weighted: bool) -> str:
    return f"{model} {recipe}" + (" imatrix" if weighted else "")


@pytest.mark.parametrize(("model", "recipe", "weighted"), GOLDEN_CASES)
def test_bytes_of_llama_quantize(
    model: str, recipe: str, weighted: bool, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    source = _sources(tmp_path_factory)[model]
    weights = models.weights_of(source) if weighted else None
    bq.quantize_file(source, tmp_path / "out.gguf", recipe, imatrix=weights)
    assert digest(tmp_path / "out.gguf") == json.loads(GOLDEN.read_text())[golden_key(model, recipe, weighted)]


_cache: dict[str, Path] = {}


def _sources(factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not _cache:
        _cache.update(sources(factory.mktemp("sources")))
    return _cache


def record_golden() -> None:
    """Write the golden file from llama_model_quantize: python -c 'import test_quantize_file as t; t.record_golden()'"""
    import tempfile

    import native_oracle

    golden = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = sources(directory)
        for model, recipe, weighted in GOLDEN_CASES:
            weights = models.weights_of(files[model]) if weighted else None
            native_oracle.quantize(files[model], directory / "out", recipes.get(recipe).file_type, imatrix=weights)
            golden[golden_key(model, recipe, weighted)] = digest(directory / "out")
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


# --- against llama_model_quantize itself: whole files, header and all ---


def assert_same_file(ours: Path, theirs: Path) -> None:
    if ours.read_bytes() == theirs.read_bytes():
        return
    with gguf.open(ours) as a, gguf.open(theirs) as b:
        assert list(a.metadata) == list(b.metadata)
        for key, value in b.typed_metadata().items():
            assert str(a.typed_metadata()[key]) == str(value), key
        assert a.tensor_infos == b.tensor_infos
    assert digest(ours) == digest(theirs)
    raise AssertionError("the files differ outside metadata and tensors")


MORE_RECIPES = ("Q4_1", "Q5_0", "Q5_1", "Q3_K_S", "Q3_K_L", "Q5_K_S", "F16", "BF16", "F32")
GRID_RECIPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M")
MORE_RECIPES += ("IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0")


@pytest.mark.native_oracle
@pytest.mark.parametrize(
    "recipe",
    [*RECIPES, *MORE_RECIPES],
)
def test_whole_file_of_the_bundled_model(recipe: str, tales: Path, tmp_path: Path) -> None:
    import native_oracle

    native_oracle.quantize(tales, tmp_path / "theirs", recipes.get(recipe).file_type)
    bq.quantize_file(tales, tmp_path / "ours", recipe)
    assert_same_file(tmp_path / "ours", tmp_path / "theirs")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.qwen3(tmp_path_factory.mktemp("qwen3") / "f16.gguf")


@pytest.mark.native_oracle
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("recipe", [name for name in recipes.names() if name != "NVFP4"])
def test_whole_file_of_a_qwen3(recipe: str, weighted: bool, qwen3: Path, tmp_path: Path) -> None:
    import native_oracle

    weights = models.weights_of(qwen3) if weighted else None
    # Only the oracle's command line adds this, not its function.
    added: dict[str, str | int] = {"quantize.imatrix.entries_count": len(weights)} if weights else {}
    kind = recipes.get(recipe).file_type
    if bq.quantize_file(qwen3, None, recipe, imatrix=weights, dry_run=True).needs_imatrix:
        with pytest.raises(RuntimeError, match="imatrix"):
            native_oracle.quantize(qwen3, tmp_path / "theirs", kind, imatrix=weights, metadata=added)
        with pytest.raises(ValueError, match="importance matrix"):
            bq.quantize_file(qwen3, tmp_path / "ours", recipe, imatrix=weights)
        return
    native_oracle.quantize(qwen3, tmp_path / "theirs", kind, imatrix=weights, metadata=added)
    bq.quantize_file(qwen3, tmp_path / "ours", recipe, imatrix=weights)
    assert_same_file(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.native_oracle
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_whole_file_from_other_floats(dtype: str, tmp_path: Path) -> None:
    import native_oracle

    source = models.tales(tmp_path / "in.gguf", dtype)
    for recipe in ("Q4_K_M", "F16", "Q8_0"):
        native_oracle.quantize(source, tmp_path / "theirs", recipes.get(recipe).file_type)
        bq.quantize_file(source, tmp_path / "ours", recipe)
        assert_same_file(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.native_oracle
@pytest.mark.parametrize(("embedding", "feed_forward"), [(64, 172), (288, 96), (256, 512), (96, 100)])
@pytest.mark.parametrize("tied", [True, False])
def test_whole_file_with_rows_that_do_not_fit(embedding: int, feed_forward: int, tied: bool, tmp_path: Path) -> None:
    import native_oracle

    source = models.dense(tmp_path / "in.gguf", 9, embedding, feed_forward, embedding // 2, tied, "F32", seed=embedding)
    for recipe in ("Q4_K_M", "Q2_K", "Q3_K_L", "Q5_K_M", "Q6_K", "Q4_0", "Q8_0"):
        native_oracle.quantize(source, tmp_path / "theirs", recipes.get(recipe).file_type)
        report = bq.quantize_file(source, tmp_path / "ours", recipe)
        assert_same_file(tmp_path / "ours", tmp_path / "theirs")
        assert bool(report.fallbacks) == any(
            c.is_fallback for c in recipes.explain(_infos(source), recipe, _metadata(source))
        )


@pytest.mark.native_oracle
def test_whole_file_with_options_and_imatrix(tmp_path: Path) -> None:
    import native_oracle

    source = models.experts(tmp_path / "in.gguf", layers=3)
    weights = models.weights_of(source)
    matrix = Imatrix(
        {n: Entry(w, np.ones(max(1, w.size // w.shape[-1]), np.int64)) for n, w in weights.items()},
        ["calib-" + "x" * 200],
        chunk_count=77,
        path=Path("some/where.gguf"),
    )
    added: dict[str, str | int] = {
        "quantize.imatrix.file": "some/where.gguf",
        "quantize.imatrix.dataset": ("calib-" + "x" * 200)[:127],
        "quantize.imatrix.entries_count": len(matrix),
        "quantize.imatrix.chunks_count": 77,
    }
    for recipe in ("Q4_K_M", "Q2_K_S", "Q5_0", "Q6_K", *GRID_RECIPES):
        native_oracle.quantize(
            source,
            tmp_path / "theirs",
            recipes.get(recipe).file_type,
            imatrix=weights,
            metadata=added,
            overrides=[("attn_q", 8), ("ffn_up", 30)],
            output_tensor_type=1,
            token_embedding_type=14,
        )
        bq.quantize_file(
            source,
            tmp_path / "ours",
            recipe,
            imatrix=matrix,
            overrides={"attn_q": "Q8_0", "ffn_up": "BF16"},
            output_tensor_type="F16",
            token_embedding_type="Q6_K",
        )
        assert_same_file(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.native_oracle
def test_whole_file_requantized(tales: Path, tmp_path: Path) -> None:
    import native_oracle

    for first, second in (("Q8_0", "Q4_K_M"), ("Q4_K_M", "Q6_K"), ("Q6_K", "F16"), ("Q4_0", "Q4_0")):
        bq.quantize_file(tales, tmp_path / "in.gguf", first)
        native_oracle.quantize(
            tmp_path / "in.gguf", tmp_path / "theirs", recipes.get(second).file_type, allow_requantize=True
        )
        bq.quantize_file(tmp_path / "in.gguf", tmp_path / "ours", second, allow_requantize=True)
        assert_same_file(tmp_path / "ours", tmp_path / "theirs")


# --- what the function promises by itself ---


def _infos(path: Path) -> Any:
    with gguf.open(path) as file:
        return dict(file.tensor_infos)


def _metadata(path: Path) -> dict[str, Any]:
    with gguf.open(path) as file:
        return dict(file.metadata)


def test_metadata_is_kept_and_completed(tales: Path, tmp_path: Path) -> None:
    bq.quantize_file(tales, tmp_path / "out.gguf", "Q8_0")
    before, after = _metadata(tales), _metadata(tmp_path / "out.gguf")
    assert after["general.file_type"] == 7
    assert after["general.quantization_version"] == 2
    assert list(after)[-2:] == ["general.quantization_version", "general.file_type"]
    assert after["test.names"] == ["alpha", "beta\u00e9", ""]
    assert {k: v for k, v in after.items() if k in before and k != "general.file_type"} == {
        k: v for k, v in before.items() if k != "general.file_type"
    }


def test_report(tales: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    report = bq.quantize_file(tales, tmp_path / "out.gguf", "q4_k", progress=lambda *call: calls.append(call))
    assert report.recipe == "Q4_K_M"
    assert report.file_bytes == (tmp_path / "out.gguf").stat().st_size
    infos = _infos(tmp_path / "out.gguf")
    assert [t.name for t in report.tensors] == list(infos)
    assert all(t.nbytes == infos[t.name].nbytes and t.format == infos[t.name].format for t in report.tensors)
    assert 4.5 < report.bits_per_weight < 5.5
    assert report.fallbacks == ()
    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert done[-1] == calls[-1][2] == report.source_bytes
    text = repr(report)
    assert "Q4_K_M: 11.6 MB (16.01 bits per weight) to" in text
    assert "68 tensors: " in text
    tensors = {t["name"]: t["format"] for t in json.loads(json.dumps(report.as_dict()))["tensors"]}
    assert tensors["token_embd.weight"] == "Q6_K"


def test_fallbacks_are_reported(tmp_path: Path) -> None:
    source = models.dense(tmp_path / "in.gguf", 2, 64, 172, 32, tied=True)
    report = bq.quantize_file(source, tmp_path / "out.gguf", "Q4_K_M")
    formats = {t.name: str(t.format) for t in report.tensors}
    assert formats["blk.0.attn_q.weight"] == "Q5_0"
    assert formats["blk.0.ffn_down.weight"] == "F16"
    assert formats["token_embd.weight"] == "Q8_0"
    assert len(report.fallbacks) == 14
    assert "fallback: 1 tensor has rows of 172, which Q6_K does not fit: F16 instead" in repr(report)


def test_dry_run_writes_nothing_and_tells_the_same(small: Path, tmp_path: Path) -> None:
    planned = bq.quantize_file(small, tmp_path / "out.gguf", "Q3_K_M", dry_run=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.gguf"]
    assert bq.quantize_file(small, None, "Q3_K_M", dry_run=True).tensors == planned.tensors
    done = bq.quantize_file(small, tmp_path / "out.gguf", "Q3_K_M")
    assert done.tensors == planned.tensors
    starved = bq.quantize_file(small, None, "IQ2_XXS", dry_run=True)
    assert "blk.0.attn_q.weight" in starved.needs_imatrix
    assert "need an importance matrix" in repr(starved)


def test_dry_run_and_run_agree_about_weights(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    # Formats that are garbage without weights where a recipe would not put them.
    planned = bq.quantize_file(small, None, "Q4_K_M", dry_run=True, token_embedding_type="IQ2_XXS")
    assert planned.needs_imatrix == ("token_embd.weight",)
    fails(tmp_path, "makes 'token_embd.weight' IQ2_XXS", small, out, "Q4_K_M", token_embedding_type="IQ2_XXS")
    other_size = {"blk.0.attn_q.weight": np.ones(99, np.float32)}
    fails(tmp_path, "has 99 weights", small, None, "Q4_K_M", imatrix=other_size, dry_run=True)
    # What is copied needs no weights, and what the embedding has of another size are not its own.
    names = [name for name in _infos(small) if name.endswith("weight") and "norm" not in name]
    matrix = {name: np.ones(256, np.float32) for name in names} | {"token_embd.weight": np.ones(64, np.float32)}
    done = bq.quantize_file(small, out, "Q2_K_S", imatrix=matrix)
    assert done.unweighted == ("token_embd.weight",)
    assert bq.quantize_file(small, None, "Q2_K_S", imatrix=matrix, dry_run=True).unweighted == done.unweighted
    again = bq.quantize_file(out, None, "Q2_K_S", dry_run=True)
    assert again.needs_imatrix == ()
    useless = {"other": np.ones(256, np.float32)}
    assert bq.quantize_file(out, tmp_path / "copy.gguf", "Q2_K_S", imatrix=useless).unweighted == ()


def test_pieces_do_not_change_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.experts(tmp_path / "in.gguf", layers=1)
    weights = models.weights_of(source)
    bq.quantize_file(source, tmp_path / "a.gguf", "Q4_K_M", imatrix=weights)
    # Pieces of 24 rows do not divide the experts' 32 and 256 rows.
    monkeypatch.setattr("blockquant.quantizer.steps.PIECE", 24 * 256)
    bq.quantize_file(source, tmp_path / "b.gguf", "Q4_K_M", imatrix=weights, threads=2)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_every_expert_uses_its_own_weights(tmp_path: Path) -> None:
    source = models.experts(tmp_path / "in.gguf", layers=1)
    weights = models.weights_of(source)
    bq.quantize_file(source, tmp_path / "out.gguf", "Q4_K_M", imatrix=weights)
    name = "blk.0.ffn_up_exps.weight"
    with gguf.open(source) as before, gguf.open(tmp_path / "out.gguf") as after:
        tensor = before.tensors[name]
        assert isinstance(tensor, bq.QuantizedTensor)
        expected = bq.quantize(tensor.dequantize(), "Q4_K", weights[name])
        result = after.tensors[name]
        assert isinstance(result, bq.QuantizedTensor)
        np.testing.assert_array_equal(result.data, expected.data)


def test_flat_weights_of_old_matrices_fit_experts(tmp_path: Path) -> None:
    source = models.experts(tmp_path / "in.gguf", layers=1)
    weights = models.weights_of(source)
    flat = {n: w.reshape(-1) for n, w in weights.items()} | {"token_embd.weight": np.ones(7, np.float32)}
    bq.quantize_file(source, tmp_path / "a.gguf", "Q4_0", imatrix=weights)
    bq.quantize_file(source, tmp_path / "b.gguf", "Q4_0", imatrix=flat)
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, list])
def test_dtypes_of_weights(dtype: Any, small: Path, tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.float32)
    given: Any = values.tolist() if dtype is list else values.astype(dtype)
    bq.quantize_file(small, tmp_path / "a.gguf", "Q4_0", imatrix={"blk.0.attn_q.weight": given})
    bq.quantize_file(small, tmp_path / "b.gguf", "Q4_0", imatrix={"blk.0.attn_q.weight": values})
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_an_imatrix_file_is_recorded(small: Path, tmp_path: Path) -> None:
    entries = {"blk.0.attn_q.weight": Entry(np.full(256, 512, np.float32), np.array([512], np.int64))}
    for name in ("m.gguf", "m.dat"):
        Imatrix(entries, ["calib.txt"], chunk_count=1).save(tmp_path / name)
        bq.quantize_file(small, tmp_path / "out.gguf", "Q4_K_M", imatrix=tmp_path / name)
        metadata = _metadata(tmp_path / "out.gguf")
        assert metadata["quantize.imatrix.file"] == str(tmp_path / name)[:127]
        assert metadata["quantize.imatrix.dataset"] == "calib.txt"
        assert metadata["quantize.imatrix.entries_count"] == 1
        assert metadata["quantize.imatrix.chunks_count"] == 1


def test_a_float_recipe_rounds(small: Path, tmp_path: Path) -> None:
    bq.quantize_file(small, tmp_path / "out.gguf", "BF16")
    with gguf.open(small) as before, gguf.open(tmp_path / "out.gguf") as after:
        name = "blk.0.attn_q.weight"
        got = after.tensors[name]
        assert isinstance(got, bq.QuantizedTensor)
        np.testing.assert_allclose(got.dequantize(), np.asarray(before.tensors[name], np.float32), rtol=2**-8)
        assert after.tensor_infos["blk.0.attn_norm.weight"].format == "F32"


def fails(tmp_path: Path, message: str, *args: Any, **options: Any) -> None:
    """The call raises ValueError with one line, and leaves nothing behind."""
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ValueError, match=message) as caught:
        bq.quantize_file(*args, **options)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_refusals(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    fails(tmp_path, "unknown recipe 'Q4_K_XL'", small, out, "Q4_K_XL")
    fails(tmp_path, "is the input", small, small, "Q8_0")
    fails(tmp_path, "needs a target", small, None, "Q8_0")
    weights = {"blk.0.attn_q.weight": np.ones(128, np.float32)}
    fails(tmp_path, "has 128 weights for 'blk.0.attn_q.weight', which needs 256", small, out, "Q4_0", imatrix=weights)
    nan = {"blk.0.attn_q.weight": np.full(256, np.nan, np.float32)}
    fails(tmp_path, "must be floats, finite", small, out, "Q4_0", imatrix=nan)
    large = {"blk.0.attn_q.weight": np.full(256, 1e300)}  # finite until it is narrowed
    fails(tmp_path, "finite and not negative in float32", small, out, "Q4_0", imatrix=large)
    with pytest.raises(TypeError, match="must be a path, an Imatrix or a mapping of tensor names to weights, got list"):
        bq.quantize_file(small, out, "Q4_0", imatrix=[1, 2])  # type: ignore[arg-type]
    fails(tmp_path, "Q2_K, which is useless without an importance matrix: pass imatrix=", small, out, "Q2_K_S")
    nameless = dataclasses.replace(bq.recipes.get("Q2_K_S"), name="")
    fails(tmp_path, "the recipe makes .* useless without an importance matrix", small, out, nameless)
    other = {"blk.9.attn_q.weight": np.ones(256, np.float32)}
    fails(tmp_path, "the one given has nothing for this tensor", small, out, "Q2_K_S", imatrix=other)


def test_quantized_input_is_refused_unless_allowed(small: Path, tmp_path: Path) -> None:
    bq.quantize_file(small, tmp_path / "q8.gguf", "Q8_0")
    out = tmp_path / "out.gguf"
    fails(tmp_path, "is already Q8_0: quantize from the F32, F16 or BF16 file", tmp_path / "q8.gguf", out, "Q4_K_M")
    # Nothing to decode: the same recipe again is a copy.
    bq.quantize_file(tmp_path / "q8.gguf", out, "Q8_0")
    assert digest(out) == digest(tmp_path / "q8.gguf")
    bq.quantize_file(tmp_path / "q8.gguf", out, "Q4_K_M", allow_requantize=True)
    assert _infos(out)["blk.0.ffn_gate.weight"].format == "Q4_K"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_damaged_weights_are_named(tmp_path: Path, bad: float) -> None:
    tensors = {"blk.0.attn_q.weight": np.ones((40, 256), np.float32), "output_norm.weight": np.ones(256, np.float32)}
    metadata = models.hyper_parameters("llama", block_count=1, attention__head_count=8)
    tensors["blk.0.attn_q.weight"][37, 5] = bad
    source = models.write(tmp_path / "in.gguf", metadata, tensors)
    for recipe in ("Q4_K_M", "Q8_0", "F32", "F16"):
        fails(tmp_path, r"'blk.0.attn_q.weight': element \[37, 5\] is not finite", source, tmp_path / "o.gguf", recipe)
    tensors["blk.0.attn_q.weight"][37, 5] = 1e6
    source = models.write(tmp_path / "in.gguf", metadata, tensors)
    fails(tmp_path, r"element \[37, 5\] is not finite in F16", source, tmp_path / "o.gguf", "F16")
    tensors["blk.0.attn_q.weight"][37, 5] = 1
    tensors["output_norm.weight"][9] = bad
    source = models.write(tmp_path / "in.gguf", metadata, tensors)
    fails(tmp_path, r"'output_norm.weight': element \[0, 9\]", source, tmp_path / "o.gguf", "Q8_0")


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_0", "Q5_1", "Q4_K_M", "Q2_K", "Q6_K", "IQ4_XS", "TQ2_0", "MXFP4_MOE"])
def test_weights_that_do_not_fit_the_scales_are_named(recipe: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
    weights[37, 5] = 1e9
    metadata = models.hyper_parameters("llama", block_count=1, attention__head_count=8)
    source = models.write(tmp_path / "in.gguf", metadata, {"blk.0.attn_q.weight": weights})
    # llama-quantize refuses the file too: its validation finds the infinities that it made.
    fails(tmp_path, r"'blk.0.attn_q.weight': element \[37, \d+\] is not finite in", source, tmp_path / "o.gguf", recipe)


def test_weights_of_a_matrix_that_are_too_large_are_found(small: Path, tmp_path: Path) -> None:
    matrix = {"blk.0.attn_q.weight": np.full(256, 3e38, np.float32)}
    message = "'blk.0.attn_q.weight': .* or the weights of the importance matrix are too large"
    fails(tmp_path, message, small, tmp_path / "o.gguf", "Q4_K_M", imatrix=matrix)


def test_damaged_blocks_are_not_copied(small: Path, tmp_path: Path) -> None:
    bq.quantize_file(small, tmp_path / "in.gguf", "Q8_0")
    with gguf.open(tmp_path / "in.gguf") as file:
        info = file.tensor_infos["blk.1.ffn_up.weight"]
    with open(tmp_path / "in.gguf", "r+b") as stream:
        stream.seek(info.offset + info.nbytes // 256 * 3 + 34)  # the scale of the second block of row 3
        stream.write(np.array([np.nan], np.float16).tobytes())
    message = r"'blk.1.ffn_up.weight': element \[3, 32\] is not finite in Q8_0"
    fails(tmp_path, message, tmp_path / "in.gguf", tmp_path / "out.gguf", "Q8_0")


def test_an_exception_in_progress_leaves_nothing(small: Path, tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if done > total // 2:
            raise ValueError("stopped by the caller")

    fails(tmp_path, "stopped by the caller", small, tmp_path / "out.gguf", "Q8_0", progress=stop)


def test_memory_is_bounded_by_a_tensor(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    del resource
    shapes = {f"blk.{i}.ffn_up.weight": (16384, 1024) for i in range(6)}  # 32 MiB each, holes in the file
    metadata = models.hyper_parameters("llama", block_count=6, attention__head_count=8)
    source = models.header_only(tmp_path / "in.gguf", metadata, shapes, np.dtype(np.float16))
    script = (
        "import resource, sys, blockquant as bq, blockquant.quantizer\n"
        "bq.quantize(__import__('numpy').zeros((8, 256), 'f4'), 'Q8_0')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "bq.quantize_file(sys.argv[1], sys.argv[2], 'Q8_0', pure=True, threads=1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, source, tmp_path / "out.gguf"], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * unit < 80 << 20  # the whole input is 192 MiB
    assert (tmp_path / "out.gguf").stat().st_size > 100 << 20


def test_shards_become_one_file(small: Path, tmp_path: Path) -> None:
    with gguf.open(small) as file:
        tensors = {name: np.asarray(tensor) for name, tensor in file.tensors.items()}
        metadata = dict(file.metadata)
    models.write(tmp_path / "part.gguf", metadata, tensors, split_max_tensors=5)
    assert len(list(tmp_path.glob("part-*-of-00004.gguf"))) == 4
    bq.quantize_file(tmp_path / "part-00001-of-00004.gguf", tmp_path / "a.gguf", "Q4_K_M")
    bq.quantize_file(small, tmp_path / "b.gguf", "Q4_K_M")
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")
    assert not any(key.startswith("split.") for key in _metadata(tmp_path / "a.gguf"))
    for path in tmp_path.glob("part-*"):
        fails(tmp_path, "is the input", tmp_path / "part-00001-of-00004.gguf", path, "Q8_0")


def test_integer_tensors_stay(tmp_path: Path) -> None:
    tensors = {
        "blk.0.attn_q.weight": np.ones((4, 256), np.float32),
        "blk.0.ffn_gate_tid2eid.weight": np.arange(12, dtype=np.int32).reshape(3, 4),
    }
    metadata = models.hyper_parameters("llama", block_count=1, attention__head_count=8)
    source = models.write(tmp_path / "in.gguf", metadata, tensors)
    bq.quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    with gguf.open(tmp_path / "out.gguf") as file:
        np.testing.assert_array_equal(file.tensors["blk.0.ffn_gate_tid2eid.weight"], np.arange(12).reshape(3, 4))


def command(*arguments: object) -> int:
    pytest.importorskip("typer")
    from blockquant.cli.app import run

    return run(["quantize", *map(str, arguments)])


def test_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert command(small, out, "Q4_K_M", "--tensor-type", "attn_q=Q8_0", "--output-tensor-type", "F16") == 0
    text = capsys.readouterr().out
    assert "bits per weight" in text
    assert f"wrote {out}" in text
    infos = _infos(out)
    assert (infos["blk.0.attn_q.weight"].format, infos["output.weight"].format) == ("Q8_0", "F16")

    assert command(small, out, "Q8_0", "--json", "--threads", 1, "--pure") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "Q8_0"
    assert report["file_bytes"] == out.stat().st_size


def test_command_dry_run(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(small, tmp_path / "out.gguf", "IQ4_XS", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "blk.1.ffn_up.weight" in text
    assert "F16 -> IQ4_XS" in text
    assert not (tmp_path / "out.gguf").exists()


def test_command_shows_names_that_would_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, weights = "blk.0.\x1b[31mevil\n\u202eweight", np.ones((8, 256), np.float32)
    metadata = models.hyper_parameters("llama", block_count=1, attention__head_count=8)
    source = models.write(tmp_path / "in.gguf", metadata, {name: weights, "blk.0.attn_q.weight": weights})
    (tmp_path / "mine.toml").write_text('base = "Q4_0"\nname = "\\u001b[31mred"\n')
    Imatrix({"blk.0.attn_q.weight": Entry(np.ones(256), np.array([512]))}).save(tmp_path / "m.gguf")
    for options in ((), ("--dry-run",)):
        arguments = (source, tmp_path / "o.gguf", tmp_path / "mine.toml", "--imatrix", tmp_path / "m.gguf", *options)
        assert command(*arguments) == 0
        text = capsys.readouterr().out
        assert r"without weights in the importance matrix: blk.0.\x1b[31mevil\n\u202eweight" in text
        assert text.startswith(r"\x1b[31mred: ") or options
        assert all(line.isprintable() for line in text.split("\n"))


def test_command_failures(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, message in [
        ((small, tmp_path / "o.gguf", "Q4_K_X"), 1, "unknown recipe"),
        ((tmp_path / "none.gguf", tmp_path / "o.gguf", "Q8_0"), 1, "none.gguf"),
        ((small, tmp_path / "o.gguf", "Q8_0", "--tensor-type", "attn"), 2, "REGEX=FORMAT"),
        ((small, tmp_path / "o.gguf", "Q8_0", "--imatrix", small), 1, "is not an importance matrix"),
    ]:
        assert command(*arguments) == status
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        if status == 1:
            assert error.count("\n") == 1
    assert not (tmp_path / "o.gguf").exists()
