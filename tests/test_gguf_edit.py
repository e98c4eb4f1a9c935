"""`edit`: what becomes of the metadata, that tensors stay, and that no crash leaves half a header."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import GGUFError, TypedValue, ValueType
from gguf_samples import NUMBER_ARRAYS, SCALARS, plan_of, stored_bytes, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOKENS = [f"token{i}" for i in range(40)]
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "old name",
    **SCALARS,
    **NUMBER_ARRAYS,
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": np.zeros(40, np.float32),
    "tokenizer.ggml.token_type": np.ones(40, np.int32),
    "tokenizer.ggml.eos_token_id": 2,
    "nested": [[1, 2], [["x"]]],
    "nan": np.array([0x7F800001], np.uint32).view(np.float32),
}


def _write(path: Path, metadata: dict[str, Any], endianness: Any = "little", alignment: int = 32) -> None:
    samples = tensors()
    with gguf.create(path, metadata, plan_of(samples), alignment, endianness) as w:
        for name, tensor in samples.items():
            w.add_tensor(name, tensor)


@pytest.fixture(params=["little", "big"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a model.gguf"
    _write(path, METADATA, request.param)
    return path


def _check(path: Path, metadata: dict[str, Any], before: Path | None = None) -> None:
    """The file is what `create` writes with these metadata."""
    with gguf.open(path) as f:
        endianness, alignment = f.endianness, f.alignment
        assert list(f.tensors) == list(tensors())
        for name, tensor in tensors().items():
            assert stored_bytes(f.tensors[name]) == stored_bytes(tensor)
    fresh = path.with_name("fresh.gguf")
    _write(fresh, metadata, endianness, alignment)
    assert path.read_bytes() == fresh.read_bytes()
    fresh.unlink()


def test_same_size_changes_stay_in_place(model: Path) -> None:
    inode, size = model.stat().st_ino, model.stat().st_size
    report = gguf.edit(model, set={"general.name": "new name", "v.u32": 7}, rename={"v.f64": "w.f64"})
    assert report.how == "in place"
    assert 0 < report.nbytes < 300
    assert (model.stat().st_ino, model.stat().st_size) == (inode, size)
    assert os.listdir(model.parent) == [model.name]
    expected = {("w.f64" if key == "v.f64" else key): value for key, value in METADATA.items()}
    _check(model, expected | {"general.name": "new name", "v.u32": 7})


def test_padding_is_used_up_before_tensors_move(model: Path) -> None:
    moved = 0
    for n in range(1, 70):
        with gguf.open(model) as f:
            before = f.data_offset
        report = gguf.edit(model, set={"general.name": "x" * n})
        with gguf.open(model) as f:
            assert (report.how == "rewritten") == (f.data_offset != before)
        moved += report.how == "rewritten"
        if n % 9 == 0:
            _check(model, METADATA | {"general.name": "x" * n})
    assert 2 <= moved <= 4


def test_set_rename_delete(model: Path, tmp_path: Path) -> None:
    report = gguf.edit(
        model,
        set={
            "new": TypedValue(5, ValueType.INT16),
            "v.str": "changed text, longer than before",
            "tokenizer.ggml.eos_token_id": 3,
            "empty": TypedValue([], ValueType.ARRAY, ValueType.STRING),
            "deep": [[["a"]], [[1]]],
        },
        rename={"v.u8": "renamed", "general.name": "general.title"},
        delete=["v.bool", "nested", "tokenizer.ggml.scores"],
    )
    assert report.how == "rewritten"
    metadata: dict[str, Any] = {}
    for key, value in METADATA.items():
        if key not in ("v.bool", "nested", "tokenizer.ggml.scores"):
            metadata[{"v.u8": "renamed", "general.name": "general.title"}.get(key, key)] = value
    metadata |= {"v.str": "changed text, longer than before", "tokenizer.ggml.eos_token_id": 3}
    metadata |= {
        "new": np.int16(5),
        "empty": TypedValue([], ValueType.ARRAY, ValueType.STRING),
        "deep": [[["a"]], [[1]]],
    }
    _check(model, metadata)
    by_key = {change.key: change for change in report.changes}
    assert by_key["renamed"].renamed_from == "v.u8"
    assert by_key["v.bool"].after is None
    assert by_key["new"].before is None
    assert os.listdir(tmp_path) == [model.name]


def test_plain_values_keep_the_type_of_the_key(model: Path) -> None:
    gguf.edit(model, set={"v.u64": 5, "v.i8": -1, "v.f64": 2.5, "a.i2": [1, 2], "v.u16": np.int32(9)})
    with gguf.open(model) as f:
        assert {key: f.metadata_info(key).type.name for key in ("v.u64", "v.i8", "v.f64", "v.u16")} == {
            "v.u64": "UINT64",
            "v.i8": "INT8",
            "v.f64": "FLOAT64",
            "v.u16": "INT32",
        }
        assert f.metadata["a.i2"].dtype == np.int16
    for key, value in {"v.u8": "text", "v.str": 5, "a.i2": 5, "v.u16": [1]}.items():
        with pytest.raises(TypeError, match=key):
            gguf.edit(model, set={key: value})
    with pytest.raises(GGUFError, match="UINT8"):
        gguf.edit(model, set={"v.u8": 256})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"delete": ["none"]}, "no metadata 'none'"),
        ({"delete": ["general.nam"]}, "near names: general.name"),
        ({"rename": {"none": "x"}}, "no metadata 'none'"),
        ({"rename": {"v.u8": "v.i8"}}, "'v.i8' already"),
        ({"rename": {"v.u8": "x", "v.i8": "x"}}, "'x' already"),
        ({"rename": {"v.u8": "x"}, "delete": ["v.u8"]}, "not both"),
        ({"rename": {"v.u8": ""}}, "empty"),
        ({"set": {"": 1}}, "empty"),
        ({"set": {"split.count": 5}}, "set of shards"),
        ({"rename": {"v.u8": "split.no"}}, "set of shards"),
        ({"delete": ["general.architecture"]}, "must be a string"),
        ({"rename": {"general.architecture": "x"}}, "must be a string"),
        ({"set": {"general.architecture": TypedValue(1, ValueType.UINT8)}}, "must be a string"),
        ({"set": {"tokenizer.ggml.eos_token_id": 40}}, "there are 40 tokens"),
        ({"set": {"tokenizer.ggml.scores": [0.0]}}, "1 values for 40 tokens"),
        ({"set": {"tokenizer.ggml.tokens": ["a"]}}, "40 values for 1 tokens"),
        ({"delete": ["tokenizer.ggml.tokens"]}, "40 values for 0 tokens"),
        ({"rename": {"tokenizer.ggml.tokens": "x"}}, "40 values for 0 tokens"),
        (
            {"delete": ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"]},
            "there are 0 tokens",
        ),
        ({"set": {"general.alignment": 48}}, "power of two"),
        ({"set": {"general.alignment": TypedValue(64, ValueType.UINT64)}}, "uint32"),
        ({"set": {"x": 2**64}}, "integer type"),
        ({"set": {"nested": [[[[[[[[[1]]]]]]]]]}}, "8 deep"),
        ({"set": {"general.name": "x" * 100}, "allow_rewrite": False}, "not allowed"),
        ({"set": {"general.alignment": 64}, "allow_rewrite": False}, "not allowed"),
    ],
)
def test_what_is_refused_changes_nothing(model: Path, arguments: dict[str, Any], says: str) -> None:
    before = model.read_bytes()
    for dry_run in (True, False):
        with pytest.raises(GGUFError, match=says) as caught:
            gguf.edit(model, **arguments, dry_run=dry_run)
        assert "\n" not in str(caught.value)
    assert model.read_bytes() == before
    assert os.listdir(model.parent) == [model.name]


def test_force_allows_the_inconsistent(model: Path) -> None:
    gguf.edit(model, delete=["general.architecture"], set={"tokenizer.ggml.eos_token_id": 99}, force=True)
    with gguf.open(model) as f:
        assert f.architecture == ""
        assert f.metadata["tokenizer.ggml.eos_token_id"] == 99


def test_names_can_be_swapped(model: Path) -> None:
    gguf.edit(model, rename={"v.u8": "v.i8", "v.i8": "v.u8"})
    with gguf.open(model) as f:
        assert f.typed_value("v.i8").type is ValueType.UINT8
        assert f.typed_value("v.u8").type is ValueType.INT8


def test_an_alignment_moves_the_tensors(model: Path) -> None:
    assert gguf.edit(model, set={"general.alignment": 256}).how == "rewritten"
    with gguf.open(model) as f:
        assert f.alignment == 256
        assert all(info.offset % 256 == 0 for info in f.tensor_infos.values())
    _check(model, METADATA | {"general.alignment": 256})
    gguf.edit(model, delete=["general.alignment"])
    _check(model, METADATA)
    assert os.listdir(model.parent) == [model.name]


def test_output_and_dry_run_leave_the_file_alone(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for change in ({"general.name": "x" * 80}, {"general.alignment": 128}):
        planned = gguf.edit(model, set=change, dry_run=True)
        assert planned.how == "rewritten"
        out = tmp_path / "out é.gguf"
        assert not out.exists()
        report = gguf.edit(model, set=change, output=out)
        assert report.path == out
        _check(out, METADATA | change)
        assert report.nbytes == planned.nbytes == out.stat().st_size
        out.unlink()
    assert gguf.edit(model, set={"v.u8": 1}, dry_run=True).how == "in place"
    assert gguf.edit(model).how == "unchanged"
    assert model.read_bytes() == before
    with pytest.raises(GGUFError, match="the input itself"):
        gguf.edit(model, set={"v.u8": 1}, output=model)


def test_files_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    with gguf.create(path, {"general.architecture": "llama", "n": 1}):
        pass
    gguf.edit(path, set={"n": 2}, delete=["general.architecture"], force=True)
    with gguf.open(path) as f:
        assert dict(f.metadata) == {"n": 2}
    gguf.edit(path, delete=["n"])
    with gguf.open(path) as f:
        assert dict(f.metadata) == {}


def test_the_first_file_of_a_set_is_edited(model: Path, tmp_path: Path) -> None:
    shards = gguf.split(model, tmp_path / "s", max_tensors=20)
    report = gguf.edit(shards[1].path, set={"general.name": "a much longer name than the old one was"})
    assert report.path == shards[0].path
    with gguf.open(shards[1].path) as f:
        assert f.metadata["general.name"] == "a much longer name than the old one was"
        assert len(f.tensors) == 33
    for arguments in ({"output": tmp_path / "o.gguf"}, {"set": {"general.alignment": 64}}):
        with pytest.raises(GGUFError, match="merge it"):
            gguf.edit(shards[0].path, **arguments)


def test_links_and_permissions_stay(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    model.chmod(0o640)
    for name in ("in place", "rewritten" * 20):
        gguf.edit(link, set={"general.name": name[: 8 if name == "in place" else None]})
        assert link.is_symlink()
        assert model.stat().st_mode & 0o777 == 0o640
    with gguf.open(model) as f:
        assert f.metadata["general.name"] == "rewritten" * 20


def test_views_taken_before_survive_a_rewrite(model: Path) -> None:
    with gguf.open(model) as f:
        view = f.tensors["blocks.Q4_K"]
        gguf.edit(model, set={"general.name": "x" * 500})
        assert stored_bytes(view) == stored_bytes(tensors()["blocks.Q4_K"])


def _edit_and_die(model: Path, at: int, rewrite: bool) -> int:
    """Edit in a process that is gone, as by kill -9, before its system call number `at` that writes."""
    code = f"""
        import os, sys
        from blockquant import gguf
        left = {at}
        def dying(module, name):
            real = getattr(module, name)
            def call(*args, **kwargs):
                global left
                if left == 0:
                    os._exit(9)
                left -= 1
                return real(*args, **kwargs)
            setattr(module, name, call)
        for name in ("fsync", "replace", "unlink"):
            dying(os, name)
        if hasattr(os, "copy_file_range"):
            dying(os, "copy_file_range")
        dying(gguf._journal, "_write")
        dying(gguf._writer, "write_all")
        gguf._edit.write_all = gguf._writer.write_all
        gguf.edit(sys.argv[1], set={{"general.name": {"x" * 300 if rewrite else "NEW NAME"!r}}})
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(model)], check=False).returncode


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_killed_edit_is_done_or_not_done(tmp_path: Path, rewrite: bool) -> None:
    model = tmp_path / "model.gguf"
    _write(model, METADATA)
    original = model.read_bytes()
    names = {"old name", "x" * 300 if rewrite else "NEW NAME"}
    states = set()
    for at in range(20):
        model.write_bytes(original)
        code = _edit_and_die(model, at, rewrite)
        assert code in (0, 9)
        if (tmp_path / ".model.gguf.edit-journal").exists():
            states.add("journal")
            for use in (gguf.open, lambda path: gguf.edit(path, dry_run=True)):
                with pytest.raises(GGUFError, match="interrupted"):
                    use(model)
            assert gguf.edit(model).recovered
        else:
            with gguf.open(model) as f:
                states.add(f.metadata["general.name"])
        with gguf.open(model) as f:
            assert f.metadata["general.name"] in names
            _check(model, METADATA | {"general.name": f.metadata["general.name"]})
        for left in tmp_path.glob(".*.partial"):
            left.unlink()  # of a killed process, as the writer's
        assert os.listdir(tmp_path) == ["model.gguf"]
        if code == 0:
            break
    assert code == 0
    assert states == (names if rewrite else {"NEW NAME", "journal"})


