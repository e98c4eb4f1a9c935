"""Edits that meet: other edits of the same file, programs that replace it, forked processes, journals left behind."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError, _edit, _journal

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX, or files that can be replaced while they are open")
LONGER = "x" * 300


def write(path: Path, name: str = "old name", **metadata: Any) -> Path:
    with gguf.create(path, {"general.architecture": "llama", "general.name": name, **metadata}) as w:
        w.add_tensor("t", np.arange(64, dtype=np.float32))
        w.add_tensor("u", np.arange(32, dtype=np.float32))
    return path


def name_of(path: Path) -> Any:
    with gguf.open(path) as f:
        np.testing.assert_array_equal(np.asarray(f.tensors["t"]), np.arange(64))
        return f.metadata["general.name"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.gguf")


def interrupt(path: Path, name: str = "NEW NAME") -> Path:
    """Leave the journal of an edit that was killed before it touched the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_journal, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gguf.edit(path, set={"general.name": name})
    return path.with_name(f".{path.name}.edit-journal")


@pytest.mark.parametrize("name", ["NEW NAME", LONGER])
@pytest.mark.parametrize("linked", [False, pytest.param(True, marks=posix)])
def test_one_edit_at_a_time(model: Path, tmp_path: Path, name: str, linked: bool) -> None:
    path = model
    if linked:
        path = tmp_path / "link.gguf"
        path.symlink_to(model)
    with _journal.locked(model):
        with pytest.raises(GGUFError, match="another edit of its metadata is going on"):
            gguf.edit(path, set={"general.name": name})
        # What writes nothing to the file does not wait for it.
        gguf.edit(path, set={"general.name": name}, dry_run=True)
        gguf.edit(path, set={"general.name": name}, output=tmp_path / "out.gguf")
        assert gguf.edit(path).how == "unchanged"
    assert name_of(model) == "old name"
    gguf.edit(path, set={"general.name": name})
    assert name_of(model) == name_of(tmp_path / "out.gguf") == name


def test_a_journal_in_use_is_not_an_interrupted_edit(model: Path) -> None:
    journal = interrupt(model)
    before = journal.read_bytes()
    with _journal.locked(model):
        for use in (gguf.recover, gguf.edit):
            with pytest.raises(GGUFError, match="going on"):
                use(model)
        assert journal.read_bytes() == before
    assert gguf.recover(model)
    assert name_of(model) == "NEW NAME"


@posix
def test_who_waits_for_a_file_that_is_replaced_gets_the_new_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(fd: int) -> bool:
        monkeypatch.undo()
        write(model, "replaced")
        return True

    monkeypatch.setattr(_journal, "try_lock", late)
    with _journal.locked(model) as file:
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(model))


@pytest.mark.parametrize("longer", [False, pytest.param(True, marks=posix)])
def test_processes_that_edit_one_file_lose_no_change(model: Path, longer: bool) -> None:
    code = f"""
        import sys, time
        from blockquant import gguf
        path, key = sys.argv[1:]
        for i in range(25):
            while True:
                try:
                    gguf.edit(path, set={{key: chr(97 + i) * (1 + i * 7 % 9 + {longer} * 40 * (i % 2))}})
                    break
                except gguf.GGUFError as error:
                    assert "going on" in str(error), error
                    time.sleep(0.002)
    """
    gguf.edit(model, set={"a": "0" * 8, "b": "0" * 8})
    processes = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(model), key], stderr=subprocess.PIPE)
        for key in ("a", "b")
    ]
    for process in processes:
        assert process.communicate()[1] == b""
    with gguf.open(model) as f:
        assert f.metadata["a"] == f.metadata["b"] == "y" * (1 + 24 * 7 % 9)
    assert name_of(model) == "old name"
    assert os.listdir(model.parent) == [model.name]


def _replaced(path: Path) -> None:
    write(path, "of another", x=[1, 2, 3])


def _written_to(path: Path) -> None:
    data = path.read_bytes().replace(b"old name", b"by other")
    with open(path, "r+b") as file:
        file.write(data)


def _longer(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("other", [pytest.param(_replaced, marks=posix), _written_to, _longer])
@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("replace_header", {"general.name": "NEW NAME"}),
        ("append_file", {"general.name": LONGER}),
        ("copy_set", {"general.alignment": 64}),
    ],
)
def test_what_others_write_meanwhile_stays(
    model: Path, monkeypatch: pytest.MonkeyPatch, other: Callable[[Path], None], step: str, change: dict[str, Any]
) -> None:
    real = getattr(_edit, step)
    theirs = []

    def late(*arguments: Any) -> Any:
        other(model)
        theirs.append(model.read_bytes())
        return real(*arguments)

    monkeypatch.setattr(_edit, step, late)
    with pytest.raises(GGUFError, match="has changed while it was edited"):
        gguf.edit(model, set=change)
    assert [model.read_bytes()] == theirs
    assert os.listdir(model.parent) == [model.name]


