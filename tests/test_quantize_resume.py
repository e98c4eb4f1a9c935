"""quantize_file that is killed, interrupted or out of room: the old state, or a journal to continue from."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
import quantize_models as models
from blockquant.quantizer import journal, output, pipeline, steps

RECIPE = "Q3_K_M"
PIECE = 4096  # some 1400 pieces of the bundled model

# Prints a line when the work begins, and the report at the end.
CHILD = """
import json, sys
import blockquant as bq
from blockquant.quantizer import pipeline, steps
steps.PIECE = int(sys.argv[3])
begin = pipeline.Pipeline.run
pipeline.Pipeline.run = lambda self: (print("begin", flush=True), begin(self))[1]
options = json.loads(sys.argv[4])
report = bq.quantize_file(sys.argv[1], sys.argv[2], threads=1, **options)
print(report.resumed_bytes, report.source_bytes)
"""


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.tales(tmp_path_factory.mktemp("tales") / "f16.gguf")


@pytest.fixture(scope="module")
def whole(tales: Path) -> bytes:
    """What an uninterrupted run writes."""
    target = tales.with_name("whole.gguf")
    bq.quantize_file(tales, target, RECIPE)
    return target.read_bytes()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, so that there is something to interrupt."""
    monkeypatch.setattr(steps, "PIECE", PIECE)


def start(source: Path, target: Path, **options: Any) -> subprocess.Popen[str]:
    arguments = [source, target, PIECE, json.dumps({"recipe": RECIPE, **options})]
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(child: subprocess.Popen[str], seconds: float) -> str:
    """Wait for the work to begin, then so long, then kill; what it printed."""
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(seconds)
    child.kill()
    rest, _ = child.communicate()
    return first + rest


def kill_and_resume(source: Path, target: Path, whole: bytes, kills: int, seed: int, **options: Any) -> None:
    """Kill at random moments, resuming each time; the file must come out as if nothing had happened."""
    rng = random.Random(seed)
    child = start(source, target.with_name("timed.gguf"), **options)
    assert child.stdout is not None
    child.stdout.readline()
    began = time.perf_counter()
    child.communicate()
    takes = time.perf_counter() - began
    old = b"what was there before"
    target.write_bytes(old)
    done = [0]
    for number in range(kills):
        printed = kill_after(start(source, target, resume=True, **options), rng.random() ** 2 * takes)
        if target.read_bytes() != old:  # it was done before it was killed
            assert target.read_bytes() == whole
            target = target.with_name(f"out{number}.gguf")
            target.write_bytes(old)
            done.append(0)
            continue
        assert "begin" in printed
        state = journal.Journal(journal.beside(target, ".journal"))
        assert state.is_valid
        assert state.steps >= done[-1]  # a run never loses what an earlier one did
        done.append(state.steps)
        state.close()
    last = start(source, target, resume=True, **options)
    printed, error = last.communicate()
    assert last.returncode == 0, error
    assert target.read_bytes() == whole
    assert (int(printed.split()[-2]) > 0) == (done[-1] > 0)
    assert not target.with_name(target.name + ".partial").exists()
    assert not target.with_name(target.name + ".journal").exists()
    assert max(done) > 0  # something was continued


def test_killed_and_resumed(tales: Path, whole: bytes, tmp_path: Path) -> None:
    kill_and_resume(tales, tmp_path / "out.gguf", whole, kills=5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_many_times(seed: int, tales: Path, whole: bytes, tmp_path: Path) -> None:
    kill_and_resume(tales, tmp_path / "out.gguf", whole, kills=12, seed=100 + seed)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(0, 60, 3))
def test_killed_at_every_stage(moment: int, tales: Path, whole: bytes, tmp_path: Path) -> None:
    """Without a previous journal: whatever is left, the next run with resume makes the file."""
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    child = start(tales, target, resume=True)
    time.sleep(moment / 60 * 0.9)  # from before the first import to the end
    child.kill()
    child.communicate()
    assert target.read_bytes() in (b"old", whole)
    child = start(tales, target, resume=True)
    child.communicate()
    assert child.returncode == 0
    assert target.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf"]


