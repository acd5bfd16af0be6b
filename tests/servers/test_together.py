"""What is asked at the same moment: a start that meets a stop, a removal, or another spec."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from tests.servers.world import Life, World, error_of

from sourcelair.client.servers import ServerInput, Spec, StartRequest
from sourcelair.errors import LairError, NotFound
from sourcelair.servers import asking, machine
from sourcelair.servers.records import ServerRecord, decode, encode
from sourcelair.store import open_store
from sourcelair.store.base import Operation

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def meet(life: Life, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Awaitable[object]]) -> None:
    """Let a start come to its first write while what `ask` asks for is just being written."""
    worker, context = life.service.worker("demo", "blog"), life.service.context
    take, transact, update = context.ports.take_when_free, context.store.transact, worker.update
    has_port, go_on, asked, writing, written = (asyncio.Event() for _ in range(5))

    async def take_later(*args: Any) -> Any:
        taken = await take(*args)
        has_port.set()
        await go_on.wait()
        return taken

    async def transact_later(*args: Any, **kwargs: Any) -> int:
        writing.set()
        await written.wait()
        return await transact(*args, **kwargs)

    async def update_seen(change: Callable[[ServerRecord], ServerRecord], also: Sequence[Operation] = ()) -> None:
        if go_on.is_set():
            asked.set()
        await update(change, also)

    monkeypatch.setattr(context.ports, "take_when_free", take_later)
    visit = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=1))
    await has_port.wait()
    monkeypatch.setattr(context.store, "transact", transact_later)
    monkeypatch.setattr(worker, "update", update_seen)
    other = asyncio.ensure_future(ask())
    await writing.wait()
    go_on.set()
    await asked.wait()
    written.set()
    await other
    monkeypatch.undo()
    visit.cancel()
    await asyncio.wait([visit])


@pytest.mark.parametrize("what", ["stop", "disable", "remove"])
async def test_a_start_that_meets_a_stop_does_not_win(life: Life, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Nothing runs afterwards, and the port is free again."""
    await life.create()
    body = ServerInput(spec=Spec(driver="mock"), enabled=False)
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "stop": lambda: life.client.stop("demo", "blog", wait=5),
        "disable": lambda: life.client.put("demo", "blog", body),
        "remove": lambda: life.client.delete("demo", "blog", wait=5),
    }
    worker = life.service.worker("demo", "blog")
    await meet(life, monkeypatch, asks[what])
    assert worker.record.instance is None
    assert life.world.driver.count("start") == 0
    assert not life.service.context.ports._taken
    if what == "remove":
        assert isinstance(await error_of(life.client.get("demo", "blog")), NotFound)
        return
    await life.client.put("demo", "blog", ServerInput(spec=Spec(driver="mock")))
    assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"


@pytest.mark.parametrize("change", [{"removing": True}, {"enabled": False}])
@pytest.mark.parametrize("state", ["awake", "starting"])
async def test_what_may_not_run_is_ended_after_a_crash(world: World, change: dict[str, bool], state: str) -> None:
    """Also where the record does not say which instance is to be stopped; and nobody is sent to it any more."""
    async with world.up() as life:
        await life.create()
        await life.client.start("demo", "blog", VISIT, wait=5)
    store = await open_store(world.directory / "servers.db")
    entry = await store.get("/servers/demo/blog")
    assert entry is not None
    record = decode(ServerRecord, entry).model_copy(update={**change, "state": state, "desired": "awake"})
    await store.put(entry.key, encode(record))
    await store.close()
    async with world.up() as life:
        worker = life.service.worker("demo", "blog")
        while worker.record.instance is not None:
            await worker.change()
        assert await world.driver.find_all() == []
        if "enabled" in change:
            assert worker.record.state == "asleep" and worker.record.last_exit is not None
            assert worker.record.last_exit.expected


async def test_a_start_right_after_a_stop_is_the_next_instance(life: Life) -> None:
    """While the stop is only asked for, the server is awake still; that is not what the start is answered with."""
    await life.create()
    before = await life.client.start("demo", "blog", VISIT, wait=5)
    worker = life.service.worker("demo", "blog")
    await worker.update(lambda record: machine.want_asleep(record, "stopped by a user", 0))
    assert worker.record.state == "awake", "the stop has not begun: this is the moment that is meant"
    server = await asking.start(worker, StartRequest(), 5)
    assert server.state == "awake" and server.instance and before.instance
    assert server.instance.id != before.instance.id
    assert server.timing is not None and (server.timing.stored or 0) < 5000


async def test_a_start_right_after_another_spec_runs_that_one(life: Life) -> None:
    """What is answered as awake has the new spec."""
    await life.create()
    before = await life.client.start("demo", "blog", VISIT, wait=5)
    worker = life.service.worker("demo", "blog")
    await life.create(spec={"env": {"A": "1"}})
    server = await asking.start(worker, StartRequest(), 5)
    assert server.state == "awake" and server.instance and before.instance
    assert server.instance.id != before.instance.id


async def test_a_start_that_does_not_wait_says_that_it_is_on_its_way(life: Life) -> None:
    """202, not 200: what runs now has to end first."""
    await life.create()
    await life.client.start("demo", "blog", VISIT, wait=5)
    gate = life.world.driver.block("stop")
    stopping = asyncio.ensure_future(life.client.stop("demo", "blog", wait=5))
    await gate.reached.wait()
    server = await life.client.start("demo", "blog", VISIT)
    assert server.state != "awake" and server.desired == "awake"
    gate.release()
    await asyncio.wait([stopping])
    assert not isinstance(stopping.exception(), LairError)
    assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"