@posix
def test_a_file_that_is_replaced_in_the_last_moment_is_whole(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _journal._write

    def late(*arguments: Any) -> None:
        _replaced(model)
        real(*arguments)

    monkeypatch.setattr(_journal, "_write", late)
    gguf.edit(model, set={"general.name": "NEW NAME"})
    assert name_of(model) == "of another"
    assert os.listdir(model.parent) == [model.name]


def _merge_over(path: Path, spare: Path) -> None:
    gguf.merge(gguf.split(write(spare, "of another"), spare, max_tensors=1)[0].path, path)


@pytest.mark.parametrize(
    "replace",
    [
        lambda path, _: _replaced(path),
        lambda path, spare: gguf.edit(write(spare), set={"general.name": "of another"}, output=path),
        _merge_over,
        lambda path, spare: bq.quantize_file(write(spare, "of another"), path, "Q8_0"),
    ],
)
def test_a_new_file_has_no_use_for_the_journal_of_the_old_one(
    model: Path, tmp_path: Path, replace: Callable[[Path, Path], object]
) -> None:
    journal = interrupt(model)
    replace(model, tmp_path / "spare.gguf")
    assert not journal.exists()
    assert name_of(model) == "of another"


def test_a_journal_stays_as_long_as_its_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = interrupt(model)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write(model)
    assert journal.exists()
    assert gguf.recover(model)


def test_any_shard_finishes_the_edit_of_a_set(model: Path, tmp_path: Path) -> None:
    first, second = (shard.path for shard in gguf.split(model, tmp_path / "s", max_tensors=1))
    for use in (gguf.recover, lambda path: gguf.edit(path).recovered):
        journal = interrupt(first)
        assert use(second)
        assert not journal.exists()
        assert name_of(second) == "NEW NAME"
        gguf.edit(second, set={"general.name": "old name"})


@posix
def test_a_forked_process_leaves_the_writer_alone(tmp_path: Path) -> None:
    code = """
        import os, sys
        import numpy as np
        from blockquant import gguf
        def in_child(leave):
            pid = os.fork()
            if pid == 0:
                leave()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        def refused():
            try:
                w.add_tensor("b", np.ones(10))
            except gguf.GGUFError as error:
                assert "another process" in str(error)
            else:
                os._exit(1)
        with gguf.create(sys.argv[1], {"general.architecture": "x"}) as w:
            w.add_tensor("a", np.ones(1000, np.float32))
            in_child(refused)
            in_child(w.close)
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
            w.add_tensor("b", np.ones(1000, np.float32))
    """
    path = tmp_path / "a.gguf"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=False)
    assert done.returncode == 0
    with gguf.open(path) as f:
        assert list(f.tensors) == ["a", "b"]
    assert os.listdir(tmp_path) == ["a.gguf"]


@posix
def test_the_journal_of_a_later_edit_stays(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _journal._write

    def write_late(*arguments: Any) -> None:
        write(model, "fresh me")  # another program, which removes our journal
        interrupt(model, "NEW NAME")
        real(*arguments)

    monkeypatch.setattr(_journal, "_write", write_late)
    gguf.edit(model, set={"general.name": "too late"})
    monkeypatch.undo()
    assert gguf.edit(model).recovered
    assert name_of(model) == "NEW NAME"


@posix
def test_new_outputs_take_no_owner_and_no_special_bits(model: Path, tmp_path: Path) -> None:
    model.chmod(0o4750)
    if os.geteuid() == 0:
        os.chown(model, 1234, 1234)
    gguf.edit(model, set={"general.name": LONGER}, output=tmp_path / "out.gguf")
    status = (tmp_path / "out.gguf").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o640)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o440])
def test_permissions_of_what_is_replaced_stay(tmp_path: Path, mode: int) -> None:
    source, path = write(tmp_path / "source.gguf"), write(tmp_path / "a.gguf")
    shards = [shard.path for shard in gguf.split(source, tmp_path / "s", max_tensors=1)]
    for file in (path, *shards):
        file.chmod(mode)

    def modes() -> set[int]:
        return {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir() if file != source}

    row = np.ones(4, np.float32)
    for plan, hidden in ((None, 0o600), ({"t": ((4,), "F32")}, mode)):
        with gguf.create(path, {}, plan) as w:
            w.add_tensor("t", row)
            assert modes() == {mode, hidden}
        assert modes() == {mode}
    seen = []
    for change in ({"general.name": LONGER}, {"general.alignment": 64}):
        gguf.edit(source, set=change, output=path, progress=lambda *_: seen.append(modes()))
    gguf.split(source, tmp_path / "s", max_tensors=1, progress=lambda *_: seen.append(modes()))
    assert seen
    assert all(found == {mode} for found in seen)
    assert modes() == {mode}


@posix
def test_outputs_that_are_not_files(model: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for target in (fifo, tmp_path):
        for dry_run in (True, False):
            with pytest.raises(GGUFError, match="not a regular file"):
                gguf.edit(model, set={"general.name": LONGER}, output=target, dry_run=dry_run)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        gguf.edit(model, set={"general.name": LONGER}, output=tmp_path / "none" / "a.gguf", dry_run=True)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    shard = tmp_path / "s-00002-of-00002.gguf"
    shard.mkdir()
    with pytest.raises(GGUFError, match="not a regular file"):
        gguf.split(model, tmp_path / "s", max_tensors=1)
    assert sorted(os.listdir(tmp_path)) == sorted([fifo.name, model.name, shard.name])
