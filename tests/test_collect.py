"""Importance matrices collected from a text, against plain sums and against llama.cpp's own products."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import blockquant as bq
import convert_families
import model_files
import native_oracle
import numpy as np
import pytest
from blockquant.cli import app
from blockquant.converter import convert
from blockquant.imatrix import Entry

N_CTX, CHUNKS = 64, 3


def text() -> str:
    return model_files.eval_text()[:20_000]


def windows(ids: list[int]) -> list[list[int]]:
    return [ids[i * N_CTX : (i + 1) * N_CTX] for i in range(CHUNKS)]


@pytest.fixture(scope="module")
def collected() -> bq.imatrix.Imatrix:
    return bq.imatrix.collect(model_files.tales("F32"), text(), n_ctx=N_CTX, chunks=CHUNKS, dataset="eval.txt")


def test_every_matrix_of_the_layers_is_there(collected: bq.imatrix.Imatrix) -> None:
    with bq.gguf.open(model_files.tales("F32")) as file:
        wanted = {n: t.shape[1] for n, t in file.tensors.items() if n.startswith("blk.") and len(t.shape) == 2}
    assert {name: values.size for name, values in collected.items()} == wanted
    assert (collected.chunk_count, collected.chunk_size, collected.datasets) == (CHUNKS, N_CTX, ["eval.txt"])
    assert all(entry.counts.tolist() == [N_CTX * CHUNKS] for entry in collected.entries.values())


def test_the_first_layer_by_hand(collected: bq.imatrix.Imatrix) -> None:
    path = model_files.tales("F32")
    with bq.Model.open(path) as model, bq.gguf.open(path) as file:
        ids = [i for window in windows(model.tokenizer.encode(text())) for i in window]
        x = np.asarray(file.tensors["token_embd.weight"], np.float64)[ids]
        x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + model.config.norm_eps)
        x *= np.asarray(file.tensors["blk.0.attn_norm.weight"], np.float64)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(collected.entries[f"blk.0.{name}.weight"].sums, (x * x).sum(axis=0), rtol=1e-5)


def test_the_output_matrix_on_request() -> None:
    with bq.gguf.open(model_files.tales("F16")) as source:
        tensors = dict(source.tensors)
        tensors.setdefault("output.weight", tensors["token_embd.weight"])
        path = model_files.write(model_files.directory() / "untied.gguf", source.typed_metadata(), tensors)
    plain = bq.imatrix.collect(path, text(), n_ctx=N_CTX, chunks=1)
    whole = bq.imatrix.collect(path, text(), n_ctx=N_CTX, chunks=1, output=True)
    assert set(whole) - set(plain) == {"output.weight"}
    assert whole.entries["output.weight"].counts.tolist() == [N_CTX]
    for name in plain:
        np.testing.assert_array_equal(plain[name], whole[name])


def test_it_helps_where_a_text_is_like_the_model(tmp_path: Path) -> None:
    matrix = bq.imatrix.collect(model_files.tales("F16"), text(), n_ctx=256, chunks=8)
    matrix.save(tmp_path / "tales.gguf")
    with_it = tmp_path / "q2.gguf"
    bq.quantize_file(model_files.tales("BF16"), with_it, "Q2_K", imatrix=tmp_path / "tales.gguf")
    base, sample = model_files.tales("F16"), model_files.eval_text()[100_000:140_000]
    better = bq.compare(with_it, base, sample, n_ctx=128, chunks=8)
    plain = bq.compare(model_files.tales("Q2_K"), base, sample, n_ctx=128, chunks=8)
    assert better["kld_mean"] < 0.9 * plain["kld_mean"]


def test_activations_that_are_no_numbers(tmp_path: Path) -> None:
    with bq.gguf.open(model_files.tales("F16")) as source:
        tensors = dict(source.tensors)
        norm = np.array(tensors["blk.2.ffn_norm.weight"])
        norm[5] = np.inf
        path = model_files.write(
            tmp_path / "inf.gguf", source.typed_metadata(), tensors | {"blk.2.ffn_norm.weight": norm}
        )
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"'blk.2.ffn_gate.weight' are not finite"):
        bq.imatrix.collect(path, text(), n_ctx=N_CTX, chunks=1)


def test_imatrix_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, model = tmp_path / "text.txt", str(model_files.tales("F16"))
    source.write_text(text(), "utf-8")
    options = ["--ctx", str(N_CTX), "--chunks", "2"]
    for name in ("out.gguf", "out.dat"):
        assert app.run(["imatrix", model, str(source), str(tmp_path / name), *options]) == 0
        assert "42 tensors, 2 windows of 64" in capsys.readouterr().out
    new, old = (bq.imatrix.load(tmp_path / name) for name in ("out.gguf", "out.dat"))
    wanted = bq.imatrix.collect(model, text(), n_ctx=N_CTX, chunks=2)
    for name, values in wanted.items():
        np.testing.assert_allclose(new[name], values, rtol=1e-6)
        np.testing.assert_allclose(old[name], values, rtol=1e-6)
    assert new.datasets == [str(source)]
    merged = tmp_path / "merged.gguf"
    command = ["imatrix", model, str(source), str(merged), *options, "--merge", str(tmp_path / "out.gguf"), "--json"]
    assert app.run(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["windows"], said["chunks"], said["tensors"]) == (2, 4, 42)
    np.testing.assert_allclose(bq.imatrix.load(merged)["blk.0.attn_q.weight"], wanted["blk.0.attn_q.weight"], rtol=1e-6)
    assert app.run(["imatrix", model, str(source), str(tmp_path / "out.txt"), *options]) == 1
    assert "name it .gguf or .dat" in capsys.readouterr().err


def test_imatrix_command_fails_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blockquant.imatrix.collect", lambda *_: pytest.fail("it collects"), raising=False)
    source, model = tmp_path / "text.txt", str(model_files.tales("F16"))
    source.write_text(text(), "utf-8")
    other = tmp_path / "other.gguf"
    entry = Entry(np.ones(99, np.float32), np.array([64]))
    bq.imatrix.Imatrix({"blk.0.attn_q.weight": entry}, [], 1, 64).save(other)
    for out, options, message in (
        (tmp_path / "no" / "out.gguf", [], "is not a directory"),
        (tmp_path, [], "name it"),
        (tmp_path / "out.gguf", ["--merge", str(other)], "'blk.0.attn_q.weight' has 99 weights there, 256 here"),
    ):
        assert app.run(["imatrix", model, str(source), str(out), *options]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "folder.gguf").mkdir()
    assert app.run(["imatrix", model, str(source), str(tmp_path / "folder.gguf")]) == 1
    assert "it is a directory" in capsys.readouterr().err


def test_a_merge_that_fails_after_the_work_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The name of the text is no UTF-8 either.
    source, out, other = tmp_path / "text\udcff.txt", tmp_path / "out.dat", tmp_path / "other.gguf"
    try:
        source.write_text(text(), "utf-8")
    except (OSError, UnicodeError):
        source = tmp_path / "text.txt"
        source.write_text(text(), "utf-8")
    model = tmp_path / "moe.gguf"
    convert(convert_families.qwen3moe(tmp_path), model, "f16")
    with bq.gguf.open(model) as file:
        name, shape = next((name, t.shape) for name, t in file.tensors.items() if "_exps" in name)
    # As many sums as the model has, of half as many experts.
    entry = Entry(np.ones((shape[0] // 2, 2 * shape[2]), np.float32), np.full(shape[0] // 2, 64))
    bq.imatrix.Imatrix({name: entry}, [], 1, 64).save(other)
    options = ["--ctx", str(N_CTX), "--chunks", "1", "--merge", str(other)]
    assert app.run(["imatrix", str(model), str(source), str(out), *options]) == 1
    assert "holds what was collected, without what was to be merged" in capsys.readouterr().err
    assert name in bq.imatrix.load(out)
    # What was to be merged may be the output too.
    before = other.read_bytes()
    assert app.run(["imatrix", str(model), str(source), str(other), *options]) == 1
    spare = tmp_path / "other.collected.gguf"
    assert f"{spare} holds what was collected" in capsys.readouterr().err
    assert other.read_bytes() == before
    assert bq.imatrix.load(spare)[name].size == bq.imatrix.load(out)[name].size


# ---- llama.cpp's sums ----


class _Tensor(ctypes.Structure):
    """The fields of ggml_tensor up to its data."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