def test_a_torn_header_is_finished_from_the_journal(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    _write(model, METADATA)
    old = model.read_bytes()
    gguf.edit(model, set={"general.name": "NEW NAME", "v.u32": 9})
    new = model.read_bytes()
    with gguf.open(model) as f:
        end = f.data_offset
    changed = [i for i in range(end) if old[i] != new[i]]
    journal = tmp_path / ".model.gguf.edit-journal"

    # The journal is kept by a removal that fails.
    model.write_bytes(old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", _raise(OSError(errno.EIO, "kept")))
        with pytest.raises(OSError, match="kept"):
            gguf.edit(model, set={"general.name": "NEW NAME", "v.u32": 9})
    content = journal.read_bytes()

    for written in range(0, len(changed) + 1, 3):
        torn = bytearray(old)
        for i in changed[:written]:
            torn[i] = new[i]
        model.write_bytes(torn)
        journal.write_bytes(content)
        assert gguf.recover(model)
        assert model.read_bytes() == new
        assert not journal.exists()
    assert not gguf.recover(model)

    # A journal that was not finished itself was never used.
    for size in (0, 7, 60, len(content) - 1):
        model.write_bytes(old)
        journal.write_bytes(content[:size])
        assert gguf.recover(model)
        assert model.read_bytes() == old
        assert not journal.exists()

    # Nor is one that belongs to another file.
    for other in (old + b"\0", b"X" + old[1:], old[: changed[0]] + b"\xee" + old[changed[0] + 1 :]):
        model.write_bytes(other)
        journal.write_bytes(content)
        with pytest.raises(GGUFError, match="belongs to another file"):
            gguf.recover(model)
        assert model.read_bytes() == other
        assert journal.exists()


def _raise(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


def test_a_full_disk_leaves_the_old_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()
    monkeypatch.setattr(gguf._edit, "append_file", _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match="No space left"):
        gguf.edit(model, set={"general.name": "x" * 300})
    assert model.read_bytes() == before
    assert os.listdir(model.parent) == [model.name]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs permissions that are enforced")
def test_read_only_files_are_not_touched(model: Path, tmp_path: Path) -> None:
    model.chmod(0o400)
    before = model.read_bytes()
    for name in ("new name", "x" * 300):
        with pytest.raises(PermissionError):
            gguf.edit(model, set={"general.name": name})
    assert model.read_bytes() == before
    assert gguf.edit(model).how == "unchanged"
    gguf.edit(model, set={"general.name": "x" * 300}, output=tmp_path / "out.gguf")


_VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
    st.text(max_size=40),
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=3), min_size=1, max_size=3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changes_give_what_create_would(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.gguf"
    metadata = {"a": 1, "b": "text", "c": [1, 2, 3], "d": True, "e": ["x", ""], "f": 1.5}
    with gguf.create(path, metadata) as w:
        w.add_tensor("t", np.arange(10, dtype=np.float32))
    for _ in range(data.draw(st.integers(1, 3))):
        with gguf.open(path) as f:
            typed = f.typed_metadata()
        keys = list(typed)
        deleted = data.draw(st.lists(st.sampled_from(keys), max_size=2, unique=True)) if keys else []
        rest = [key for key in keys if key not in deleted]
        renamed = {}
        if rest and data.draw(st.booleans()):
            renamed = {data.draw(st.sampled_from(rest)): f"key{data.draw(st.integers(0, 99))}"}
            if next(iter(renamed.values())) in keys:
                renamed = {}
        values = {
            key: gguf._values.infer(value)
            for key, value in data.draw(
                st.dictionaries(st.text("abxyz", min_size=1, max_size=3), _VALUES, max_size=3)
            ).items()
        }
        gguf.edit(path, set=values, rename=renamed, delete=deleted)
        expected = {renamed.get(key, key): value for key, value in typed.items() if key not in deleted} | values
        with gguf.create(tmp_path / "fresh.gguf", expected) as w:
            w.add_tensor("t", np.arange(10, dtype=np.float32))
        assert path.read_bytes() == (tmp_path / "fresh.gguf").read_bytes()


@pytest.fixture
def run() -> Any:
    typer = pytest.importorskip("typer")
    testing = pytest.importorskip("typer.testing")
    from blockquant.cli import edit, inspect

    app = typer.Typer()
    edit.register(app)
    inspect.register(app)
    return lambda *arguments: testing.CliRunner().invoke(app, [str(a) for a in arguments])


def test_values_on_the_command_line(run: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ 'é' }}\n", encoding="utf-8")
    done = run(
        *("edit", model, "--set", "u=u16:0x10", "--set", "i=int64:-5", "--set", "f=f64:1e300", "--set", "b=bool:true"),
        *("--set", "s=string:a:b=c, d", "--set", "general.name=kept:type", "--set", 'l=string[]:["a", "é"]'),
        *("--set", "n=int32[][]:[[1, 2], []]", "--set", "v.i8=-7", "--set", "a.f4=[1, 2.5]", "--set", "e=f32[]:[]"),
        *(
            "--set-file",
            f"tokenizer.chat_template={tmp_path / 'chat.jinja'}",
            "--rename",
            "v.u8=w",
            "--delete",
            "v.i16",
        ),
    )
    assert done.exit_code == 0, done.output
    assert "delete v.i16" in done.output
    assert "rename v.u8 -> w: uint8 255" in done.output
    with gguf.open(model) as f:
        got = {key: f.typed_value(key) for key in f.metadata}
    assert got["u"] == TypedValue(16, ValueType.UINT16)
    assert got["i"] == TypedValue(-5, ValueType.INT64)
    assert got["f"] == TypedValue(1e300, ValueType.FLOAT64)
    assert got["b"] == TypedValue(True, ValueType.BOOL)
    assert got["s"].value == "a:b=c, d"
    assert got["general.name"].value == "kept:type"
    assert got["l"].value == ["a", "é"]
    assert [inner.value.tolist() for inner in got["n"].value] == [[1, 2], []]
    assert got["v.i8"] == TypedValue(-7, ValueType.INT8)
    assert got["a.f4"].value.tolist() == [1, 2.5]
    assert got["e"].element_type is ValueType.FLOAT32
    assert got["tokenizer.chat_template"].value == "{{ 'é' }}\n"
    assert "v.i16" not in got
    assert run("inspect", model, "--key", "s").output == "a:b=c, d"
    assert json.loads(run("inspect", model, "--key", "l", "--json").output)["value"] == ["a", "é"]
    report = json.loads(run("edit", model, "--set", "v.i8=-6", "--json").output)
    assert (report["how"], report["written"], report["changes"][0]["key"]) == ("in place", True, "v.i8")


@pytest.mark.parametrize(
    "value",
    ["novalue", "=5", "unknown=5", "unknown=u99:5", "v.u8=x", "v.bool=2", "v.f32=x", "a.i4=5", "a.i4=[1, true]",
     'a.i4=["x"]', "l=string[]:[1]", "n=int32[][]:[1]", "nested=[[1]]", "b=bool[]:[1]"],
)  # fmt: skip
def test_arguments_that_are_no_values(run: Any, model: Path, value: str) -> None:
    before = model.read_bytes()
    done = run("edit", model, "--set", value)
    assert done.exit_code == 2, done.output
    assert model.read_bytes() == before


def test_the_command_finishes_an_interrupted_edit(run: Any, model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", _raise(OSError(errno.EIO, "kept")))
        with pytest.raises(OSError, match="kept"):
            gguf.edit(model, set={"general.name": "NEW NAME"})
    with pytest.raises(GGUFError, match="interrupted"):
        gguf.open(model)
    (problem,) = gguf.verify(model).problems
    assert "interrupted" in problem
    done = run("edit", model)
    assert done.exit_code == 0, done.output
    assert "finished an interrupted edit" in done.output
    assert os.listdir(model.parent) == [model.name]
    with gguf.open(model) as f:
        assert f.metadata["general.name"] == "NEW NAME"
