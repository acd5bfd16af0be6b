"""Memory pressure: what dozes is stopped, one after the other, until there is enough."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.servers.world import Life, World, a_world

from sourcelair.client.servers import SleepRequest, StartRequest
from sourcelair.servers import pressure
from sourcelair.servers.memory import Memory, read_memory
from sourcelair.servers.pressure import choose

pytestmark = pytest.mark.anyio

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "dozing", "chosen"),
    [
        (Memory(2 * GIB, 10 * GIB), [(5.0, "a")], None),
        (Memory(1 * GIB, 10 * GIB), [(5.0, "a")], None),  # just enough
        (Memory(GIB - 1, 10 * GIB), [(5.0, "a"), (3.0, "b"), (9.0, "c")], "b"),
        (Memory(0, 10 * GIB), [], None),
        (Memory(0, 0), [(5.0, "a")], None),
        (None, [(5.0, "a")], None),
    ],
)
def test_the_one_that_has_dozed_longest_is_stopped(memory: Memory | None, dozing: Any, chosen: str | None) -> None:
    assert choose(memory, 0.1, dozing) == chosen


async def doze(life: Life, *projects: str) -> None:
    """Have servers that doze, the first one for longest."""
    for project in projects:
        await life.create(project=project)
        server = await life.client.start("demo", project, StartRequest(cause="visit"), wait=5)
        assert server.instance is not None
        request = SleepRequest(instance=server.instance.id, totals=[], mode="doze")
        assert (await life.client.sleep("demo", project, request)).slept


async def test_it_is_read_again_after_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are enough: the third goes on dozing, and so does what is awake, whatever it uses."""
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.01)
    async with world.up() as life:
        await doze(life, "one", "two", "three")
        await life.create(project="awake")
        await life.client.start("demo", "awake", StartRequest(cause="visit"), wait=5)
        stopped: list[str] = []
        stop = world.driver.stop

        async def stop_and_free(*args: Any) -> Any:
            assert len(stopped) == sum(server.state == "asleep" for server in await life.client.list()), "one at a time"
            ended = await stop(*args)
            stopped.append(args[0].instance)
            if len(stopped) == 2:
                world.memory = Memory(2 * GIB, 10 * GIB)
            return ended

        monkeypatch.setattr(world.driver, "stop", stop_and_free)
        world.memory = Memory(GIB // 2, 10 * GIB)
        for project in ("one", "two"):
            server = await life.until("asleep", project=project)
            assert (server.cause, server.actor, server.desired) == ("memory pressure", "memory", "asleep")
        states = {server.project: server.state for server in await life.client.list()}
        assert states == {"one": "asleep", "two": "asleep", "three": "dozing", "awake": "awake"}
        again = await life.client.start("demo", "one", StartRequest(cause="visit"), wait=5)
        assert again.state == "awake", "no user has stopped it"


async def test_nothing_is_read_while_nothing_dozes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.0)
    async with a_world(tmp_path) as world, world.up() as life:
        read = 0

        def counted() -> Memory | None:
            nonlocal read
            read += 1
            return None

        monkeypatch.setattr(life.service._pressure, "_read", counted)
        await life.create()
        await life.client.start("demo", "blog", StartRequest(cause="visit"), wait=5)
        assert read == 0
        await doze(life, "one")
        while read < 3:
            await asyncio.sleep(0)
        await life.client.start("demo", "one", StartRequest(cause="visit"), wait=5)
        before = read
        for _ in range(20):
            await asyncio.sleep(0)
        assert read <= before + 1


async def test_what_dozed_before_a_restart_counts_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.01)
    async with world.up() as life:
        await doze(life, "one")
    world.memory = Memory(0, 10 * GIB)
    async with world.up() as life:
        server = await life.until("asleep", project="one")
        assert server.actor == "memory"


def machine(root: Path, available: int, total: int, cgroup: str = "0::/\n") -> Path:
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {available >> 10} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    return proc


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_machines_memory(tmp_path: Path) -> None:
    proc = machine(tmp_path, 3 * GIB, 8 * GIB)
    assert read_memory(proc, tmp_path / "cgroups") == Memory(3 * GIB, 8 * GIB)
    assert read_memory(tmp_path / "nothing", tmp_path / "cgroups") is None


@pytest.mark.parametrize("above", [False, True])
def test_a_cgroups_limit_where_that_is_tighter(tmp_path: Path, above: bool) -> None:
    """Of version 2; its own, or one above it. Files that nobody used for a while are as good as free."""
    proc = machine(tmp_path, 6 * GIB, 8 * GIB, "0::/lair/api\n")
    limited = tmp_path / "cgroups" / "lair" / ("" if above else "api")
    group(tmp_path / "cgroups" / "lair" / "api", {"memory.max": "max\n", "memory.current": f"{GIB}\n"})
    stat = f"anon 1\nfile {GIB}\ninactive_file {GIB // 4}\n"
    group(limited, {"memory.max": f"{2 * GIB}\n", "memory.current": f"{2 * GIB - GIB // 4}\n", "memory.stat": stat})
    assert read_memory(proc, tmp_path / "cgroups") == Memory(GIB // 2, 2 * GIB)


def test_a_cgroup_of_version_1(tmp_path: Path) -> None:
    """Without a limit it says a number that no machine has."""
    proc = machine(tmp_path, 6 * GIB, 8 * GIB, "7:cpu:/lair\n4:memory:/lair\n0::/\n")
    files = {"memory.usage_in_bytes": f"{GIB}\n", "memory.stat": "total_inactive_file 0\n"}
    lair = tmp_path / "cgroups" / "memory" / "lair"
    group(lair, {**files, "memory.limit_in_bytes": f"{9223372036854771712}\n"})
    assert read_memory(proc, tmp_path / "cgroups") == Memory(6 * GIB, 8 * GIB)
    group(lair, {**files, "memory.limit_in_bytes": f"{2 * GIB}\n"})
    assert read_memory(proc, tmp_path / "cgroups") == Memory(GIB, 2 * GIB)


def test_this_machine_says_it() -> None:
    memory = read_memory()
    assert memory is not None and 0 < memory.available <= memory.total