def llama_sums(path: Path, rows: list[list[int]]) -> dict[str, tuple[np.ndarray[Any, Any], int]]:
    """What llama-imatrix sums, through an evaluation callback: by tensor the sums of squares and the rows."""
    module = native_oracle.llama()
    api, found = module.llama_cpp, {}
    base = ctypes.CDLL(str(Path(module.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_op_name.restype = ctypes.c_char_p

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Tensor), ctypes.c_bool, ctypes.c_void_p)
    def watch(tensor: Any, ask: bool, _user: Any) -> bool:
        node = tensor.contents
        if base.ggml_op_name(node.op) != b"MUL_MAT":
            return not ask
        weights, x = (ctypes.cast(node.src[i], ctypes.POINTER(_Tensor)).contents for i in (0, 1))
        name = weights.name.decode()
        if ask:
            return name.startswith("blk.") and x.type == 0
        if not name.startswith("blk."):
            return True
        k, count = x.ne[0], x.ne[1] * x.ne[2] * x.ne[3]
        buffer = (ctypes.c_float * (k * count)).from_address(x.data)
        values = np.frombuffer(buffer, np.float32).reshape(count, k).astype(np.float64)
        sums, seen = found.get(name, (0.0, 0))
        found[name] = sums + (values * values).sum(axis=0), seen + count
        return True

    model = api.llama_model_load_from_file(bytes(path), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
    params.cb_eval = ctypes.cast(watch, type(params.cb_eval))
    context = api.llama_init_from_model(model, params)
    try:
        for row in rows:
            api.llama_memory_clear(api.llama_get_memory(context), True)
            batch = api.llama_batch_init(len(row), 0, 1)
            batch.n_tokens = len(row)
            for i, token in enumerate(row):
                batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            assert api.llama_decode(context, batch) == 0
            api.llama_batch_free(batch)
    finally:
        api.llama_free(context)
        api.llama_model_free(model)
    return found


@pytest.mark.native_oracle
@pytest.mark.parametrize("recipe", ["F32", "Q8_0"])
def test_the_sums_are_llama_imatrixs(recipe: str) -> None:
    path = model_files.tales(recipe)
    with bq.Model.open(path) as model:
        ids = model.tokenizer.encode(text())
        ours = bq.imatrix.collect(model, text(), n_ctx=N_CTX, chunks=CHUNKS)
    theirs = llama_sums(path, windows(ids))
    assert set(theirs) == set(ours)
    for name, (sums, rows) in theirs.items():
        entry = ours.entries[name]
        assert entry.counts.tolist() == [rows]
        # Two engines round activations (to int8 with Q8_0) and the cache in their own ways.
        tolerance = 1e-3 if recipe == "F32" else 0.03
        np.testing.assert_allclose(entry.sums, sums, rtol=tolerance, atol=tolerance * float(sums.mean()))
