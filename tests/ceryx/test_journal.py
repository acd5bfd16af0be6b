"""The journal: what a node knows after it was killed, after a reboot, and while its disk refuses."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.ceryx.agents import alive, asleep, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx, listening, running
from tests.ceryx.engine import MemoryEngine

from sourcelair.ceryx.agent import journal as journals
from sourcelair.ceryx.agent.journal import Journal
from sourcelair.ceryx.agent.records import SCHEMA, Loaded
from sourcelair.ceryx.table import TableEntry
from sourcelair.errors import Unavailable

pytestmark = pytest.mark.anyio

HERE, THERE = "192.168.7.20", "203.0.113.9"
LOOPBACK = frozenset({"127.0.0.1", "::1"})


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> Callable[[frozenset[str]], None]:
    """This machine has the address HERE; returns what gives it others."""

    def give(own: frozenset[str]) -> None:
        monkeypatch.setattr(journals, "own_addresses", lambda: own)

    give(LOOPBACK | {HERE})
    return give


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of files, as they are synced."""
    found: list[str] = []
    real = os.fsync

    def sync(file: int) -> None:
        found.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    return found


def entry(source: str, revision: int, address: str | None = THERE, instance: str = "i1") -> TableEntry:
    if address is None:
        return TableEntry(source, revision, "null")
    return TableEntry(source, revision, "live", address, 80, instance)


def opened(tmp_path: Path, boot: str = "boot") -> tuple[Journal, Loaded]:
    journal = Journal(tmp_path / "routes", boot)
    return journal, journal.load()


def line(record: Mapping[str, Any]) -> bytes:
    data = json.dumps(record).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


async def test_a_withdrawal_elsewhere_is_synced_before_it_is_promised(tmp_path: Path, syncs: list[str]) -> None:
    """After a reboot the file must not bring that target back; one on this machine is void then anyway."""
    journal, _ = opened(tmp_path)
    journal.append([entry("a", 1), entry("b", 1, HERE, "i2")], {})
    assert await journal.sync()
    syncs.clear()
    journal.append([entry("b", 2, None)], {})
    assert await journal.sync()
    assert syncs == []
    journal.append([entry("a", 3, None)], {})
    assert syncs == []
    assert await journal.sync()
    assert syncs == [str(tmp_path / "routes")]
    journal.close()
    _, loaded = opened(tmp_path, "another boot")
    assert {found.state for found in loaded.entries.values()} == {"null"}


async def test_what_the_file_holds_decides_not_what_nginx_shows(tmp_path: Path, syncs: list[str]) -> None:
    """NGINX was away while the route was withdrawn, so its table is empty; the file is not."""
    engine = MemoryEngine()
    async with running(tmp_path, served_wait=0.05) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.put_route(live("a", instance="i1", host=THERE))
        await client.put_route(live("b", instance="i2", host=THERE))
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded)
            revision = await client.put_route(asleep("b"))
            assert (await client.withdrawal("i2", revision, until="drained", wait=5)).drained
            engine.running = False
            await eventually(lambda: not ceryx.service.nodes.get("n1").loaded)
            syncs.clear()
            revision = await client.put_route(asleep("a"))
            engine.restart()
            engine.running = True
            assert (await client.withdrawal("i1", revision, until="drained", wait=5)).drained
            assert str(tmp_path / "agent" / "routes") in syncs


async def test_a_target_whose_name_went_first_is_withdrawn_on_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's name goes when it dies: then the file has no target when it is withdrawn, and the disk has one."""
    path, disk, real = tmp_path / "routes", [b""], os.fsync

    def sync(file: int) -> None:
        real(file)
        if stat.S_ISREG(os.fstat(file).st_mode):
            disk[0] = Path(f"/proc/self/fd/{file}").read_bytes()  # what a power cut leaves

    monkeypatch.setattr(os, "fsync", sync)
    journal, _ = opened(tmp_path)
    journal.append([entry("a", 5)], {"a": "app.example"})
    assert await journal.sync()
    journal.append([TableEntry("a", 5, "unresolved", instance="i1", problem="gone")], {"a": "app.example"})
    journal.append([entry("a", 6, None)], {})
    assert await journal.sync()
    journal.close()
    path.write_bytes(disk[0])
    _, loaded = opened(tmp_path, "another boot")
    assert loaded.entries["a"].state != "live"


