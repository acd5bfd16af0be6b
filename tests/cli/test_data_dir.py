"""A data directory that can't be used is a bad setting: exit code 2, and one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Run


@pytest.mark.parametrize("command", [["up"], ["up", "--detach"], ["ls"]])
def test_a_file_in_its_place(lair: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.delenv("LAIR_TOKEN")
    (tmp_path / "data").touch()
    done = lair(*command)
    assert done.code == 2
    assert str(tmp_path / "data") in done.error and "--data-dir" in done.error


@pytest.mark.parametrize("command", ["up", "down"])
def test_one_that_holds_other_things(lair: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "thesis.txt").touch()
    done = lair(command)
    assert done.code == 2
    assert "directory of its own" in done.error
