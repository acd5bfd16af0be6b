"""`lair up --detach`: one that does not come up ends as it would have in the foreground."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Run

from sourcelair.cli import exits
from sourcelair.cli.system import background
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.errors import LairError
from sourcelair.settings import load_settings


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that another program has."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


@pytest.fixture
def other_than_the_taken() -> str:
    """An address that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_port_in_use_is_a_conflict(lair: Run, taken: str, other_than_the_taken: str) -> None:
    """The code that the foreground has, and the message that names the address."""
    addresses = ("--listen", other_than_the_taken, "--api-listen", taken)
    assert lair("up", *addresses).code == exits.CONFLICT
    done = lair("up", "--detach", *addresses)
    assert done.code == exits.CONFLICT
    assert taken in done.error
    problem = json.loads(lair("up", "--detach", "--json", *addresses).error)
    assert problem["status"] == 409 and taken in problem["detail"]


class Unlocked(DataDirectory):
    """A data directory that looks free to whoever is just starting a process for it: another one took it meanwhile."""

    def lock(self) -> None:
        """See nobody."""

    def unlock(self) -> None:
        """Nothing was locked."""


def test_the_loser_of_two_at_once_is_a_conflict(
    lair: Run, tmp_path: Path, taken: str, other_than_the_taken: str
) -> None:
    """Both saw that nobody runs here, and started a process: one of these finds the other's lock."""
    winner = DataDirectory(tmp_path / "data")
    winner.prepare()
    winner.lock()
    settings = load_settings({"listen": other_than_the_taken, "api_listen": taken})
    try:
        with pytest.raises(LairError) as lost:
            background.start_in_background(settings, Unlocked(winner.path))
    finally:
        winner.unlock()
    assert exits.code_of(lost.value) == exits.CONFLICT
    assert f"process {os.getpid()}" in lost.value.detail


@pytest.mark.parametrize("code", [exits.OTHER, exits.USAGE, exits.NOT_FOUND, exits.CONFLICT, exits.FAILED])
def test_every_exit_code_comes_through(code: int) -> None:
    assert exits.code_of(exits.kind_of(code)("why")) == code


def test_a_process_that_was_killed_is_no_kind_of_ours() -> None:
    assert exits.code_of(exits.kind_of(-9)("killed")) == exits.OTHER
