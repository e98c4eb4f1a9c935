"""Comparisons of models: the definitions, written again in numpy, on our logits and on llama.cpp's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import blockquant as bq
import llamacpp
import model_files
import numpy as np
import pytest
from blockquant.cli import app
from blockquant.errors import BlockquantError
from blockquant.transformer.compare import compare_all

N_CTX, CHUNKS = 128, 6


def text() -> str:
    return model_files.eval_text()[:60_000]


def windows(model: bq.Model) -> list[list[int]]:
    ids = model.tokenizer.encode(text())
    return [ids[i * N_CTX : (i + 1) * N_CTX] for i in range(CHUNKS)]


def statistics(
    pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[int]]],
) -> dict[str, float]:
    """llama-perplexity's definitions, position by position; pairs of logits [n_ctx, V] of model and baseline."""
    kld, same, nll, nll_base, change = [], [], [], [], []
    for logits, baseline, ids in pairs:
        for at in range(N_CTX // 2, N_CTX - 1):
            q, p = (row.astype(np.float64) for row in (logits[at], baseline[at]))
            q -= q.max() + math.log(np.exp(q - q.max()).sum())
            p -= p.max() + math.log(np.exp(p - p.max()).sum())
            kld.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a > -16))
            same.append(int(q.argmax()) == int(p.argmax()))
            nll.append(-q[ids[at + 1]])
            nll_base.append(-p[ids[at + 1]])
            change.append(math.exp(-nll[-1]) - math.exp(-nll_base[-1]))
    count = len(kld)
    ordered = sorted(kld)

    def percentile(share: float) -> float:
        place = share * (count - 1)
        low = int(place)
        return ordered[low] + (place - low) * (ordered[min(low + 1, count - 1)] - ordered[low])

    def error(values: list[float]) -> float:
        return float(np.std(values)) / math.sqrt(count - 1)

    ratio = math.exp(np.mean(nll) - np.mean(nll_base))
    return {
        "kld_mean": float(np.mean(kld)),
        "kld_stderr": error(kld),
        "kld_min": ordered[0],
        "kld_p05": percentile(0.05),
        "kld_median": percentile(0.5),
        "kld_p90": percentile(0.9),
        "kld_p99": percentile(0.99),
        "kld_p999": percentile(0.999),
        "kld_max": ordered[-1],
        "top1_agreement": float(np.mean(same)),
        "ppl": math.exp(np.mean(nll)),
        "ppl_stderr": math.exp(np.mean(nll)) * error(nll),
        "ppl_baseline": math.exp(np.mean(nll_base)),
        "ppl_ratio": ratio,
        "ppl_ratio_stderr": ratio * error([a - b for a, b in zip(nll, nll_base, strict=True)]),
        "p_diff_mean": float(np.mean(change)),
        "p_diff_rms": math.sqrt(np.mean(np.square(change))),
        "tokens": count,
    }


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    return bq.compare(model_files.tales("Q4_0"), model_files.tales("F16"), text(), n_ctx=N_CTX, chunks=CHUNKS)


def test_the_definitions(found: dict[str, float]) -> None:
    with bq.Model.open(model_files.tales("Q4_0")) as model, bq.Model.open(model_files.tales("F16")) as base:
        wanted = statistics([(model.logits(ids), base.logits(ids), ids) for ids in windows(base)])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert found["bits_per_weight_baseline"] == pytest.approx(16, abs=0.1)
    assert found["bits_per_weight"] == pytest.approx(4.6, abs=0.5)


def test_llama_cpps_logits_give_the_same(found: dict[str, float]) -> None:
    with bq.Model.open(model_files.tales("F16")) as model:
        cut = windows(model)
    with llamacpp.Model(model_files.tales("Q4_0")) as model, llamacpp.Model(model_files.tales("F16")) as base:
        wanted = statistics([(model.logits(ids), base.logits(ids), ids) for ids in cut])
    # Activations are rounded to int8 in two ways, which adds a divergence of its own to both sides.
    assert found["kld_mean"] == pytest.approx(wanted["kld_mean"], rel=0.06)
    assert found["kld_median"] == pytest.approx(wanted["kld_median"], rel=0.08)
    assert found["kld_p90"] == pytest.approx(wanted["kld_p90"], rel=0.12)
    assert found["top1_agreement"] == pytest.approx(wanted["top1_agreement"], abs=0.03)
    assert found["ppl"] == pytest.approx(wanted["ppl"], rel=0.005)
    assert found["ppl_ratio"] == pytest.approx(wanted["ppl_ratio"], rel=0.005)


def test_a_model_equals_itself() -> None:
    with bq.Model.open(model_files.tales("Q8_0")) as model:
        found = bq.compare(model, model, text(), n_ctx=64, chunks=2)
    assert found["kld_max"] == pytest.approx(0, abs=1e-12)
    assert (found["top1_agreement"], found["ppl_ratio"]) == (1, pytest.approx(1))
    assert found["ppl_ratio_stderr"] == pytest.approx(0, abs=1e-6)


