"""What other systems do: no POSIX calls, no replacing of a mapped file, long names of many bytes."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockquant import gguf
from gguf_samples import plan_of, stored_bytes, tensors


class _Msvcrt:
    LK_NBLCK = 2

    @staticmethod
    def locking(fd: int, mode: int, nbytes: int) -> None:
        assert mode == _Msvcrt.LK_NBLCK
        assert nbytes == 1
        if os.lseek(fd, 0, os.SEEK_CUR) <= os.fstat(fd).st_size:
            raise PermissionError(13, "this is locked")


@pytest.fixture
def like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the calls that only POSIX has, and with Windows' refusal to replace or remove a file that is mapped."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", _Msvcrt)
    for module, names in {
        os: (
            "copy_file_range",
            "O_DIRECTORY",
            "posix_fadvise",
            "posix_fallocate",
            "pread",
            "pwrite",
            "sendfile",
            "fchmod",
        ),
        mmap: ("MADV_DONTNEED", "MADV_WILLNEED", "MADV_SEQUENTIAL"),
    }.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)

    def guard(name: str, target_at: int) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            maps = Path("/proc/self/maps")
            target = os.path.realpath(args[target_at])
            if maps.exists() and target in maps.read_text():
                raise PermissionError(13, "The process cannot access the file because it is mapped", target)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    guard("replace", 1)
    guard("unlink", 0)


def _model(path: Path) -> Path:
    samples = tensors()
    with gguf.create(path, {"general.architecture": "llama", "general.name": "old"}, plan_of(samples)) as w:
        for name, tensor in samples.items():
            w.add_tensor(name, tensor)
    return path


def _same_tensors(path: Path) -> None:
    with gguf.open(path) as f:
        for name, tensor in tensors().items():
            assert stored_bytes(f.tensors[name]) == stored_bytes(tensor)


@pytest.mark.usefixtures("like_windows")
def test_every_tool_without_posix(tmp_path: Path) -> None:
    model = _model(tmp_path / "model.gguf")
    with gguf.create(tmp_path / "spooled.gguf", {}) as w:
        w.add_tensor("a", np.ones(4, np.float32))
    assert gguf.edit(model, set={"general.name": "new"}).how == "in place"
    assert gguf.edit(model, set={"general.name": "x" * 99}).how == "rewritten"
    assert gguf.edit(model, set={"general.alignment": 64}).how == "rewritten"
    _same_tensors(model)
    assert gguf.verify(model).tensors == len(tensors())
    shards = gguf.split(model, tmp_path / "s", max_tensors=10)
    gguf.edit(shards[2].path, set={"general.name": "y" * 200})
    merged = gguf.merge(shards[1].path, tmp_path / "merged.gguf")
    _same_tensors(merged)
    assert [d.key for d in gguf.diff(model, merged).metadata] == ["general.name"]
    gguf.merge(shards[1].path, merged)  # an existing file is replaced
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.usefixtures("like_windows")
def test_a_file_that_is_in_use_elsewhere_stays_as_it_was(tmp_path: Path) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc to know what is mapped")
    model = _model(tmp_path / "model.gguf")
    before = model.read_bytes()
    with gguf.open(model) as other:
        with pytest.raises(PermissionError, match="mapped"):
            gguf.edit(model, set={"general.name": "x" * 99})
        assert len(other.tensors) == len(tensors())
    assert model.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.gguf"]


@pytest.mark.parametrize("name", ["a" * 240, "模" * 80, "é" * 120])
def test_names_as_long_as_file_systems_allow(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.gguf"
    assert len(os.fsencode(path.name)) <= 255
    _model(path)
    gguf.edit(path, set={"general.name": "new"})
    gguf.edit(path, set={"general.name": "x" * 99})
    _same_tensors(path)
    assert os.listdir(tmp_path) == [path.name]
