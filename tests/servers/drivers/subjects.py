"""What the conformance suite runs against: one subject for each driver, which knows how to make it behave.

For a new driver, write a `Subject` and add it to `SUBJECTS`.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import os
import secrets
import socket
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import pytest

from sourcelair.client.servers import Spec
from sourcelair.servers.drivers.base import Driver, ExitStatus, StartOrder
from sourcelair.servers.drivers.mock import MockDriver, MockWorld, Script
from sourcelair.servers.drivers.process import ProcessDriver
from sourcelair.servers.drivers.process.groups import Groups, Hierarchy, find_hierarchies


class Behaviour(enum.Enum):
    """What an instance does."""

    SERVES = "answers HTTP on its port, on 127.0.0.1"
    SILENT = "runs, and never listens"
    ELSEWHERE = "listens on another port"
    EXITS = "writes `bye` to its log and ends at once, with status 3"
    STUBBORN = "never listens, and ignores being asked to end"
    IMPOSSIBLE = "can't be started"


class Subject(ABC):
    """A driver under test, on a machine of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)

    @abstractmethod
    def driver(self) -> Driver:
        """Return a new driver object, as a control plane that was just started has."""

    @abstractmethod
    def stranger(self) -> Driver:
        """Return the driver of another installation on the same machine."""

    @abstractmethod
    def spec(self, behaviour: Behaviour) -> Spec:
        """Return what makes an instance behave so."""

    def order(self, behaviour: Behaviour, instance: str | None = None) -> StartOrder:
        """Return an order for a new instance."""
        instance = instance or f"i{next(self._numbers)}-{secrets.token_hex(4)}"
        return StartOrder(
            instance=instance,
            owner="demo",
            project=f"{behaviour.name.lower()}",
            spec=self.spec(behaviour),
            port=free_port(),
            env={"PATH": os.environ["PATH"]},
            log=self.directory / "logs" / f"{instance}.log",
        )

    @abstractmethod
    async def close(self) -> None:
        """Stop everything that was started."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class MockSubject(Subject):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._world = MockWorld()

    def _make(self, installation: str) -> Driver:
        driver = MockDriver(self._world, installation)
        driver.script("demo", "serves", Script(serves=True))
        driver.script("demo", "silent", Script(listens=False))
        driver.script("demo", "elsewhere", Script(port=free_port()))
        driver.script(
            "demo", "exits", Script(listens=False, output=b"bye\n", exit_after=0.01, exit_status=ExitStatus(code=3))
        )
        driver.script("demo", "stubborn", Script(listens=False, ignores_stop=True))
        driver.script("demo", "impossible", Script(fail="program not found: nothing-like-this"))
        return driver

    def driver(self) -> Driver:
        return self._make("mine")

    def stranger(self) -> Driver:
        return self._make("another")

    def spec(self, behaviour: Behaviour) -> Spec:
        return Spec(driver="mock")

    async def close(self) -> None:
        await self._world.close()


def python(source: str, *arguments: str) -> list[str]:
    """Return a command that runs a little program, quickly."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *arguments]


STUBBORN = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
"""
ELSEWHERE = """
    import socket, time
    server = socket.create_server(("127.0.0.1", 0))
    time.sleep(600)
"""


class ProcessSubject(Subject):
    """Real processes, with the cgroups that this machine has best."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._drivers: list[ProcessDriver] = []
        self.installation = f"test-{secrets.token_hex(4)}"

    def hierarchies(self) -> list[Hierarchy]:
        """Return where cgroups are made."""
        return find_hierarchies()

    def needs(self, *abilities: str) -> None:
        """Skip the test where the cgroups of this machine lack an ability."""
        found = {ability for each in self.hierarchies() for ability in each.controllers}
        if missing := set(abilities) - found:
            pytest.skip(f"no cgroup here has {', '.join(sorted(missing))}")

    def _make(self, name: str, installation: str) -> ProcessDriver:
        groups = Groups(installation, self.hierarchies())
        driver = ProcessDriver(self.directory / name, installation, groups=groups)
        self._drivers.append(driver)
        return driver

    def driver(self) -> ProcessDriver:
        return self._make("mine", self.installation)

    def stranger(self) -> ProcessDriver:
        return self._make("another", f"{self.installation}-x")

    def spec(self, behaviour: Behaviour) -> Spec:
        commands = {
            Behaviour.SERVES: [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"],
            Behaviour.SILENT: ["sleep", "600"],
            Behaviour.ELSEWHERE: python(ELSEWHERE),
            Behaviour.EXITS: ["/bin/sh", "-c", "echo bye; exit 3"],
            Behaviour.STUBBORN: python(STUBBORN),
            Behaviour.IMPOSSIBLE: ["nothing-like-this"],
        }
        return Spec(command=commands[behaviour], directory=str(self.directory))

    def run(self, command: list[str], **spec: object) -> StartOrder:
        """Return an order for a command."""
        order = self.order(Behaviour.SILENT)
        made = Spec.model_validate({"command": command, "directory": str(self.directory), **spec})
        return dataclasses.replace(order, spec=made, limits=made.limits)

    async def close(self) -> None:
        for driver in self._drivers:
            for found in await driver.find_all():
                await driver.stop(found, 0)
        for driver in self._drivers:
            await driver.close()


class BareSubject(ProcessSubject):
    """Real processes on a machine that allows no cgroups."""

    def hierarchies(self) -> list[Hierarchy]:
        return []


class UnifiedSubject(ProcessSubject):
    """Real processes with cgroup v2."""

    def hierarchies(self) -> list[Hierarchy]:
        found = [each for each in find_hierarchies() if each.unified]
        return found or pytest.skip("cgroup v2 can't be used here")


class SplitSubject(ProcessSubject):
    """Real processes with cgroup v1, a hierarchy for each controller."""

    def hierarchies(self) -> list[Hierarchy]:
        found = [each for each in find_hierarchies() if not each.unified]
        return found or pytest.skip("cgroup v1 can't be used here")


SUBJECTS: Iterable[type[Subject]] = (MockSubject, ProcessSubject, BareSubject, UnifiedSubject, SplitSubject)
