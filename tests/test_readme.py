"""The README says what the code does: its table, its example, its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_format_table_is_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import readme_table

    assert readme_table.in_readme() == readme_table.table(), "run: python bench/readme_table.py"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    promised = re.findall(r"# (QuantizedTensor\(.*\))", README)
    assert promised
    assert all(line in printed for line in promised)


def test_every_command_it_names_exists() -> None:
    pytest.importorskip("typer")
    from blockquant.cli.app import COMMANDS

    named = set(re.findall(r"^(?:.*&& )?(?:\.venv/bin/)?blockquant (\w+)", README, re.M))
    assert named
    assert named <= set(COMMANDS)