def test_several_models_at_once(found: dict[str, float]) -> None:
    calls: list[tuple[str, int, int]] = []
    q2, q4 = compare_all(
        [model_files.tales("Q2_K"), model_files.tales("Q4_0")],
        model_files.tales("F16"),
        text(),
        N_CTX,
        CHUNKS,
        lambda *a: calls.append(a),
    )
    assert q4 == found
    assert q2["kld_mean"] > 2 * q4["kld_mean"]
    assert calls == [("comparing", i, CHUNKS) for i in range(1, CHUNKS + 1)]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    base = model_files.tales("F16")
    with pytest.raises(ValueError, match=r"the text has \d+ tokens; a comparison with windows of 512"):
        bq.compare(base, base, "short")
    with pytest.raises(ValueError, match="no model to compare"):
        compare_all([], base, text())
    with bq.gguf.open(base) as source:
        metadata, tensors = dict(source.typed_metadata()), dict(source.tensors)
        tokens = list(source.metadata["tokenizer.ggml.tokens"])
        tokens[77] = "something else"
        other = model_files.write(tmp_path / "other.gguf", metadata | {"tokenizer.ggml.tokens": tokens}, tensors)
        with pytest.raises(ValueError, match="different vocabularies, from token 77 on"):
            bq.compare(other, base, text())
        tensors["token_embd.weight"] = tensors["token_embd.weight"][:-1]
        fewer = metadata | {"tokenizer.ggml.tokens": tokens[:-1]}
        other = model_files.write(tmp_path / "smaller.gguf", fewer, tensors)
        with pytest.raises(ValueError, match="vocabularies of 4095 and 4096 tokens"):
            bq.compare(other, base, text())


def test_compare_command(found: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text(), "utf-8")
    base, model = str(model_files.tales("F16")), str(model_files.tales("Q4_0"))
    options = ["--text", str(path), "--ctx", str(N_CTX), "--chunks", str(CHUNKS)]
    assert app.run(["compare", base, model, *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["baseline"] == base
    assert {name: said["models"][0][name] for name in found} == found
    chart = tmp_path / "chart.png"
    pytest.importorskip("matplotlib")
    assert app.run(["compare", base, model, str(model_files.tales("Q2_K")), *options, "--plot", str(chart)]) == 0
    out = capsys.readouterr().out
    assert f"{found['kld_mean']:.6f}" in out
    assert "Q2_K" in out
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert app.run(["compare", base, *options]) == 2
    capsys.readouterr()
    assert app.run(["compare", base, model, *options, "--plot", str(tmp_path / "no" / "chart.png")]) == 1
    assert "chart.png" in capsys.readouterr().err


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose logits are NaN, infinite, and so large that a perplexity is."""
    made = {}
    with bq.gguf.open(model_files.tales("F16")) as source:
        for name, factor in {"nan": math.nan, "infinite": 1e38, "huge": 1e4}.items():
            norm = np.asarray(source.tensors["output_norm.weight"], np.float32) * np.float32(factor)
            path = tmp_path_factory.mktemp("broken") / f"{name}.gguf"
            made[name] = model_files.write(
                path, source.typed_metadata(), dict(source.tensors) | {"output_norm.weight": norm}
            )
    return made


@pytest.mark.parametrize("name", ["nan", "infinite"])
def test_logits_that_are_no_numbers(name: str, broken: dict[str, Path]) -> None:
    good = model_files.tales("F16")
    with np.errstate(all="ignore"):
        with pytest.raises(BlockquantError, match=r"score a text by .*\.gguf: the logit of token \d+ is -?(nan|inf)"):
            bq.compare(broken[name], good, text(), n_ctx=64, chunks=1)
        with pytest.raises(BlockquantError, match=r"by the baseline \(.*\.gguf\): the logit of token"):
            bq.compare(good, broken[name], text(), n_ctx=64, chunks=1)
        with bq.Model.open(broken[name]) as model, pytest.raises(BlockquantError, match="by this model: the logit of"):
            model.perplexity(text(), n_ctx=64, chunks=1)


def test_perplexities_beyond_floats(
    broken: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good, huge = tmp_path / "text.txt", str(model_files.tales("F16")), str(broken["huge"])
    path.write_text(text(), "utf-8")
    options = ["--ctx", "64", "--chunks", "2", "--json"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert app.run(["eval", huge, str(path), *options]) == 0
    said = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert said["ppl"] is None
    assert said["nll"] > 710
    assert app.run(["compare", good, huge, "--text", str(path), *options]) == 0
    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["models"]
    assert (row["ppl"], row["ppl_ratio"]) == (None, None)
    assert row["kld_mean"] > 100
    assert app.run(["eval", huge, str(path), *options[:-1]]) == 0
    assert capsys.readouterr().out.startswith("perplexity inf")
