"""`split` and `merge`: sets of shards of any file, and back to the same bytes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import llamacpp
import model_files
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError
from gguf_samples import NUMBER_ARRAYS, SCALARS, plan_of, stored_bytes, tensors

METADATA = {
    "general.architecture": "llama",
    **SCALARS,
    **NUMBER_ARRAYS,
    "tokens": ["a", "", b"\xff".decode("utf-8", "surrogateescape")],
    "nested": [[1, 2], [["x"]]],
    # A signalling NaN: a copy through Python's floats would change it.
    "nan": np.array([0x7F800001], np.uint32).view(np.float32),
    "split.note": "not one of the three keys of a set",
}


@pytest.fixture(params=["little", "big"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "model é.gguf"
    samples = tensors()
    with gguf.create(path, METADATA, plan_of(samples), endianness=request.param) as w:
        for name, tensor in samples.items():
            w.add_tensor(name, tensor)
    return path


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"max_tensors": 10}, 4),
        ({"max_tensors": 1}, 33),
        ({}, 1),
        ({"max_shard_size": 1}, 33),
        ({"max_shard_size": "1KB"}, None),
        ({"max_shard_size": "1G"}, 1),
        ({"max_tensors": 20, "metadata_only_first": True}, 3),
    ],
)
def test_a_set_merges_to_the_same_bytes(model: Path, tmp_path: Path, limits: dict[str, Any], count: int | None) -> None:
    (tmp_path / "a set").mkdir()
    shards = gguf.split(model, tmp_path / "a set" / "m.gguf", **limits)
    if count is not None:
        assert len(shards) == count
    assert [name for shard in shards for name in shard.tensors] == list(tensors())
    assert [shard.path.name for shard in shards] == [
        f"m-{i + 1:05}-of-{len(shards):05}.gguf" for i in range(len(shards))
    ]
    assert sorted(os.listdir(tmp_path / "a set")) == [shard.path.name for shard in shards]
    with gguf.open(model) as f, gguf.open(shards[-1].path) as whole:
        assert whole.paths == tuple(shard.path for shard in shards)
        assert whole.endianness == f.endianness
        for name, tensor in f.tensors.items():
            assert stored_bytes(whole.tensors[name]) == stored_bytes(tensor)
    again = gguf.merge(shards[-1].path, tmp_path / "again.gguf")
    assert again.read_bytes() == model.read_bytes()


def test_metadata_of_each_shard(model: Path, tmp_path: Path) -> None:
    shards = gguf.split(model, tmp_path / "m", max_tensors=20)
    for i, shard in enumerate(shards):
        with gguf.open(shard.path, shards=False) as f:
            typed = {
                key: (f.metadata_info(key).type, f.metadata[key])
                for key in f.metadata
                if key in gguf._shards.SPLIT_KEYS
            }
            assert typed == {
                "split.no": (gguf.ValueType.UINT16, i),
                "split.count": (gguf.ValueType.UINT16, 2),
                "split.tensors.count": (gguf.ValueType.INT32, 33),
            }
            assert list(f.metadata)[-3:] == [
                "split.no",
                "split.tensors.count",
                "split.count",
            ]  # llama-gguf-split's order
            assert len(f.metadata) == (3 if i else len(METADATA) + 3)
            assert list(f.tensors) == list(shard.tensors)
            assert shard.nbytes == sum(info.nbytes for info in f.tensor_infos.values())


def test_other_alignments_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with gguf.create(path, {"general.architecture": "x"}, alignment=256) as w:
        for i in range(4):
            w.add_tensor(f"t{i}", np.full(5, i, np.float32))
    shards = gguf.split(path, tmp_path / "s", max_tensors=1)
    for shard in shards:
        with gguf.open(shard.path, shards=False) as f:
            assert f.alignment == 256
    assert gguf.merge(shards[0].path, tmp_path / "again.gguf").read_bytes() == path.read_bytes()
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    again = gguf.merge(gguf.split(path, tmp_path / "v2", max_tensors=2)[0].path, tmp_path / "again.gguf")
    with gguf.open(again) as f:
        assert f.version == 3
        assert dict(f.metadata) == {"general.architecture": "x", "general.alignment": 256}


def test_a_set_can_be_split_again(model: Path, tmp_path: Path) -> None:
    first = gguf.split(model, tmp_path / "ten", max_tensors=10)
    second = gguf.split(first[2].path, tmp_path / "five", max_tensors=5)
    assert len(second) == 7
    assert gguf.merge(second[0].path, tmp_path / "again.gguf").read_bytes() == model.read_bytes()


def test_what_is_refused(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(GGUFError, match="not both"):
        gguf.split(model, tmp_path / "m", max_tensors=1, max_shard_size=1)
    with pytest.raises(GGUFError, match="at least one"):
        gguf.split(model, tmp_path / "m", max_tensors=0)
    with pytest.raises(GGUFError, match="not a shard"):
        gguf.merge(model, tmp_path / "out.gguf")
    shards = gguf.split(model, tmp_path / "m", max_tensors=20)
    for target in (shards[1].path, tmp_path / ".." / tmp_path.name / shards[0].path.name):
        with pytest.raises(GGUFError, match="the input itself"):
            gguf.merge(shards[0].path, target)
    with pytest.raises(GGUFError, match="the input itself"):
        gguf.split(shards[0].path, tmp_path / "m", max_tensors=20)
    shards[1].path.unlink()
    with pytest.raises(GGUFError, match="missing"):
        gguf.merge(shards[0].path, tmp_path / "out.gguf")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        gguf.split(model, tmp_path / "none" / "m")
    assert model.read_bytes() == before
    assert not (tmp_path / "out.gguf").exists()


def test_a_failure_leaves_no_shards(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = gguf._writer.write_all

    def full(file: Any, data: memoryview) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, data)

    monkeypatch.setattr("blockquant.gguf._writer.write_all", full)
    with pytest.raises(OSError, match="No space left"):
        gguf.split(model, tmp_path / "m", max_tensors=5)
    assert os.listdir(tmp_path) == [model.name]


def _set_of(tmp_path: Path, number: int) -> list[Path]:
    path = tmp_path / "one.gguf"
    with gguf.create(path, {"general.name": f"v{number}"}) as w:
        for i in range(4):
            w.add_tensor(f"t{i}", np.full(100, number, np.float32))
    return [shard.path for shard in gguf.split(path, tmp_path / "set" / "m", max_tensors=1)]


def _is_version(paths: list[Path], number: int) -> bool:
    with gguf.open(paths[-1]) as f:
        return f.metadata["general.name"] == f"v{number}" and all((t == number).all() for t in f.tensors.values())


def test_a_failed_split_over_a_set_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    paths = _set_of(tmp_path, 1)
    real = gguf._sets._write_file

    def full(source: Any, path: Path, metadata: Any, names: tuple[str, ...], counter: Any) -> None:
        if "t2" in names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, path, metadata, names, counter)

    monkeypatch.setattr(gguf._sets, "_write_file", full)
    with pytest.raises(OSError, match="No space left"):
        _set_of(tmp_path, 2)
    assert _is_version(paths, 1)
    assert sorted(os.listdir(tmp_path / "set")) == [path.name for path in paths]


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("killed", [False, True])
def test_no_mixture_of_two_sets_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, killed: bool) -> None:
    """Whatever is the last thing that is done when shards get their names."""
    (tmp_path / "set").mkdir()
    paths = _set_of(tmp_path, 1)
    done = 0

    def stop(partial: Path, target: Path) -> None:
        nonlocal done
        if done == at:
            raise OSError(errno.EIO, "no")
        done += 1
        os.replace(partial, target)

    monkeypatch.setattr(gguf._sets, "put", stop)
    if killed:
        monkeypatch.setattr(gguf._sets, "remove_all", lambda paths: None)
    if at == len(paths):
        assert _is_version(_set_of(tmp_path, 2), 2)
        return
    with pytest.raises(OSError, match="no"):
        _set_of(tmp_path, 2)
    for path in paths:
        with pytest.raises((GGUFError, FileNotFoundError)):
            gguf.open(path)
    left = os.listdir(tmp_path / "set")
    assert killed or set(left) <= {path.name for path in paths[1:]}


@pytest.mark.parametrize("prefix", [".", "..", "/"])
def test_a_set_has_a_name(model: Path, prefix: str) -> None:
    with pytest.raises(GGUFError, match="is a directory: give what"):
        gguf.split(model, prefix)


def test_a_dry_run_writes_nothing_and_progress_counts_all(model: Path, tmp_path: Path) -> None:
    planned = gguf.split(model, tmp_path / "m", max_tensors=7, dry_run=True)
    assert os.listdir(tmp_path) == [model.name]
    seen: list[tuple[str, int, int]] = []
    shards = gguf.split(model, tmp_path / "m", max_tensors=7, progress=lambda *args: seen.append(args))
    assert shards == planned
    total = sum(shard.nbytes for shard in shards)
    assert seen[-1][1:] == (total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    seen.clear()
    gguf.merge(shards[0].path, tmp_path / "again.gguf", progress=lambda *args: seen.append(args))
    assert seen[-1] == (list(tensors())[-1], total, total)


def test_llama_cpp_runs_our_shards(tmp_path: Path) -> None:
    tales_file = model_files.tales("F16")
    shards = gguf.split(tales_file, tmp_path / "tales", max_shard_size="4MB", metadata_only_first=True)
    assert len(shards) > 2
    with llamacpp.Model(tales_file) as one, llamacpp.Model(shards[0].path) as many:
        ids = one.tokenize("Once upon a time")
        assert many.tokenize("Once upon a time") == ids
        np.testing.assert_array_equal(many.logits(ids), one.logits(ids))


def test_commands(model: Path, tmp_path: Path) -> None:
    typer = pytest.importorskip("typer")
    testing = pytest.importorskip("typer.testing")
    from blockquant.cli import merge, split

    app = typer.Typer()
    split.register(app)
    merge.register(app)

    def run(*arguments: str) -> Any:
        return testing.CliRunner().invoke(app, list(arguments))

    done = run("split", str(model), str(tmp_path / "m"), "--max-tensors", "20", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "would write 2 shards" in done.output
    done = run("split", str(model), str(tmp_path / "m"), "--max-tensors", "20", "--json")
    report = json.loads(done.output)
    assert [row["tensors"] for row in report["shards"]] == [20, 13]
    out = tmp_path / "again.gguf"
    done = run("merge", report["shards"][1]["file"], str(out), "--json")
    assert json.loads(done.output) == {"file": str(out), "tensors": 33, "file_size": model.stat().st_size}
    assert out.read_bytes() == model.read_bytes()
    assert run("split", str(model), "x", "--max-tensors", "2", "--max-shard-size", "2G").exit_code == 2