@pytest.mark.parametrize("who", ["the agent", "NGINX"])
async def test_a_route_that_was_deleted_meanwhile_does_not_come_back(tmp_path: Path, who: str) -> None:
    """Deleted while the agent or NGINX was down, its withdrawal is confirmed: so the file must not have it any more."""
    engine = MemoryEngine()
    async with running(tmp_path, served_wait=0.05) as ceryx, listening(ceryx) as url:
        client = ceryx.client()
        await client.put_route(live("a", instance="i1", host=THERE))
        await client.put_route(live("b", instance="i2", host=THERE))
        async with alive(make_agent(tmp_path, url, engine)):
            await engine.until(lambda it: it.loaded)
            if who == "NGINX":
                engine.running = False
                await eventually(lambda: not ceryx.service.nodes.get("n1").loaded)
                await client.delete_route("a")
                engine.restart()
                engine.running = True
                await engine.until(lambda it: it.loaded)
                assert (await client.withdrawal("i1", await ceryx.service.revision(), until="drained", wait=5)).drained
        if who == "the agent":
            await client.delete_route("a")
            engine.restart()
            async with alive(make_agent(tmp_path, url, engine)):
                await engine.until(lambda it: it.loaded)
                assert (await client.withdrawal("i1", await ceryx.service.revision(), until="drained", wait=5)).drained
    engine.restart()
    async with alive(make_agent(tmp_path, "http://127.0.0.1:9", engine)):
        await engine.until(lambda it: it.loaded)
        assert set(engine.routes()) == {"b"}


async def test_a_withdrawal_while_the_file_is_rewritten_is_synced(tmp_path: Path, syncs: list[str]) -> None:
    """What the file holds is not known for a moment, nor after a rewrite that failed."""
    journal, _ = opened(tmp_path)
    journal.append([entry("a", 1)], {})
    assert await journal.sync()
    syncs.clear()
    (tmp_path / "routes.new").mkdir()
    assert not await journal.rewrite([entry("a", 1)], {})
    journal.append([entry("a", 2, None)], {})
    assert await journal.sync()
    assert syncs == [str(tmp_path / "routes")]


@pytest.mark.parametrize("rewritten", [False, True])
async def test_local_is_what_was_local_when_it_was_written(
    tmp_path: Path, addresses: Callable[[frozenset[str]], None], rewritten: bool
) -> None:
    """At a boot this machine's addresses come late, or are others: the target is void all the same."""
    journal, _ = opened(tmp_path)
    entries = [entry("here", 1, HERE), entry("there", 1, THERE)]
    journal.append(entries, {})
    addresses(LOOPBACK)
    if rewritten:
        assert await journal.rewrite(entries, {})
    journal.close()
    for boot in ("second", "third"):
        journal, loaded = opened(tmp_path, boot)
        journal.close()
        assert {name: found.state for name, found in loaded.entries.items()} == {"here": "null", "there": "live"}


async def test_a_rewrite_notes_what_is_local_too(tmp_path: Path, addresses: Callable[[frozenset[str]], None]) -> None:
    """Of an entry that NGINX was not told yet: the next rewrite does not judge it anew."""
    journal, _ = opened(tmp_path)
    for own in (LOOPBACK | {HERE}, LOOPBACK):
        addresses(own)
        assert await journal.rewrite([entry("here", 1, HERE)], {})
    journal.close()
    assert opened(tmp_path, "another boot")[1].entries["here"].state == "null"


