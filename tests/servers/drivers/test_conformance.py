"""What every driver promises, see `sourcelair.servers.drivers.base`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import SUBJECTS, Behaviour, Subject

from sourcelair.servers.drivers.base import Driver, ExitStatus, Found, Listener, StartFailed, StartVoided

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The product runs on uvloop, and must not depend on it."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.__name__)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """A machine with a driver of each kind, empty at first."""
    subject = request.param(tmp_path)
    yield subject
    await subject.close()


@pytest.fixture
async def driver(subject: Subject) -> Driver:
    """A driver of each kind."""
    return subject.driver()


async def until_listening(driver: Driver, found: Found, port: int) -> Listener:
    """Look until the instance listens; the test's own timeout bounds it."""
    while (listener := await driver.listener(found, port)) is None:
        await asyncio.sleep(0.005)
    return listener


async def until_logged(log: Path, text: bytes) -> None:
    """Look until a log has a text."""
    while not log.exists() or text not in log.read_bytes():
        await asyncio.sleep(0.005)


async def test_a_started_instance_is_found_by_its_handle_and_by_its_id(driver: Driver, subject: Subject) -> None:
    """It is there as soon as `start` returns, with a handle that can be stored as JSON, and without one."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    stored = json.loads(json.dumps(found.handle))
    assert stored == found.handle
    assert abs(found.started_at - time.time()) < 5
    for seen in (await driver.inspect(found.instance, stored), await driver.inspect(found.instance, None)):
        assert seen is not None
        assert (seen.instance, seen.pid) == (found.instance, found.pid)
    assert [seen.instance for seen in await driver.find_all()] == [found.instance]


async def test_it_is_listening_once_it_itself_listens(driver: Driver, subject: Subject) -> None:
    """The listener is given with an address that can be dialled, and nothing listens elsewhere."""
    order = subject.order(Behaviour.SERVES)
    found = await driver.start(order)
    listener = await until_listening(driver, found, order.port)
    assert (listener.host, listener.port) == ("127.0.0.1", order.port)
    assert await driver.listening_elsewhere(found) == []
    reader, writer = await asyncio.open_connection(listener.host, listener.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()


async def test_the_listener_of_another_is_not_the_instance(driver: Driver, subject: Subject) -> None:
    """Somebody else on its port is never taken for it."""
    order = subject.order(Behaviour.SILENT)
    with socket.create_server(("127.0.0.1", order.port)):
        found = await driver.start(order)
        for _ in range(3):
            assert await driver.listener(found, order.port) is None
        assert await driver.listening_elsewhere(found) == []


async def test_listening_on_the_wrong_port_is_told(driver: Driver, subject: Subject) -> None:
    """The wrong port can be named to the user."""
    order = subject.order(Behaviour.ELSEWHERE)
    found = await driver.start(order)
    while not (ports := await driver.listening_elsewhere(found)):
        await asyncio.sleep(0.005)
    assert len(ports) == 1
    assert ports[0] != order.port
    assert await driver.listener(found, order.port) is None


async def test_the_exit_status_is_given_to_all_who_wait_and_later(driver: Driver, subject: Subject) -> None:
    """Whoever started it learns how it ended, however late they ask."""
    found = await driver.start(subject.order(Behaviour.EXITS))
    assert await asyncio.gather(driver.wait_exit(found), driver.wait_exit(found)) == [ExitStatus(code=3)] * 2
    assert await driver.wait_exit(found) == ExitStatus(code=3)
    assert await driver.stop(found, 5) == ExitStatus(code=3)
    assert await driver.inspect(found.instance, found.handle) is None
    assert await driver.inspect(found.instance, None) is None
    assert await driver.find_all() == []


async def test_waiting_for_the_exit_can_be_cancelled(driver: Driver, subject: Subject) -> None:
    """A wait that was cancelled harms neither the instance nor the next wait."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    waiting = asyncio.create_task(driver.wait_exit(found))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await driver.inspect(found.instance, found.handle) is not None
    waiting = asyncio.create_task(driver.wait_exit(found))
    await driver.stop(found, 5)
    assert await waiting == ExitStatus(signal=15)


async def test_stop_returns_when_nothing_is_left(driver: Driver, subject: Subject) -> None:
    """After `stop` the instance is gone and its port is free; stopping again changes nothing."""
    order = subject.order(Behaviour.SERVES)
    found = await driver.start(order)
    await until_listening(driver, found, order.port)
    assert await driver.stop(found, 10) == ExitStatus(signal=15)
    with socket.create_server(("127.0.0.1", order.port), reuse_port=False):
        pass
    assert await driver.inspect(found.instance, found.handle) is None
    assert await driver.find_all() == []
    assert await driver.stop(found, 10) == ExitStatus(signal=15)