class Stopped(Exception):
    pass


def stop_at(share: float) -> Callable[[str, int, int], None]:
    def progress(_name: str, done: int, total: int) -> None:
        if done > share * total:
            raise Stopped

    return progress


def interrupt(source: Path, target: Path, share: float = 0.5, **options: Any) -> None:
    """A run that stops with its partial file and journal kept."""
    options = {"recipe": RECIPE, **options}
    with pytest.raises(Stopped):
        bq.quantize_file(source, target, progress=stop_at(share), keep_partial=True, **options)
    assert not target.exists()
    assert journal.beside(target, ".partial").exists()
    assert journal.beside(target, ".journal").exists()


@pytest.mark.usefixtures("pieces")
def test_nothing_is_done_twice(tales: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.gguf"
    encoded: list[tuple[str, int]] = []
    encode = steps.Encoder.encode

    def count(self: steps.Encoder, step: steps.Step, rows: Any, out: Any) -> Any:
        encoded.append((step.name, step.first_row))
        return encode(self, step, rows, out)

    monkeypatch.setattr(steps.Encoder, "encode", count)
    interrupt(tales, target, 0.3)
    interrupted = list(encoded)
    encoded.clear()
    calls: list[int] = []
    report = bq.quantize_file(tales, target, RECIPE, resume=True, progress=lambda _n, done, _t: calls.append(done))
    assert target.read_bytes() == whole
    assert not set(interrupted) & set(encoded)
    assert len(interrupted) + len(encoded) >= 1400
    assert 0.25 * report.source_bytes < report.resumed_bytes < 0.31 * report.source_bytes
    assert report.resumed_tensors > 5
    assert calls[0] > report.resumed_bytes
    assert calls[-1] == report.source_bytes
    assert "resumed: an earlier run had done" in repr(report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf"]


@pytest.mark.usefixtures("pieces")
def test_resume_of_nothing_begins(tales: Path, whole: bytes, tmp_path: Path) -> None:
    report = bq.quantize_file(tales, tmp_path / "out.gguf", RECIPE, resume=True)
    assert report.resumed_bytes == 0
    assert (tmp_path / "out.gguf").read_bytes() == whole


@pytest.mark.usefixtures("pieces")
def test_a_journal_of_other_work_is_refused(tales: Path, whole: bytes, tmp_path: Path) -> None:
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    shutil.copyfile(tales, source)
    weights = {"blk.0.attn_q.weight": np.ones(256, np.float32)}
    interrupt(source, target, imatrix=weights)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("out*")}

    def refused(message: str, recipe: str = RECIPE, **options: Any) -> None:
        options = {"imatrix": weights} | options
        with pytest.raises(ValueError, match=message):
            bq.quantize_file(source, target, recipe, resume=True, **options)
        assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("out*")} == before

    refused("begun with another recipe", "Q4_K_M")
    refused("begun with another importance matrix", imatrix={"blk.0.attn_q.weight": np.full(256, 2, np.float32)})
    refused("begun with another importance matrix", imatrix=None)
    refused("the formats, options or metadata were others", overrides={"attn_q": "Q8_0"})
    os.utime(source, ns=(1, 1))
    refused("the source has changed since")
    # Without resume the old work is dropped.
    bq.quantize_file(source, target, RECIPE)
    assert target.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]


