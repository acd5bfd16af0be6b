"""What every driver that can pause promises, and what those say that can't."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.servers.drivers.subjects import SUBJECTS, BareSubject, Behaviour, Subject
from tests.servers.drivers.test_conformance import until_listening, until_logged

from sourcelair.client.policy import SleepPolicy
from sourcelair.errors import InvalidInput
from sourcelair.servers.drivers.base import Driver, ExitStatus, Found, PauseFailed

pytestmark = pytest.mark.anyio

A_MOMENT = 0.2
"""Seconds after which what has not answered is taken to stand still; running, it answers in a few milliseconds."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=[each for each in SUBJECTS if each is not BareSubject], ids=lambda subject: subject.__name__)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """A machine with a driver of each kind, empty at first; skipped where it can't pause."""
    subject = request.param(tmp_path)
    if "pause" not in subject.driver().capabilities:
        pytest.skip("nothing can be frozen here")
    yield subject
    await subject.close()


@pytest.fixture
async def driver(subject: Subject) -> Driver:
    return subject.driver()


async def serving(driver: Driver, subject: Subject) -> tuple[Found, int]:
    """Start an instance, and return it with its port once it has answered."""
    order = subject.order(Behaviour.SERVES)
    found = await driver.start(order)
    await until_listening(driver, found, order.port)
    assert await status(order.port) == 200
    return found, order.port


async def status(port: int) -> int:
    """Return how it answers a request; the test's own timeout bounds it."""

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_a_paused_instance_answers_what_came_meanwhile_when_it_is_resumed(
    driver: Driver, subject: Subject
) -> None:
    """A request is taken and not answered while it is paused, and answered after."""
    found, port = await serving(driver, subject)
    await driver.pause(found)
    asking = asyncio.create_task(status(port))
    await asyncio.wait([asking], timeout=A_MOMENT)
    assert not asking.done()
    await driver.resume(found)
    assert await asking == 200
    assert await status(port) == 200


async def test_both_may_be_repeated(driver: Driver, subject: Subject) -> None:
    """Twice is the same as once, in whatever order, with a new driver object too."""
    found, port = await serving(driver, subject)
    for control_plane in (driver, subject.driver()):
        await control_plane.resume(found)
        await control_plane.pause(found)
        await control_plane.pause(found)
        assert (await driver.find_all())[0].paused
        await control_plane.resume(found)
        await control_plane.resume(found)
        assert await status(port) == 200


async def test_that_it_is_paused_is_seen_also_after_a_crash(driver: Driver, subject: Subject) -> None:
    """Whoever adopts it sees it, by handle, by id and among all, and can resume it."""
    found, port = await serving(driver, subject)
    assert not found.paused
    for paused in (True, False):
        await (driver.pause(found) if paused else subject.driver().resume(found))
        for control_plane in (driver, subject.driver()):
            (one,) = await control_plane.find_all()
            for seen in (
                one,
                await control_plane.inspect(found.instance, None),
                await control_plane.inspect(found.instance, found.handle),
            ):
                assert seen is not None
                assert seen.paused == paused
                assert seen.pid == found.pid
    assert await status(port) == 200


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_paused_instance_is_stopped_as_any_other(driver: Driver, subject: Subject, adopted: bool) -> None:
    """It is asked, and ends by itself within its grace."""
    found, _ = await serving(driver, subject)
    await driver.pause(found)
    waiting = asyncio.create_task(driver.wait_exit(found))
    stopper = subject.driver() if adopted else driver
    began = time.monotonic()
    await stopper.stop(found, 30)
    assert time.monotonic() - began < 20
    assert await waiting == ExitStatus(signal=15)
    assert await driver.find_all() == []


async def test_a_paused_instance_that_ignores_being_asked_is_killed(driver: Driver, subject: Subject) -> None:
    """After its grace, and at once without one."""
    for grace in (0.3, 0):
        order = subject.order(Behaviour.STUBBORN)
        found = await driver.start(order)
        if driver.name != "mock":
            await until_logged(order.log, b"ready")
        await driver.pause(found)
        began = time.monotonic()
        assert await driver.stop(found, grace) == ExitStatus(signal=9)
        assert grace - 0.01 <= time.monotonic() - began < grace + 3
        assert await driver.find_all() == []


async def test_pausing_what_has_ended_fails_and_resuming_it_does_not(driver: Driver, subject: Subject) -> None:
    found = await driver.start(subject.order(Behaviour.EXITS))
    await driver.wait_exit(found)
    with pytest.raises(PauseFailed, match="ended"):
        await driver.pause(found)
    await driver.resume(found)
    assert await driver.find_all() == []


async def test_a_pause_never_undoes_a_resume_that_came_later(driver: Driver, subject: Subject) -> None:
    """Also where nobody waits for the pause any more: it may still be under way."""
    found, port = await serving(driver, subject)
    for number in range(20):
        pausing = asyncio.create_task(driver.pause(found))
        await asyncio.sleep(0.0005 * (number % 8))
        if number % 2:
            pausing.cancel()
        await driver.resume(found)
        await asyncio.wait([pausing])
        assert pausing.cancelled() or isinstance(pausing.exception(), PauseFailed | None)
        assert await status(port) == 200
    assert not (await driver.find_all())[0].paused


async def test_a_stop_wins_over_a_pause_that_is_under_way(driver: Driver, subject: Subject) -> None:
    for number in range(8):
        found = await driver.start(subject.order(Behaviour.SILENT))
        pausing = asyncio.create_task(driver.pause(found))
        await asyncio.sleep(0.0005 * number)
        began = time.monotonic()
        assert (await driver.stop(found, 30)).signal == 15
        assert time.monotonic() - began < 20
        await asyncio.gather(pausing, return_exceptions=True)
    assert await driver.find_all() == []


async def test_many_are_paused_and_resumed_at_once(driver: Driver, subject: Subject) -> None:
    """Each is what was asked last, whatever happened to the others."""
    running = [await driver.start(subject.order(Behaviour.SILENT)) for _ in range(12)]
    await asyncio.gather(*map(driver.pause, running))
    assert all(found.paused for found in await driver.find_all())
    await asyncio.gather(*map(driver.resume, running[::2]))
    paused = {found.instance for found in await driver.find_all() if found.paused}
    assert paused == {found.instance for found in running[1::2]}


async def test_what_can_pause_takes_a_spec_that_dozes(driver: Driver, subject: Subject) -> None:
    driver.check(subject.spec(Behaviour.SERVES).model_copy(update={"sleep": SleepPolicy(doze_after=60)}))


async def test_what_can_not_pause_says_so(tmp_path: Path) -> None:
    """In the words of whoever wrote the spec; `never` asks for nothing."""
    subject = BareSubject(tmp_path)
    driver = subject.driver()
    try:
        assert "pause" not in driver.capabilities
        spec = subject.spec(Behaviour.SILENT)
        with pytest.raises(InvalidInput, match=r"^spec\.sleep\.doze_after: .*(root|delegated).*leave"):
            driver.check(spec.model_copy(update={"sleep": SleepPolicy(doze_after=60)}))
        driver.check(spec.model_copy(update={"sleep": SleepPolicy(doze_after="never")}))
        found = await driver.start(subject.order(Behaviour.SILENT))
        with pytest.raises(PauseFailed):
            await driver.pause(found)
        await driver.resume(found)
        assert not (await driver.find_all())[0].paused
    finally:
        await subject.close()
