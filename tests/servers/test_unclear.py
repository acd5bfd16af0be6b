"""A write whose answer never comes: it has landed, nobody here was told, and all goes on from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.servers.world import Life, World

from sourcelair.client.policy import Policy, SleepPolicy
from sourcelair.client.servers import StartRequest
from sourcelair.errors import Conflict, NotFound, Unavailable
from sourcelair.servers.drivers.mock import Script
from sourcelair.servers.records import HOSTS, HostRecord, ServerRecord, decode, server_key
from sourcelair.servers.worker import Worker
from sourcelair.store.base import Compare, Operation, Store

pytestmark = pytest.mark.anyio


class Unclear:
    """Makes the next transaction land, and its answer get lost."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._transact = store.transact
        self._lose = False
        monkeypatch.setattr(store, "transact", self.transact)

    def lose(self) -> None:
        self._lose = True

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        revision = await self._transact(compares, operations)
        if self._lose and operations:  # not of one that only looks whether it acts still
            self._lose = False
            raise Unavailable("The answer is lost.")
        return revision


@pytest.fixture
def unclear(life: Life, monkeypatch: pytest.MonkeyPatch) -> Unclear:
    return Unclear(life.service.context.store, monkeypatch)


async def is_as_stored(life: Life) -> None:
    """See whether what is known is what is stored."""
    entry = await life.service.context.store.get(server_key("demo", "blog"))
    assert entry is not None
    record, known = decode(ServerRecord, entry), life.service.worker("demo", "blog").record
    assert (record.state, record.desired, record.instance) == (known.state, known.desired, known.instance)


async def test_a_server_whose_creation_was_not_answered_is_there_for_who_asks_again(
    life: Life, unclear: Unclear
) -> None:
    """Nobody sees it before; then it is as it is wanted now, and starts."""
    unclear.lose()
    with pytest.raises(Unavailable):
        await life.create(spec={"env": {"A": "1"}})
    with pytest.raises(NotFound):
        await life.client.get("demo", "blog")
    made = await life.create(spec={"env": {"B": "2"}})
    assert list(made.spec.env) == ["B"]
    assert (await life.client.start("demo", "blog", StartRequest(), wait=10)).state == "awake"


async def test_a_stop_that_was_not_answered_is_not_forgotten(life: Life, unclear: Unclear) -> None:
    """It stops; and who wants it awake afterwards is heard, too."""
    await life.create(script=Script(serves=True))
    first = await life.client.start("demo", "blog", StartRequest(), wait=10)
    unclear.lose()
    with pytest.raises(Unavailable):
        await life.client.stop("demo", "blog", wait=10)
    await life.client.start("demo", "blog", StartRequest(), wait=0)
    second = await life.client.start("demo", "blog", StartRequest(), wait=10)
    assert first.instance is not None and second.instance is not None
    assert second.state == "awake" and first.instance.id != second.instance.id
    await is_as_stored(life)


async def test_a_start_that_was_not_answered_starts_once_and_loses_no_port(
    life: Life, world: World, unclear: Unclear
) -> None:
    """Its instance never ran; the next one does, on another port if need be."""
    await life.create(script=Script(serves=True))
    unclear.lose()
    awake = await life.client.start("demo", "blog", StartRequest(cause="a visit"), wait=20)
    assert awake.state == "awake"
    assert len(world.instances.instances) == 1
    await is_as_stored(life)


async def test_a_removal_that_was_not_answered_is_one(life: Life, unclear: Unclear) -> None:
    """The name is free again."""
    await life.create()
    worker = life.service.worker("demo", "blog")
    unclear.lose()
    with pytest.raises(Unavailable):
        await life.client.delete("demo", "blog")
    await life.client.delete("demo", "blog")
    assert worker.removed
    await life.create()


async def test_an_owners_policy_that_was_not_answered_can_be_said_again(
    life: Life, unclear: Unclear, tmp_path: Path
) -> None:
    """The second word is told to look first; the third counts."""
    store = life.service.context.store
    put = store.put

    async def lost(key: str, value: bytes, *, expect: int | None = None, lease: int | None = None) -> int:
        await put(key, value, expect=expect, lease=lease)
        raise Unavailable("The answer is lost.")

    store.put = lost  # type: ignore[method-assign]
    policy = Policy(sleep=SleepPolicy(stop_after=60))
    with pytest.raises(Unavailable, match="lost"):
        await life.service.owners.put("ann", policy)
    store.put = put  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="look at it"):
        await life.service.owners.put("ann", policy)
    await life.service.owners.put("ann", Policy(sleep=SleepPolicy(stop_after=90)))
    assert life.service.owners.get("ann").policy.sleep.stop_after == 90


CLAIMED = "www.example.com"


async def claimed_by(life: Life) -> str | None:
    """Return the owner by whom the host is claimed."""
    entry = await life.service.context.store.get(f"{HOSTS}{CLAIMED}")
    return None if entry is None else decode(HostRecord, entry).owner


async def test_a_host_of_a_server_of_which_nobody_knows_yet_is_not_taken(life: Life, unclear: Unclear) -> None:
    """The creation that claimed it was not answered: nobody else gets the host, and who asked for it has it."""
    await life.create("other", "shop")
    unclear.lose()
    with pytest.raises(Unavailable):
        await life.create(hosts=[CLAIMED])
    with pytest.raises(Conflict, match="claimed before"):
        await life.create("other", "shop", hosts=[CLAIMED])
    assert await claimed_by(life) == "demo"
    assert CLAIMED not in (await life.client.get("other", "shop")).hosts
    assert CLAIMED in (await life.create(hosts=[CLAIMED])).hosts


@pytest.mark.parametrize("reread", [False, True])
async def test_a_change_of_hosts_that_was_not_answered_can_be_said_again(
    life: Life, world: World, unclear: Unclear, reread: bool
) -> None:
    """Given, and taken away: what is claimed, known and routed is what is stored."""
    worker = await _made(life)
    for hosts in ([CLAIMED], []):
        unclear.lose()
        with pytest.raises(Unavailable):
            await life.create(hosts=hosts)
        while reread and worker.doubtful:
            await worker.change()
        assert (await life.create(hosts=hosts)).hosts[1:] == hosts
        assert await claimed_by(life) == ("demo" if hosts else None)
        assert [server.project for server in await life.client.list(host=CLAIMED)] == ["blog"] * len(hosts)
        known = {route.source for route in (await world.ceryx.list_routes())[0]}
        assert (CLAIMED in known) == bool(hosts)
    assert CLAIMED in (await life.create("other", "shop", hosts=[CLAIMED])).hosts


async def test_the_opposite_of_a_change_of_hosts_that_was_not_answered(life: Life, unclear: Unclear) -> None:
    """It had landed, and is undone: no claim is left of it."""
    await _made(life)
    unclear.lose()
    with pytest.raises(Unavailable):
        await life.create(hosts=[CLAIMED])
    assert CLAIMED not in (await life.create(hosts=[])).hosts
    assert await claimed_by(life) is None
    assert CLAIMED in (await life.create("other", "shop", hosts=[CLAIMED])).hosts


async def _made(life: Life) -> Worker:
    await life.create()
    return life.service.worker("demo", "blog")
