"""What is asked at the same moment: a start that meets a stop, a removal, or another spec."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from tests.servers.world import Life, World, error_of

from sourcelair.client.servers import Server, ServerInput, Spec, StartRequest
from sourcelair.errors import Conflict, LairError, NotFound
from sourcelair.servers import asking, machine, starts
from sourcelair.servers.records import HostRecord, InstanceRecord, ServerRecord, decode, encode
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"
VISIT = StartRequest(cause="visit")


async def meet(life: Life, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Awaitable[object]]) -> None:
    """Let a start come to its first write while what `ask` asks for is just being written."""
    worker, context = life.service.worker("demo", "blog"), life.service.context
    take, transact, update = starts._take_port, context.store.transact, worker.update
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

    async def update_seen(*args: Any, **kwargs: Any) -> None:
        if go_on.is_set():
            asked.set()
        await update(*args, **kwargs)

    monkeypatch.setattr(starts, "_take_port", take_later)
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
    store = await open_sqlite(world.directory / "servers.db")
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


async def test_a_restart_that_meets_a_disabling_leaves_it_off(life: Life) -> None:
    """And its worker rests: it has nothing to wait for, and must not look again and again."""
    await life.create(enabled=False)
    worker = life.service.worker("demo", "blog")
    await worker.update(lambda record: machine.want_restart(record, 0))
    assert (worker.record.desired, worker.has_work) == ("disabled", False)


async def test_what_is_wanted_and_must_not_run_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that says both is stored somewhere: its worker takes one look, and waits for a change."""
    async with world.up() as life:
        await life.create()
    store = await open_sqlite(world.directory / "servers.db")
    entry = await store.get("/servers/demo/blog")
    assert entry is not None
    record = decode(ServerRecord, entry).model_copy(update={"enabled": False, "desired": "awake"})
    await store.put(entry.key, encode(record))
    await store.close()
    looks = 0
    may_start = machine.may_start

    def counted(record: ServerRecord, now: float) -> bool:
        nonlocal looks
        looks += 1
        return may_start(record, now)

    monkeypatch.setattr(machine, "may_start", counted)
    async with world.up() as life:
        await life.service.recovered.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert looks < 10
        await life.client.put("demo", "blog", ServerInput(spec=Spec(driver="mock")))
        assert (await life.client.start("demo", "blog", VISIT, wait=5)).state == "awake"


async def test_a_host_that_meets_a_removal_is_nobodys(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is refused, and no claim and no route of it stays."""
    await life.create()
    publisher = life.service.context.publisher
    publish = publisher.publish

    async def publish_later(*args: Any, **kwargs: Any) -> int:
        revision = await publish(*args, **kwargs)
        monkeypatch.undo()
        await life.client.delete("demo", "blog", wait=5)
        return revision

    monkeypatch.setattr(publisher, "publish", publish_later)
    body = ServerInput(spec=Spec(driver="mock"), hosts=["blog.example.com"])
    assert isinstance(await error_of(life.client.put("demo", "blog", body)), (Conflict, NotFound))
    assert (await life.world.ceryx.list_routes())[0] == []
    await life.create(hosts=["blog.example.com"])


async def test_who_moves_hosts_while_it_is_removed_leaves_no_route(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal came after the change was stored, and before its routes were written."""
    await life.create()
    worker = life.service.worker("demo", "blog")
    move = worker.move_hosts

    async def move_later(before: Sequence[str]) -> None:
        await life.client.delete("demo", "blog", wait=5)
        await move(before)

    monkeypatch.setattr(worker, "move_hosts", move_later)
    body = ServerInput(spec=Spec(driver="mock"), hosts=["blog.example.com"])
    await life.client.put("demo", "blog", body)  # it was so for a moment
    assert (await life.world.ceryx.list_routes())[0] == []


async def test_claims_of_no_server_are_given_up(world: World) -> None:
    """Else nobody could ever have that host."""
    async with world.up() as life:
        await life.create(hosts=["kept.example.com"])
    store = await open_sqlite(world.directory / "servers.db")
    await store.put("/hosts/left.example.com", encode(HostRecord(owner="gone", project="away")))
    await store.close()
    async with world.up() as life:
        await life.create(project="other", hosts=["left.example.com"])
        error = await error_of(life.create(project="third", hosts=["kept.example.com"]))
        assert isinstance(error, Conflict)


@pytest.mark.parametrize("what", ["stop", "restart"])
async def test_what_is_just_forgotten_is_not_found(life: Life, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Asked between the deletion of the record and the end of it all."""
    await life.create()
    worker, transact = life.service.worker("demo", "blog"), life.service.context.store.transact
    asked: list[asyncio.Future[Server]] = []

    async def transact_first(*args: Any, **kwargs: Any) -> int:
        revision = await transact(*args, **kwargs)
        if worker.record.removing:
            asked.append(asyncio.ensure_future(getattr(asking, what)(worker, 1)))
            await asyncio.sleep(0)
        return revision

    monkeypatch.setattr(life.service.context.store, "transact", transact_first)
    await life.client.delete("demo", "blog", wait=5)
    assert asked
    for result in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(result, NotFound)


async def test_a_start_that_was_asked_for_before_a_stop_is_over(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its visitors were let in as soon as the route was there: nobody is left who would want another instance."""
    await life.create()
    worker = life.service.worker("demo", "blog")
    published, go_on, publish = asyncio.Event(), asyncio.Event(), worker.publish

    async def slowly(instance: InstanceRecord | None) -> int:
        revision = await publish(instance)
        if instance is not None:
            published.set()
            await go_on.wait()
        return revision

    monkeypatch.setattr(worker, "publish", slowly)
    starting = asyncio.ensure_future(life.client.start("demo", "blog", VISIT, wait=5))
    await published.wait()
    stopping = asyncio.ensure_future(life.client.stop("demo", "blog", wait=5))
    while not worker.stop_asked:
        await worker.change()
    go_on.set()
    await asyncio.gather(starting, stopping)
    async with asyncio.timeout(5):
        await life.until("asleep")
    assert (worker.record.desired, worker.visit) == ("asleep", None)
    assert life.world.driver.count("start") == 1
