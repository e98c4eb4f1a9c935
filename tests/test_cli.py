"""The command line as a person meets it: the demo, help texts, and failures in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import blockquant as bq
import numpy as np
import pytest

pytest.importorskip("typer")
ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "tales-6m"
COMMANDS = (
    *("demo", "convert", "quantize", "recipes", "run", "eval", "compare", "imatrix", "imatrix-info", "imatrix-merge"),
    *("inspect", "verify", "split", "merge", "edit", "diff", "bench"),
)


def blockquant(
    *arguments: object, cwd: Path | None = None, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "blockquant", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding=environment.get("PYTHONIOENCODING"),
        input=stdin,
        cwd=cwd,
        check=False,
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", **environment},
    )


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tales.gguf"
    bq.convert(MODEL, path, dtype="f16")
    return path


def test_help_of_everything_has_an_example() -> None:
    done = blockquant("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", done.stdout), command
        shown = blockquant(command, "--help")
        assert shown.returncode == 0, shown.stderr
        assert f"blockquant {command}" in shown.stdout.replace("\n", " "), command
    assert blockquant("--version").stdout.strip() == f"blockquant {bq.__version__}"


def test_wrong_usage_is_status_2() -> None:
    for line in (["quantize"], ["no-such-command"], ["inspect", "--no-such-option", "x"], ["bench", "sideways"]):
        done = blockquant(*line)
        assert done.returncode == 2, (line, done.stderr)
        assert "Traceback" not in done.stderr


def test_wrong_values_of_options_are_status_2(f16: Path, tmp_path: Path) -> None:
    for line, says in (
        (["edit", f16, "--set-file", "nonsense"], "KEY=FILE"),
        (["split", f16, tmp_path / "m", "--max-shard-size", "abc"], "is not a size"),
        (["quantize", f16, tmp_path / "m", "Q4_0", "--max-shard-size", "5X"], "is not a size"),
    ):
        done = blockquant(*line)
        assert done.returncode == 2, (line, done.stderr)
        assert says in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_what_a_terminal_cannot_show_is_no_failure(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / (os.fsdecode(b"caf\xe9.gguf") if sys.platform == "linux" else "Łódź.gguf")
    name = "Märchen \U0001f600 \udcff"
    with bq.gguf.create(path, {"general.architecture": "llama", "general.name": name}) as writer:
        writer.add_tensor("t", np.ones(32, np.float32))
    for command in (["inspect"], ["verify"], ["inspect", "--json"]):
        done = blockquant(command[0], path, *command[1:], PYTHONIOENCODING=encoding)
        assert done.returncode == 0, (command, done.stderr)
    assert json.loads(done.stdout)["metadata"]["general.name"]["value"] == name
    done = blockquant("inspect", path.with_suffix(".none"), PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert "No such file" in done.stderr


def test_demo_prints_the_table_and_a_story(tmp_path: Path) -> None:
    recipes = ("Q8_0", "Q4_K_M", "Q2_K")
    common = ("--recipes", ",".join(recipes), "--chunks", 4, "--keep", tmp_path)
    done = blockquant("demo", MODEL, *common, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["recipe"]: row for row in result["table"]}
    assert list(rows) == ["F16", *recipes]
    bits = [rows[name]["bits_per_weight"] for name in rows]
    assert bits == sorted(bits, reverse=True)
    # The first windows, a title page and a preface, are harder than the rest: about 65.
    assert 50 < rows["F16"]["perplexity"] < 80
    assert rows["Q2_K"]["perplexity"] > rows["Q8_0"]["perplexity"] * 1.01
    assert abs(rows["Q8_0"]["perplexity"] / rows["F16"]["perplexity"] - 1) < 0.01
    assert all(row["tokens_per_second"] > 0 for row in rows.values())
    for name, row in rows.items():
        assert (tmp_path / f"tales-6m-{name}.gguf").stat().st_size == row["bytes"]
    assert result["story"].startswith("Once upon a time")
    assert len(result["story"].split()) > 50
    shown = blockquant("demo", MODEL, "--recipes", "Q4_K_M", "--chunks", 1)
    assert shown.returncode == 0, shown.stderr
    for word in ("bits per weight", "perplexity", "Q4_K_M", "Once upon a time"):
        assert word in shown.stdout


def test_demo_of_a_small_context(tmp_path: Path) -> None:
    directory = _with_config(tmp_path, max_position_embeddings=32)
    (directory / "eval.txt").write_bytes((MODEL / "eval.txt").read_bytes()[:20_000])
    done = blockquant("demo", directory, "--recipes", "", "--chunks", 1, "--ctx", 64, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["story"].split()) > 50


def test_quantize_run_and_eval(f16: Path, tmp_path: Path) -> None:
    out = tmp_path / "q4.gguf"
    done = blockquant("quantize", f16, out, "Q4_K_M")
    assert done.returncode == 0, done.stderr
    again = blockquant("run", out, "Once upon a time", "--max-tokens", 24, "--temperature", 0)
    assert again.returncode == 0, again.stderr
    with bq.gguf.open(out) as file:
        assert file.metadata["general.file_type"] == 15
    greedy = "".join(bq.Model.open(out).generate("Once upon a time", max_tokens=24, temperature=0.0))
    assert greedy.strip() in again.stdout
    assert "tokens/s" in again.stderr
    piped = blockquant("run", out, "--max-tokens", 24, "--temperature", 0, stdin="Once upon a time")
    assert greedy.strip() in piped.stdout
    text = tmp_path / "text.txt"
    text.write_text((MODEL / "eval.txt").read_text(encoding="utf-8")[:20000], encoding="utf-8")
    scored = blockquant("eval", out, text, "--ctx", 256, "--chunks", 3, "--json")
    assert scored.returncode == 0, scored.stderr
    assert 50 < json.loads(scored.stdout)["ppl"] < 100


def _truncated(f16: Path, tmp_path: Path) -> Path:
    path = tmp_path / "short.gguf"
    path.write_bytes(f16.read_bytes()[:5000])
    return path


def _with_config(tmp_path: Path, **changes: object) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, directory / name)
    config = json.loads((MODEL / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _nan_weights(tmp_path: Path) -> Path:
    path = tmp_path / "nan.gguf"
    weights = np.zeros((4, 256), np.float32)
    weights[2, 17] = np.nan
    with bq.gguf.create(path, {"general.architecture": "llama", "llama.block_count": 1}) as writer:
        writer.add_tensor("blk.0.attn_q.weight", weights)
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (lambda f, t: ["quantize", f, t / "out.gguf", "Q4_KM"], "Q4_K_M"),
        (lambda f, t: ["quantize", _truncated(f, t), t / "out.gguf", "Q4_K_M"], "short.gguf"),
        (lambda f, t: ["quantize", t / "missing.gguf", t / "out.gguf", "Q4_K_M"], "missing.gguf"),
        (lambda f, t: ["quantize", _nan_weights(t), t / "out.gguf", "Q4_0"], "[2, 17]"),
        (lambda f, t: ["quantize", f, t / "out.gguf", "Q4_K_M", "--tensor-type", "attn=Q9"], "Q9"),
        (lambda f, t: ["quantize", f, t / "out.gguf", "IQ1_S"], "pass imatrix="),
        (lambda f, t: ["convert", t, t / "out.gguf"], "config.json"),
        (
            lambda f, t: ["convert", _with_config(t, architectures=["MambaForCausalLM"]), t / "out.gguf"],
            "Qwen3ForCausalLM",
        ),
        (lambda f, t: ["convert", _with_config(t, num_hidden_layers=7), t / "out.gguf"], "layers.6"),
        (lambda f, t: ["convert", MODEL, t / "out.gguf", "--dtype", "q3"], "q3"),
        (lambda f, t: ["run", _truncated(f, t), "Hello"], "short.gguf"),
        (lambda f, t: ["run", MODEL / "config.json", "Hello"], "config.json"),
        (lambda f, t: ["run", _nan_weights(t), "Hello"], "llama."),
        (lambda f, t: ["eval", f, t / "missing.txt"], "missing.txt"),
        (lambda f, t: ["inspect", _truncated(f, t)], "short.gguf"),
        (lambda f, t: ["demo", t], "eval.txt"),
        (lambda f, t: ["demo", t / "nowhere"], "not a directory"),
        (lambda f, t: ["demo", MODEL, "--recipes", "Q4_K_M,Q4_Q"], "Q4_Q"),
        (lambda f, t: ["bench", "model"], "--model"),
        (lambda f, t: ["bench", "encode", "--formats", "Q77"], "Q77"),
    ],
)
def test_bad_input_is_one_line_and_status_1(line, says: str, f16: Path, tmp_path: Path) -> None:
    arguments = line(f16, tmp_path)
    done = blockquant(*arguments)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "out.gguf").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
    assert "Traceback" in blockquant(*arguments, "--debug").stderr


def test_verify_reports_a_truncated_file(f16: Path, tmp_path: Path) -> None:
    done = blockquant("verify", _truncated(f16, tmp_path))
    assert done.returncode == 1
    assert "short.gguf" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert blockquant("verify", f16).returncode == 0
