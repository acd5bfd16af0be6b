"""Every command explains itself."""

from __future__ import annotations

import pytest
from tests.cli.conftest import Run

COMMANDS = [
    "up", "down", "create", "ls", "show", "start", "stop", "restart", "enable", "disable", "logs", "open", "rm",
    "doctor", "routes", "routes list", "routes set", "routes rm", "token", "token create", "token list",
    "token revoke", "nodes", "nodes list", "nodes rm",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(lair: Run, command: str) -> None:
    done = lair(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: lair {command}" in done.out


def test_the_version(lair: Run) -> None:
    assert lair("--version").out.startswith("lair ")
