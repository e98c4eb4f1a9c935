"""Where quantize_file reads and writes: shards, links, odd names, and memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
import quantize_models as models
from blockquant import gguf, imatrix, recipes
from blockquant.imatrix import Entry, Imatrix
from blockquant.quantizer import output, pipeline, steps
from blockquant.recipes import custom


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return models.dense(tmp_path / "small.gguf", layers=3, embedding=256, feed_forward=256, kv=64, tied=False)


def split(source: Path, prefix: Path, tensors: int) -> list[Path]:
    """The file as a set of shards, `tensors` in each, not in llama-quantize's order."""
    from blockquant.gguf import _shards as shards

    with gguf.open(source) as file:
        groups = shards.group_by_number(reversed(list(file.tensors)), tensors)
        paths = [shards.shard_path(prefix, index, len(groups)) for index in range(len(groups))]
        for index, (path, names) in enumerate(zip(paths, groups, strict=True)):
            metadata = shards.shard_metadata(file.typed_metadata(), index, len(groups), len(file.tensors))
            with gguf.create(path, metadata) as out:
                for name in names:
                    out.add_tensor(name, file.tensors[name])
    return paths


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    with gguf.open(path) as file:
        return {
            name: (str(file.tensor_infos[name].format), np.ascontiguousarray(getattr(t, "data", t)).tobytes())
            for name, t in file.tensors.items()
        }


# --- shards ---


def test_a_set_stays_a_set(small: Path, tmp_path: Path) -> None:
    paths = split(small, tmp_path / "in", 7)
    report = bq.quantize_file(paths[0], tmp_path / "out.gguf", "Q8_0", keep_split=True)
    assert [p.name for p in report.paths] == [p.name.replace("in-", "out-") for p in paths]
    assert not (tmp_path / "out.gguf").exists()
    assert report.file_bytes == sum(p.stat().st_size for p in report.paths)
    for before, after in zip(paths, report.paths, strict=True):
        with gguf.open(before, shards=False) as a, gguf.open(after, shards=False) as b:
            assert list(a.tensors) == list(b.tensors)
            assert list(b.metadata)[-3:] == ["split.no", "split.count", "split.tensors.count"]
    bq.quantize_file(small, tmp_path / "one.gguf", "Q8_0")
    assert contents(report.paths[0]) == contents(tmp_path / "one.gguf")
    # From any shard, to the name of a shard; and a set of another kind with it.
    again = bq.quantize_file(paths[2], report.paths[1], "Q8_0", keep_split=True)
    assert again.paths == report.paths
    # A single file stays one.
    assert bq.quantize_file(small, tmp_path / "two.gguf", "Q8_0", keep_split=True).paths == (tmp_path / "two.gguf",)


@pytest.mark.native_oracle
@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q3_K_M", "Q2_K", "Q5_0"])
def test_whole_shards(recipe: str, tmp_path: Path) -> None:
    import native_oracle

    source = models.dense(tmp_path / "small.gguf", 9, 256, 512, 64, tied=False)
    paths = split(source, tmp_path / "in", 13)
    (tmp_path / "theirs").mkdir()
    native_oracle.quantize(paths[0], tmp_path / "theirs" / "out", recipes.get(recipe).file_type, keep_split=True)
    report = bq.quantize_file(paths[0], tmp_path / "out.gguf", recipe, keep_split=True)
    assert len(report.paths) == len(paths) > 4
    for path in report.paths:
        assert path.read_bytes() == (tmp_path / "theirs" / path.name).read_bytes()