async def test_a_disk_that_refuses_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a line that was not written, nor after a sync that failed."""

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name, file in (("write_all", journals), ("fsync", os)):
        (tmp_path / name).mkdir()
        journal, _ = opened(tmp_path / name)
        with monkeypatch.context() as patched:
            patched.setattr(file, name, refuse)
            journal.append([entry("a", 1)], {})
            assert not await journal.sync()
        assert not await journal.sync(), "only a rewrite makes it whole"
        assert await journal.rewrite([entry("a", 1)], {})
        assert await journal.sync()


async def test_lines_of_older_versions_are_judged_by_the_addresses_of_now(tmp_path: Path) -> None:
    """They do not say what was local."""
    record = {"source": "here", "revision": 1, "state": "live", "address": HERE, "port": 80}
    lines = [{"schema": 1, "boot": "old"}, {"entry": record}, {"entry": record | {"source": "there", "address": THERE}}]
    (tmp_path / "routes").write_bytes(b"".join(map(line, lines)))
    _, loaded = opened(tmp_path)
    assert {name: found.state for name, found in loaded.entries.items()} == {"here": "null", "there": "live"}


@pytest.mark.parametrize("damage", ["cut", "changed", "not apart"])
async def test_a_torn_line_and_what_follows_is_not_taken(tmp_path: Path, damage: str) -> None:
    """It was never acknowledged; and what is appended next stands where it began."""
    journal, _ = opened(tmp_path)
    journal.append([entry("a", 1)], {})
    whole = (tmp_path / "routes").stat().st_size
    journal.append([entry("b", 2, instance="i2")], {})
    journal.close()
    text = (tmp_path / "routes").read_bytes()
    last = text[whole:]
    torn = (
        text[:whole]
        + {
            "cut": last[:-1],
            "changed": last.replace(b'"i2"', b'"i3"') + line({"x": 1}),
            "not apart": last.replace(b" ", b"_", 1),
        }[damage]
    )
    (tmp_path / "routes").write_bytes(torn)
    journal, loaded = opened(tmp_path)
    assert set(loaded.entries) == {"a"}
    journal.append([entry("c", 3)], {})
    journal.close()
    assert set(opened(tmp_path)[1].entries) == {"a", "c"}


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """With a message that says what to do, and the file is left as it is."""
    content = line({"schema": SCHEMA + 1, "boot": "boot"})
    (tmp_path / "routes").write_bytes(content)
    with pytest.raises(Unavailable, match="newer version"):
        opened(tmp_path)
    assert (tmp_path / "routes").read_bytes() == content


async def test_a_rewrite_that_a_removal_overtakes_brings_nothing_back(tmp_path: Path) -> None:
    """The file of a removed node stays empty."""
    journal, _ = opened(tmp_path)
    journal.append([entry("a", 1)], {})
    rewrite = asyncio.create_task(journal.rewrite([entry("a", 1)], {}))
    await asyncio.sleep(0)
    journal.void()
    assert not await rewrite
    journal.close()
    assert opened(tmp_path)[1].entries == {}


@asynccontextmanager
async def one_route(tmp_path: Path) -> AsyncIterator[tuple[Ceryx, MemoryEngine]]:
    """An API with a route of another machine's target."""
    async with running(tmp_path, served_wait=5.0) as ceryx, listening(ceryx):
        await ceryx.client().put_route(live("a", instance="i1", host=THERE))
        yield ceryx, MemoryEngine()


async def test_nothing_is_promised_while_the_journal_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route is withdrawn all the same; the proof comes once the disk takes it."""
    full = False

    def refusing(real: Callable[..., None]) -> Callable[..., None]:
        def write(file: int | Path, data: bytes) -> None:
            if full:
                raise OSError(28, "No space left on device")
            real(file, data)

        return write

    monkeypatch.setattr(journals, "write_all", refusing(journals.write_all))
    monkeypatch.setattr(journals, "write_file", refusing(journals.write_file))
    async with one_route(tmp_path) as (ceryx, engine), alive(agent := make_agent(tmp_path, ceryx.url, engine)):
        await engine.until(lambda it: it.loaded)
        await eventually(lambda: agent._engine.may_promise)
        full = True
        client = ceryx.client()
        result = await client.put_route(asleep("a"))
        assert engine.table["a"].state == "null"
        assert agent._engine.connected and not agent._engine.may_promise
        assert not (await client.withdrawal("i1", result, until="acknowledged", wait=0.3)).acknowledged
        full = False
        assert (await client.withdrawal("i1", result, until="drained", wait=10)).drained


async def test_the_file_of_a_removed_node_is_void(tmp_path: Path) -> None:
    """What it knows binds nobody: it is gone from the disk before the node registers anew."""
    async with one_route(tmp_path) as (ceryx, engine):
        agent = make_agent(tmp_path, ceryx.url, engine)
        async with alive(agent):
            await engine.until(lambda it: it.loaded)
            registering, go = asyncio.Event(), asyncio.Event()
            register = agent.client.register_node

            async def wait(node: str, home: str | None = None) -> Any:
                registering.set()
                await go.wait()
                return await register(node)

            agent.client.register_node = wait
            ceryx.service.nodes.get("n1").live = False
            ceryx.service.nodes.get("n1").heard -= 100
            await ceryx.service.nodes.remove("n1")
            async with asyncio.timeout(10):
                await registering.wait()
            file = tmp_path / "agent" / "routes"
            assert b'"a"' not in file.read_bytes() and b"registered" not in file.read_bytes()
            go.set()
            await eventually(lambda: b'"a"' in file.read_bytes())
