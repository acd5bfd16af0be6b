"""Many starts at once, as nodes see them: places, full queues, and rates that hold one address or owner back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.hemera.world import Hemera, a_hemera

from sourcelair.client.servers import StartRequest
from sourcelair.errors import LairError
from sourcelair.hemera import waker
from sourcelair.hemera.progress import progress
from sourcelair.servers import starts as starts_of_the_api
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

ADDRESS, OTHER = "203.0.113.9", "198.51.100.7"

MakeHemera = Callable[..., AbstractAsyncContextManager[Hemera]]


@pytest.fixture
def make(tmp_path: Path) -> MakeHemera:
    """Return what makes a Hemera with settings."""

    @asynccontextmanager
    async def hemera(**settings: Any) -> AsyncIterator[Hemera]:
        async with a_hemera(tmp_path, **settings) as made:
            yield made

    return hemera


@pytest.fixture(autouse=True)
def patient_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a start keep its turn until it is over."""
    monkeypatch.setattr(starts_of_the_api, "LONGEST_TURN", 600)
    monkeypatch.setattr(waker, "LONGEST_TURN", 600)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no wake be held for longer than it takes to see that it waits."""

    async def soon(self: waker.Waker, request: Any, *, wait: float = 0.05) -> waker.Outcome:
        return await wake(self, request, wait=wait)

    wake = waker.Waker.wake
    monkeypatch.setattr(waker.Waker, "wake", soon)


async def busy(hemera: Hemera, owner: str = "slow") -> None:
    """Let starts that never listen take all turns."""
    for number in range(hemera.life.world.settings.max_starting):
        await hemera.life.create(owner, f"srv{number}", script=Script(listens=False))
        assert (await hemera.wake(f"srv{number}--{owner}.localhost")).status_code == 202
        await hemera.life.until("starting", owner, f"srv{number}")


async def place(stream: AsyncGenerator[bytes, None]) -> int:
    """Return the next place that a page is told."""
    while True:
        told = await anext(stream)
        if told.startswith(b"event: state") and (found := re.search(rb'"place": ([0-9]+)', told)):
            return int(found[1])


def starts(hemera: Hemera) -> int:
    return hemera.life.world.driver.count("start")


@pytest.mark.usefixtures("impatient")
async def test_who_waits_is_told_its_place(make: MakeHemera) -> None:
    async with make(max_starting=1) as hemera:
        await busy(hemera)
        await hemera.life.create("ann", "one")
        await hemera.life.create("ann", "two")
        await hemera.life.create("bob", "one")
        answers = [await hemera.wake(f"{name}.localhost") for name in ("one--ann", "two--ann", "one--bob")]
        assert {answer.status_code for answer in answers} == {202}
        assert {answer.headers["lair-state"] for answer in answers} == {"queued"}
        places = [answer.json()["place"] for answer in answers]
        assert places == [1, 2, 2], "as it was when each came: another owner does not wait behind all of the first's"
        again = [
            (await hemera.wake(f"{name}.localhost")).json()["place"] for name in ("one--ann", "two--ann", "one--bob")
        ]
        assert again == [1, 3, 2], "owners take turns"
        server = hemera.service.directory.at("two--ann.localhost")
        assert server is not None
        assert hemera.service.waker.place(server) == 3


@pytest.mark.usefixtures("impatient")
async def test_a_full_queue_holds_on_and_says_so(make: MakeHemera) -> None:
    async with make(max_starting=1, wake_queue=3, wake_queue_per_owner=2) as hemera:
        await busy(hemera)
        for number in range(4):
            await hemera.life.create("ann", f"app{number}")
        answers = [await hemera.wake(f"app{number}--ann.localhost", address=ADDRESS) for number in range(4)]
        assert [answer.json()["place"] for answer in answers] == [1, 2, None, None]
        assert {(answer.status_code, answer.headers["lair-state"]) for answer in answers} == {(202, "queued")}
        assert int(answers[2].headers["retry-after"]) >= 1
        await hemera.life.create("bob", "one")
        assert (await hemera.wake("one--bob.localhost")).json()["place"] == 2, "another owner still has room"


@pytest.mark.usefixtures("impatient")
async def test_pages_learn_of_places_as_they_change(make: MakeHemera) -> None:
    async with make(max_starting=1) as hemera:
        await busy(hemera)
        for project in ("one", "two"):
            await hemera.life.create("ann", project, script=Script(listens=False))
            await hemera.wake(f"{project}--ann.localhost")
        stream = progress(hemera.service, "two--ann.localhost")
        async with asyncio.timeout(30):
            assert [await place(stream)] == [2]
            await hemera.life.client.delete("slow", "srv0")
            assert [await place(stream)] == [1]
        await stream.aclose()


async def test_two_hundred_hosts_from_one_address_keep_nobody_else_out(make: MakeHemera) -> None:
    async with make(starts_per_minute_per_address=10) as hemera:
        for number in range(200):
            await hemera.life.create(f"own{number % 20}", f"app{number}", script=Script(serves=True))
        await hemera.life.create()
        calls = [
            asyncio.ensure_future(hemera.wake(f"app{number}--own{number % 20}.localhost", address=ADDRESS))
            for number in range(200)
        ]
        answers = await asyncio.gather(*calls)
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) == 190
        assert starts(hemera) == 10
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.headers["lair-state"] for answer in refused} == {"rate-limited"}
        assert all(1 <= int(answer.headers["retry-after"]) <= 6 for answer in refused)
        assert refused[0].json()["state"] == "rate-limited"
        assert refused[0].json()["status"] == 429
        assert (await hemera.wake(address=OTHER)).status_code == 200


async def test_what_starts_nothing_costs_nothing(make: MakeHemera) -> None:
    """Neither what is disabled, nor what is awake already, nor joining a start that is under way."""
    async with make(starts_per_minute_per_address=1) as hemera:
        await hemera.life.create("off", "blog", enabled=False)
        for _ in range(3):
            assert (await hemera.wake("blog--off.localhost", address=ADDRESS)).status_code == 403
        await hemera.life.create(script=Script(serves=True, listen_after=0.05))
        answers = await asyncio.gather(*(hemera.wake(address=ADDRESS) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        await hemera.look()
        assert (await hemera.wake(address=ADDRESS)).status_code == 200
        await hemera.life.create("more", "blog")
        assert (await hemera.wake("blog--more.localhost", address=ADDRESS)).status_code == 429
        assert (await hemera.wake("blog--more.localhost", address="127.0.0.1")).status_code == 200
        assert starts(hemera) == 2


async def test_a_refusal_of_the_api_gives_the_start_back(make: MakeHemera) -> None:
    """Hemera may know of it later than the API."""
    async with make(starts_per_minute_per_address=1, starts_per_minute_per_owner=1, starts_per_minute=1) as hemera:
        await hemera.life.create("off", "blog")
        await hemera.look()
        await hemera.life.create("off", "blog", enabled=False)
        for _ in range(3):
            assert (await hemera.wake("blog--off.localhost", address=ADDRESS)).status_code == 403
        await hemera.life.create()
        assert (await hemera.wake(address=ADDRESS)).status_code == 200


async def test_what_is_held_back_gives_the_start_back(make: MakeHemera) -> None:
    async with make(starts_per_minute_per_address=1) as hemera:
        await hemera.life.create(script=Script(listens=False, exit_after=0.001, exit_status=ExitStatus(code=3)))
        await hemera.look()
        for _ in range(3):
            with pytest.raises(LairError):
                await hemera.life.client.start("demo", "blog", StartRequest(), wait=5)
        for _ in range(3):
            answer = await hemera.wake(address=ADDRESS)
            assert (answer.status_code, answer.headers["lair-state"]) == (503, "failed")
        assert starts(hemera) == 3


@pytest.mark.usefixtures("impatient")
async def test_an_owner_over_its_rate_waits_and_others_pass(make: MakeHemera) -> None:
    async with make(starts_per_minute_per_owner=1) as hemera:
        for number in range(3):
            await hemera.life.create("many", f"app{number}")
        await hemera.life.create("few", "blog")
        answers = [await hemera.wake(f"app{number}--many.localhost") for number in range(3)]
        answers.append(await hemera.wake("blog--few.localhost"))
        await hemera.life.until("awake", "few")
        await hemera.life.until("awake", "many", "app0")
        assert [answer.headers["lair-state"] for answer in answers[1:3]] == ["queued", "queued"]
        assert [answer.json()["place"] for answer in answers[1:3]] == [1, 2]
        assert starts(hemera) == 2


async def test_a_person_who_tries_again_costs_a_start_too(make: MakeHemera) -> None:
    async with make(starts_per_minute_per_address=1) as hemera:
        for project in ("one", "two"):
            script = Script(listens=False, exit_after=0.001, exit_status=ExitStatus(code=3))
            await hemera.life.create("demo", project, script=script)
            with pytest.raises(LairError):
                await hemera.life.client.start("demo", project, StartRequest(), wait=5)
        await hemera.look()
        tried = [
            await hemera.service.retries.retry(f"{project}--demo.localhost", ADDRESS) for project in ("one", "two")
        ]
        assert tried == [True, False]


async def test_it_is_counted(make: MakeHemera) -> None:
    from sourcelair.telemetry import METRICS

    def value(name: str, **labels: str) -> float:
        return METRICS.get_sample_value(name, labels) or 0.0

    async with make(starts_per_minute_per_address=1) as hemera:
        await hemera.life.create()
        await hemera.life.create("other", "blog")
        before = [value("lair_wakes_total", outcome=outcome) for outcome in ("awake", "rate-limited")]
        limited, answered = value("lair_wakes_rate_limited_total", rate="address"), value("lair_time_to_answer_count")
        await hemera.wake(address=ADDRESS)
        await hemera.wake("blog--other.localhost", address=ADDRESS)
        after = [value("lair_wakes_total", outcome=outcome) for outcome in ("awake", "rate-limited")]
        assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
        assert value("lair_wakes_rate_limited_total", rate="address") == limited + 1
        assert value("lair_time_to_answer_count") == answered + 1
        assert value("lair_wake_queue") == 0