def test_shards_of_a_size(small: Path, tmp_path: Path) -> None:
    report = bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0", max_shard_size="200K")
    assert len(report.paths) > 3
    assert report.paths[0].name == f"out-00001-of-{len(report.paths):05}.gguf"
    for index, path in enumerate(report.paths):
        with gguf.open(path, shards=False) as file:
            assert 0 < sum(info.nbytes for info in file.tensor_infos.values()) <= 200_000
            assert file.metadata["split.no"] == index
            assert ("general.architecture" in file.metadata) == (index == 0)
    bq.quantize_file(small, tmp_path / "one.gguf", "Q8_0")
    assert contents(report.paths[0]) == contents(tmp_path / "one.gguf")
    with gguf.open(report.paths[0]) as a, gguf.open(tmp_path / "one.gguf") as b:
        assert list(a.metadata.items()) == list(b.metadata.items())
    # What fits in one stays one.
    assert bq.quantize_file(small, tmp_path / "two.gguf", "Q8_0", max_shard_size=10**9).paths == (
        tmp_path / "two.gguf",
    )
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_shards_that_cannot_be(small: Path, tmp_path: Path) -> None:
    for message, options in (
        ("keep_split keeps the input's shards", {"keep_split": True, "max_shard_size": "1G"}),
        ("'5 apples' is not a size", {"max_shard_size": "5 apples"}),
        ("more than nothing", {"max_shard_size": 0}),
    ):
        with pytest.raises(ValueError, match=message):
            bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0", **options)  # type: ignore[arg-type]
    paths = split(small, tmp_path / "in", 7)
    for target in (tmp_path / "in.gguf", paths[1]):
        with pytest.raises(ValueError, match="is the input"):
            bq.quantize_file(paths[0], target, "Q8_0", keep_split=True)
    assert not list(tmp_path.glob("*.partial"))


# --- places ---