@pytest.mark.usefixtures("pieces")
def test_damaged_remains(tales: Path, whole: bytes, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    partial, path = journal.beside(target, ".partial"), journal.beside(target, ".journal")
    interrupt(tales, target)
    kept = path.read_bytes()
    lines = kept.splitlines(keepends=True)
    assert len(lines) > 300

    # The last line torn at any byte: the one before it counts.
    path.write_bytes(kept[:-3])
    report = bq.quantize_file(tales, target, RECIPE, resume=True)
    assert report.resumed_bytes > 0.4 * report.source_bytes
    assert target.read_bytes() == whole
    target.unlink()

    # The first line torn: nothing is known to be done.
    interrupt(tales, target)
    path.write_bytes(lines[0][:-5])
    assert bq.quantize_file(tales, target, RECIPE, resume=True).resumed_bytes == 0
    assert target.read_bytes() == whole
    target.unlink()

    for garbage in (b"not json\n", b"[1]\n", lines[0] + b"{}\n", lines[0] + b"[1, 2, 3]\n[\n"):
        path.write_bytes(garbage)
        with pytest.raises(ValueError, match="is not a journal of quantize"):
            bq.quantize_file(tales, target, RECIPE, resume=True)
        assert path.read_bytes() == garbage
    path.unlink()

    # What someone else has under the journal's name stays, whole or without a newline.
    foreign = (
        b"a diary in one line",
        b"text\n",
        b"\n",
        b"{}\n",
        b"null\n",
        b'{"partials": 5}\n',
        b'{"note": 1}\n["x", 3]\n',
    )
    ours = json.loads(lines[0])
    for garbage in (*foreign, *(json.dumps(ours | {"partials": p}).encode() + b"\n" for p in (5, [5]))):
        path.write_bytes(garbage)
        for resume in (False, True):
            with pytest.raises(ValueError, match="is not a journal of quantize"):
                bq.quantize_file(tales, target, RECIPE, resume=resume)
        assert path.read_bytes() == garbage
    path.unlink()

    for damage in (lambda: partial.unlink(), lambda: os.truncate(partial, 5000), lambda: partial.write_bytes(b"x")):
        interrupt(tales, target)
        damage()
        with pytest.raises(ValueError, match="the partial file is missing or damaged; run without resume"):
            bq.quantize_file(tales, target, RECIPE, resume=True)
    bq.quantize_file(tales, target, RECIPE)
    assert target.read_bytes() == whole


@pytest.mark.usefixtures("pieces")
def test_after_a_reboot_only_what_was_synced_counts(
    tales: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.gguf"
    path = journal.beside(target, ".journal")
    monkeypatch.setattr(journal, "_boot", lambda: "first")
    monkeypatch.setattr(pipeline, "CHECKPOINT", 0.01)
    interrupt(tales, target, 0.4)
    records = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    synced = [count for kind, count in records if kind == "sync"]
    assert synced == sorted(synced)
    assert 0 < synced[-1] <= records[-1][1]
    text = path.read_text()
    # What was written after the last sync is garbage: it did not reach the disk.
    monkeypatch.setattr(journal, "_boot", lambda: "second")
    state = journal.Journal(path)
    assert state.steps == synced[-1]
    state.close()
    assert bq.quantize_file(tales, target, RECIPE, resume=True).resumed_bytes > 0
    assert target.read_bytes() == whole
    target.unlink()

    interrupt(tales, target, 0.4)
    path.write_text("".join(line for line in text.splitlines(keepends=True) if '"sync"' not in line))
    monkeypatch.setattr(journal, "_boot", lambda: "")  # a system that does not tell
    assert bq.quantize_file(tales, target, RECIPE, resume=True).resumed_bytes == 0
    assert target.read_bytes() == whole


@pytest.mark.usefixtures("pieces")
def test_two_runs_for_one_output(tales: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    target = tmp_path / "out.gguf"
    other = journal.Journal(journal.beside(target, ".journal"))
    with pytest.raises(ValueError, match="another process is writing this output"):
        bq.quantize_file(tales, target, RECIPE)
    other.remove()
    bq.quantize_file(tales, target, RECIPE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf"]


def test_a_source_that_changes_meanwhile(tales: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    shutil.copyfile(tales, source)
    with pytest.raises(ValueError, match=r"in.gguf was changed while it was being quantized"):
        bq.quantize_file(source, target, RECIPE, progress=lambda *_: os.utime(source, ns=(5, 5)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_stopped_while_shards_get_their_names(
    renamed: int, tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"recipe": "Q8_0", "max_shard_size": "2M"}
    expected = bq.quantize_file(tales, tmp_path / "expected.gguf", **options).paths
    replace, calls = os.replace, []

    def stop(source: Any, target: Any) -> None:
        if len(calls) == renamed:
            raise PermissionError(errno.EACCES, "in use", str(target))
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(PermissionError):
        bq.quantize_file(tales, tmp_path / "out.gguf", **options)
    assert len(list(tmp_path.glob("*.partial"))) == len(expected) - renamed
    monkeypatch.setattr(os, "replace", replace)
    report = bq.quantize_file(tales, tmp_path / "out.gguf", **options, resume=True)
    assert report.resumed_bytes == report.source_bytes
    assert [p.read_bytes() for p in report.paths] == [p.read_bytes() for p in expected]
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.journal"))


# --- no room ---


def full_after(monkeypatch: pytest.MonkeyPatch, nbytes: int, code: int = errno.ENOSPC) -> None:
    """A disk that cannot reserve room and is full after so many bytes."""
    write, written = os.write, [0]

    def limited(fd: int, data: Any) -> int:
        view = memoryview(data)
        if view.nbytes > 200:  # not the lines of the journal
            if written[0] + view.nbytes > nbytes:
                raise OSError(code, os.strerror(code))
            written[0] += view.nbytes
        return write(fd, data)

    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(output.os, "write", limited)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_leaves_nothing(code: int, tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    full_after(monkeypatch, 1_000_000, code)
    with pytest.raises(OSError, match=r"the output takes .* MB; nothing of it is left") as caught:
        bq.quantize_file(tales, target, RECIPE)
    assert caught.value.errno == code
    assert caught.value.filename == str(target)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    assert target.read_bytes() == b"old"


@pytest.mark.usefixtures("pieces")
def test_a_full_disk_keeps_what_is_asked(
    tales: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.gguf"
    with monkeypatch.context() as patch:
        full_after(patch, 1_000_000)
        with pytest.raises(OSError, match="the partial file is kept: make room and resume"):
            bq.quantize_file(tales, target, RECIPE, keep_partial=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf.journal", "out.gguf.partial"]
    assert bq.quantize_file(tales, target, RECIPE, resume=True).resumed_bytes > 1_000_000
    assert target.read_bytes() == whole


def test_room_is_reserved_before_the_work(tales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("encoded although there is no room")

    def full(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(steps.Encoder, "encode", never)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="nothing of it is left"):
        bq.quantize_file(tales, tmp_path / "out.gguf", RECIPE, keep_partial=True)
    assert not list(tmp_path.iterdir())
    # A system that cannot reserve says at least what is free.
    monkeypatch.delattr(os, "posix_fallocate")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(OSError, match="nothing of it is left") as caught:
        bq.quantize_file(tales, tmp_path / "out.gguf", RECIPE)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_limit_of_the_system(tales: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    pytest.importorskip("typer")
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))\n"
        "from blockquant.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "quantize", str(tales), str(tmp_path / "out.gguf"), "Q8_0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"{tmp_path / 'out.gguf'}: File too large: the output takes 6.1 MB; nothing of it is left" in result.stderr
    assert not list(tmp_path.iterdir())


# --- what other systems lack ---


@pytest.mark.usefixtures("pieces")
def test_without_what_only_posix_has(
    tales: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[tuple[int, int]] = []

    class Msvcrt:
        LK_NBLCK, LK_UNLCK = 2, 0

        @staticmethod
        def locking(_fd: int, mode: int, nbytes: int) -> None:
            locked.append((mode, nbytes))

    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    for name in ("posix_fallocate", "fdatasync", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(pipeline, "CHECKPOINT", 0.01)
    monkeypatch.setattr(journal, "_boot", lambda: "")
    interrupt(tales, tmp_path / "out.gguf")
    assert bq.quantize_file(tales, tmp_path / "out.gguf", RECIPE, resume=True).resumed_bytes > 0
    assert (tmp_path / "out.gguf").read_bytes() == whole
    assert locked == [(2, 1), (2, 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf"]