async def test_what_ignores_being_asked_is_killed_after_the_grace(driver: Driver, subject: Subject) -> None:
    """It has its grace, and not more."""
    order = subject.order(Behaviour.STUBBORN)
    found = await driver.start(order)
    if driver.name != "mock":
        await until_logged(order.log, b"ready")
    began = time.monotonic()
    assert await driver.stop(found, 0.3) == ExitStatus(signal=9)
    assert 0.29 <= time.monotonic() - began < 3  # uvloop counts whole milliseconds
    assert await driver.find_all() == []


async def test_without_grace_it_is_killed_at_once(driver: Driver, subject: Subject) -> None:
    """A grace of 0 asks for nothing."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    assert await driver.stop(found, 0) == ExitStatus(signal=9)


async def test_a_start_after_void_runs_nothing(driver: Driver, subject: Subject) -> None:
    """The fence holds, for every driver object, after `forget` too, since the start may come late."""
    order = subject.order(Behaviour.SILENT)
    assert await driver.void(order.instance)
    assert await driver.void(order.instance)
    for control_plane in (driver, subject.driver()):
        with pytest.raises(StartVoided):
            await control_plane.start(order)
        await driver.forget(order.instance)
    assert await driver.inspect(order.instance, None) is None
    assert await driver.find_all() == []


async def test_void_after_start_says_so(driver: Driver, subject: Subject) -> None:
    """What has started is not voided, and runs on."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    assert not await driver.void(found.instance)
    assert not await subject.driver().void(found.instance)
    assert await driver.inspect(found.instance, None) is not None


async def test_an_id_is_started_once(driver: Driver, subject: Subject) -> None:
    """A second start of the same id runs nothing."""
    order = subject.order(Behaviour.SILENT)
    found = await driver.start(order)
    with pytest.raises(StartVoided):
        await subject.driver().start(order)
    assert [seen.pid for seen in await driver.find_all()] == [found.pid]


async def test_of_a_start_and_a_void_exactly_one_wins(driver: Driver, subject: Subject) -> None:
    """A hundred races: never both, never neither."""
    successor = subject.driver()
    orders = [subject.order(Behaviour.SILENT) for _ in range(100)]

    async def start(number: int) -> Found | None:
        await asyncio.sleep(0.0003 * (number % 7))
        with contextlib.suppress(StartVoided):
            return await driver.start(orders[number])
        return None

    async def void(number: int) -> bool:
        await asyncio.sleep(0.0006 * (number % 11))
        return await successor.void(orders[number].instance)

    running = set()
    for number in range(100):
        found, voided = await asyncio.gather(start(number), void(number))
        assert (found is None) == voided
        if found is not None:
            running.add(found.instance)
    assert {found.instance for found in await successor.find_all()} == running


async def test_a_start_that_fails_says_why_and_leaves_nothing(driver: Driver, subject: Subject) -> None:
    """The message names what is missing."""
    order = subject.order(Behaviour.IMPOSSIBLE)
    with pytest.raises(StartFailed, match="nothing-like-this"):
        await driver.start(order)
    assert await driver.find_all() == []
    assert await driver.void(order.instance)


async def test_nothing_runs_before_what_comes_first_is_done(driver: Driver, subject: Subject) -> None:
    """What is awaited first is done before anything of it listens."""
    order, begun, done = subject.order(Behaviour.SERVES), asyncio.Event(), asyncio.Event()

    async def first(go: Callable[[], None]) -> None:
        begun.set()
        await done.wait()
        go()

    starting = asyncio.create_task(driver.start(order, first))
    await begun.wait()
    for _ in range(20):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", order.port)) != 0
        await asyncio.sleep(0.02)
    done.set()
    found = await starting
    await until_listening(driver, found, order.port)


async def test_where_what_comes_first_fails_nothing_runs(driver: Driver, subject: Subject) -> None:
    """Its error is told, and the id was never claimed."""
    order = subject.order(Behaviour.SERVES)

    async def first(_: Callable[[], None]) -> None:
        await asyncio.sleep(0.01)
        raise KeyError("the disk is full")

    with pytest.raises(KeyError, match="disk is full"):
        await driver.start(order, first)
    for _ in range(20):
        assert await driver.find_all() == []
        await asyncio.sleep(0.005)
    assert await driver.void(order.instance)
    assert not order.log.exists() or not order.log.read_bytes()


async def test_a_failure_is_told_after_what_comes_first(driver: Driver, subject: Subject) -> None:
    """Whoever stores first, and ends what failed then, does both in this order."""
    seen = []

    async def first(go: Callable[[], None]) -> None:
        go()
        await asyncio.sleep(0.02)
        seen.append("first")

    with pytest.raises(StartFailed):
        await driver.start(subject.order(Behaviour.IMPOSSIBLE), first)
    assert seen == ["first"]