@pytest.mark.parametrize("name", ["with spaces .gguf", "Gewürze 模型 🎉.gguf", "no-suffix", "n" * 250])
def test_odd_names(name: str, small: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"in {name[:20]}"
    folder.mkdir()
    source = folder / name
    shutil.copyfile(small, source)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / name

    def stop(*_: Any) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        bq.quantize_file(source, target, "Q8_0", progress=stop, keep_partial=True)
    assert len(list(target.parent.iterdir())) == 2
    bq.quantize_file(source, target, "Q8_0", resume=True)
    assert [p.name for p in target.parent.iterdir()] == [name]
    bq.quantize_file(small, tmp_path / "plain.gguf", "Q8_0")
    assert target.read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_read_only_input(small: Path, tmp_path: Path) -> None:
    small.chmod(0o444)
    bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0")
    assert (tmp_path / "out.gguf").stat().st_size > 0


def test_the_input_by_another_name(small: Path, tmp_path: Path) -> None:
    try:
        (tmp_path / "link.gguf").symlink_to(small)
        os.link(small, tmp_path / "hard.gguf")
    except OSError:
        pytest.skip("no links here")
    before = small.read_bytes()
    os.link(small, tmp_path / "out.gguf.partial")
    for name in ("link.gguf", "hard.gguf", "./small.gguf", "out.gguf"):
        with pytest.raises(ValueError, match="is the input"):
            bq.quantize_file(small, tmp_path / name, "Q8_0")
        assert small.read_bytes() == before
    with pytest.raises(ValueError, match="is the input"):
        bq.quantize_file(tmp_path / "link.gguf", small, "Q8_0", resume=True)


def test_the_recipe_and_the_matrix_are_inputs(small: Path, tmp_path: Path) -> None:
    matrix = Imatrix({"blk.0.attn_q.weight": Entry(np.ones(256), np.array([512]))})
    weights, recipe = tmp_path / "weights.gguf", tmp_path / "mine.toml"
    matrix.save(weights)
    recipe.write_text('base = "Q4_0"')
    before = weights.read_bytes()
    for given in (weights, str(weights), imatrix.load(weights)):
        with pytest.raises(ValueError, match=r"weights\.gguf is the input"):
            bq.quantize_file(small, weights, recipe, imatrix=given)
    with pytest.raises(ValueError, match=r"mine\.toml is the input"):
        bq.quantize_file(small, recipe, recipe)
    assert weights.read_bytes() == before
    # A recipe that was a text, and a matrix that has no file any more.
    loaded = imatrix.load(weights)
    weights.unlink()
    bq.quantize_file(small, weights, custom.parse('base = "Q4_0"'), imatrix=loaded)


def test_a_link_as_output(small: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "real.gguf", tmp_path / "out.gguf"
    try:
        link.symlink_to(real)
    except OSError:
        pytest.skip("no links here")
    assert bq.quantize_file(small, link, "Q8_0").paths == (link,)  # the link dangled
    assert link.is_symlink()
    first = real.read_bytes()
    bq.quantize_file(small, link, "Q4_0")
    assert link.is_symlink()
    assert real.read_bytes() != first
    assert [p.name for p in real.parent.iterdir()] == ["real.gguf"]


def test_outputs_that_cannot_be(small: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder exists and is not a regular file"):
        bq.quantize_file(small, tmp_path / "folder", "Q8_0")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        bq.quantize_file(small, tmp_path / "none" / "out.gguf", "Q8_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "small.gguf"]


def test_a_partial_file_of_someone_else_stays(small: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.gguf.partial"
    partial.write_bytes(b"half a download")
    with pytest.raises(FileExistsError) as caught:
        bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0")
    assert Path(caught.value.filename) == partial
    assert partial.read_bytes() == b"half a download"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf.partial", "small.gguf"]
    # What a run leaves that is killed before its journal begins is no obstacle.
    bq.quantize_file(small, tmp_path / "whole.gguf", "Q8_0")
    for left in (b"", bytes(1000), (tmp_path / "whole.gguf").read_bytes()[:77]):
        partial.write_bytes(left)
        bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0")
        assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
        assert not partial.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_another_file_system(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if os.stat(name).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("the temporary folder is on the same file system")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        bq.quantize_file(small, Path(name) / "out.gguf", "Q8_0")
        assert os.listdir(name) == ["out.gguf"]


# --- memory ---

PEAK = (
    "import resource, sys, numpy, blockquant as bq\n"
    "bq.quantize(numpy.zeros((8, 256), 'f4'), sys.argv[3])\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "bq.quantize_file(sys.argv[1], sys.argv[2], sys.argv[3], pure=True)\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
)


def peak(folder: Path, shapes: dict[str, tuple[int, ...]], recipe: str) -> int:
    """Bytes by which quantizing a file of these F16 tensors, all zeros, raises the memory of a process."""
    pytest.importorskip("resource")
    metadata = models.hyper_parameters("llama", block_count=len(shapes), attention__head_count=8)
    source = models.header_only(folder / "in.gguf", metadata, shapes, np.dtype(np.float16))
    command = [sys.executable, "-c", PEAK, str(source), str(folder / "out.gguf"), recipe]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout) * (1 if sys.platform == "darwin" else 1024)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    few = peak(tmp_path, {f"blk.{i}.ffn_up.weight": (16384, 1024) for i in range(2)}, "Q8_0")  # 64 MiB
    many = peak(tmp_path, {f"blk.{i}.ffn_up.weight": (16384, 1024) for i in range(12)}, "Q8_0")  # 384 MiB
    one = peak(tmp_path, {"blk.0.ffn_up.weight": (16384 * 12, 1024)}, "Q8_0")  # the same in one tensor
    for other in (many, one):
        assert other < few + (24 << 20)
        assert other < 96 << 20


@pytest.mark.slow
@pytest.mark.parametrize("one_tensor", [False, True])
def test_memory_for_a_model_of_20_gigabytes(one_tensor: bool, tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 8 << 30:
        pytest.skip("the output takes 2.1 GB, and more should be left")
    rows = 10 * (1 << 30) // 8192  # 20 GiB in all
    shapes = {f"blk.{i}.ffn_up.weight": (rows // 40, 8192) for i in range(40)}
    try:
        grown = peak(tmp_path, {"blk.0.ffn_up.weight": (rows, 8192)} if one_tensor else shapes, "TQ1_0")
        assert (tmp_path / "in.gguf").stat().st_size > 20 << 30
        assert (tmp_path / "out.gguf").stat().st_size > 2 << 30
    finally:
        (tmp_path / "out.gguf").unlink(missing_ok=True)
    assert grown < 128 << 20


# --- at the same time ---


def test_reading_encoding_and_writing_overlap(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece is only written once the next is encoded and a later one read; but none runs far ahead."""
    monkeypatch.setattr(steps, "PIECE", 4096)
    events: dict[tuple[str, int], threading.Event] = {}
    count = {"read": 0, "encoded": 0, "written": 0}
    ahead: list[int] = []

    def happened(what: str) -> None:
        count[what] += 1
        events.setdefault((what, count[what]), threading.Event()).set()

    def await_(what: str, number: int) -> None:
        assert events.setdefault((what, number), threading.Event()).wait(20), f"no {what} {number}"

    rows_of, encode, write = pipeline.rows_of, steps.Encoder.encode, output.Output.write

    def read(*arguments: Any) -> Any:
        happened("read")
        return rows_of(*arguments)

    def encoding(*arguments: Any) -> Any:
        happened("encoded")
        ahead.append(count["encoded"] - count["written"])
        return encode(*arguments)

    def writing(self: output.Output, index: int, at: int, data: Any) -> None:
        if at:  # not a header
            if count["written"] == 0:
                await_("encoded", 2)
                await_("read", 4)
            happened("written")
        write(self, index, at, data)

    monkeypatch.setattr(pipeline, "rows_of", read)
    monkeypatch.setattr(steps.Encoder, "encode", encoding)
    monkeypatch.setattr(output.Output, "write", writing)
    bq.quantize_file(small, tmp_path / "out.gguf", "Q8_0")
    assert count["read"] == count["encoded"] == count["written"] > 200
    assert max(ahead) <= 5


# --- the command ---


def command(*arguments: object) -> int:
    pytest.importorskip("typer")
    from blockquant.cli.app import run

    return run(["quantize", *map(str, arguments)])


def test_command_with_shards_and_resume(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert command(small, out, "Q8_0", "--max-shard-size", "200K", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "would write" in text
    planned = int(text.split()[-2].replace(",", ""))
    assert not list(tmp_path.glob("out*"))
    assert command(small, out, "Q8_0", "--max-shard-size", "200K", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert planned == report["file_bytes"] == sum(Path(p).stat().st_size for p in report["paths"])
    assert command(report["paths"][0], tmp_path / "kept.gguf", "Q4_0", "--keep-split", "--allow-requantize") == 0
    assert len(list(tmp_path.glob("kept-*"))) == len(report["paths"])
    assert f"wrote {tmp_path}/kept-00001-of-" in capsys.readouterr().out.replace("\\", "/")

    def stop(*_: Any) -> None:
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        bq.quantize_file(small, out, "Q8_0", progress=stop, keep_partial=True)
    assert command(small, out, "Q4_0", "--resume") == 1
    assert "begun with another recipe; run without resume to start over" in capsys.readouterr().err
    assert command(small, out, "Q8_0", "--resume") == 0
    assert "resumed: an earlier run had done" in capsys.readouterr().out
    with pytest.raises(ValueError, match="stop"):
        bq.quantize_file(small, out, "Q8_0", progress=stop, keep_partial=True)
    assert command(small, out, "Q4_0") == 0
    assert "--resume would continue it" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.glob("out.*")) == ["out.gguf"]


def test_command_plans_requantizing(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bq.quantize_file(small, tmp_path / "q8.gguf", "Q8_0")
    assert command(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q4_K_M", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "23 tensors are already quantized" in text
    assert "needs --allow-requantize" in text
    assert command(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q4_K_M", "--dry-run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["target"] is None
    assert len(report["requantized"]) == 23
    assert report["bits_per_weight"] < report["source_bits_per_weight"]


def test_the_progress_bar_is_one_line(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    import io
    import re

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for name, value in (("COLUMNS", "80"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert command(small, tmp_path / "out.gguf", "Q8_0") == 0
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n")
    lines = [line for line in drawn.split("\n") if line.strip()]
    assert lines
    for line in lines:
        assert len(line) <= 80
        assert line.startswith("Q8_0 ")
    assert re.search(r"2\.3/2\.3 MB +[0-9?].* [-0-9:]+ +\S+", lines[-1]), lines


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_permissions_of_what_is_replaced_stay(small: Path, tmp_path: Path) -> None:
    out, matrix = tmp_path / "out.gguf", tmp_path / "old.dat"
    for file in (out, matrix):
        file.touch()
        file.chmod(0o600)
    seen = []
    bq.quantize_file(
        small, out, "Q4_0", progress=lambda *_: seen.append((tmp_path / "out.gguf.partial").stat().st_mode)
    )
    entry = bq.imatrix.Entry(np.ones((1, 256), np.float32), np.full(1, 64))
    bq.imatrix.Imatrix({"blk.0.attn_q.weight": entry}, [], 1, 64).save(matrix)
    assert {mode & 0o777 for mode in (*seen, out.stat().st_mode, matrix.stat().st_mode)} == {0o600}