async def test_a_cancelled_start_can_be_found_or_voided(driver: Driver, subject: Subject) -> None:
    """Whoever cancelled learns with `void` which of the two it was."""
    for pause in (0, 0.001, 0.002, 0.004, 0.01):
        order = subject.order(Behaviour.SILENT)
        starting = asyncio.create_task(driver.start(order))
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.wait([starting])
        voided = await driver.void(order.instance)
        found = await driver.inspect(order.instance, None)
        assert (found is None) == voided
        if found is not None:
            await driver.stop(found, 0)


async def test_the_next_control_plane_adopts_what_runs(driver: Driver, subject: Subject) -> None:
    """Another driver object finds it, proves its listener, waits for it and stops it."""
    order = subject.order(Behaviour.SERVES)
    found = await driver.start(order)
    await until_listening(driver, found, order.port)
    successor = subject.driver()
    (adopted,) = await successor.find_all()
    assert adopted.pid == found.pid
    assert abs(adopted.started_at - found.started_at) < 1
    assert await successor.listener(adopted, order.port) is not None
    assert await successor.listening_elsewhere(adopted) == []
    waiting = asyncio.create_task(successor.wait_exit(adopted))
    await successor.stop(adopted, 10)
    await waiting
    assert await driver.inspect(found.instance, found.handle) is None
    await successor.forget(found.instance)


async def test_installations_do_not_see_each_other(driver: Driver, subject: Subject) -> None:
    """Another data directory on the same machine neither finds it nor takes its handle."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    stranger = subject.stranger()
    assert await stranger.find_all() == []
    assert await stranger.inspect(found.instance, None) is None
    assert await stranger.inspect(found.instance, found.handle) is None
    assert await stranger.void(found.instance)
    assert await driver.inspect(found.instance, found.handle) is not None


async def test_a_handle_of_another_process_is_nobody(driver: Driver, subject: Subject) -> None:
    """A pid that was used again is not the instance."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    await driver.stop(found, 0)
    other = await driver.start(subject.order(Behaviour.SILENT))
    while other.handle.get("start") == found.handle.get("start") is not None:  # the kernel counts in 10 ms
        other = await driver.start(subject.order(Behaviour.SILENT))
    reused = {**found.handle, "pid": other.handle["pid"]}
    assert await driver.inspect(found.instance, reused) is None
    assert await driver.inspect(other.instance, other.handle) is not None


async def test_what_is_forgotten_is_unknown(driver: Driver, subject: Subject) -> None:
    """Nothing is kept of an instance that ended; one that runs can't be forgotten."""
    found = await driver.start(subject.order(Behaviour.SILENT))
    await driver.forget(found.instance)
    assert await driver.inspect(found.instance, None) is not None
    await driver.stop(found, 0)
    await driver.forget(found.instance)
    assert await driver.inspect(found.instance, None) is None
    assert await driver.find_all() == []


async def test_the_unknown_is_no_error(driver: Driver) -> None:
    """Looking for and forgetting what never was is answered."""
    assert await driver.inspect("never-was", None) is None
    await driver.forget("never-was")
    assert await driver.find_all() == []


async def test_its_output_is_in_its_log(driver: Driver, subject: Subject) -> None:
    """What it wrote can be read after it has ended."""
    order = subject.order(Behaviour.EXITS)
    await driver.wait_exit(await driver.start(order))
    assert b"".join([block async for block in driver.logs(order.log, lines=10, follow=False)]) == b"bye\n"


async def test_nothing_leaks(driver: Driver, subject: Subject) -> None:
    """Neither open files nor zombies stay behind, whatever happened to the instance."""

    async def cycle() -> None:
        found = await driver.start(subject.order(Behaviour.SILENT))
        waiting = asyncio.create_task(driver.wait_exit(found))
        await driver.listener(found, 1)
        await driver.stop(found, 0)
        await waiting
        await driver.wait_exit(await driver.start(subject.order(Behaviour.EXITS)))
        with pytest.raises(StartFailed):
            await driver.start(subject.order(Behaviour.IMPOSSIBLE))
        cancelled = asyncio.create_task(driver.stop(found, 0))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])

    async def settled() -> int:
        await asyncio.sleep(0.05)
        return len(list(Path("/proc/self/fd").iterdir()))

    await cycle()
    before = await settled()
    for _ in range(5):
        await cycle()
    async with asyncio.timeout(5):
        while await settled() > before:  # What runs beside a start takes its time on a busy machine.
            continue
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
