"""Tokens: shown once, kept as hashes, revoked for good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sourcelair.auth import Identity, Kind, TokenRegistry
from sourcelair.errors import Conflict, Forbidden, InvalidInput, LairError, NotFound, Unauthorized
from sourcelair.store.base import Store
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_sqlite(tmp_path / "auth.db")
    yield store
    await store.close()


async def loaded(store: Store) -> TokenRegistry:
    """The registry as it is after a restart."""
    registry = TokenRegistry(store)
    await registry.load()
    return registry


async def test_a_token_is_known_until_it_is_revoked(store: Store) -> None:
    """At once, and after a restart."""
    registry = await loaded(store)
    token, record = await registry.create("owner", owner="demo", note="for CI")
    for each in (registry, await loaded(store)):
        assert each.identify(f"Bearer {token}") == Identity("owner", "demo", record.id)
        assert each.identify(f"bearer   {token} ") == Identity("owner", "demo", record.id)
        assert each.list() == [record]
    await registry.revoke(record.id)
    for each in (registry, await loaded(store)):
        with pytest.raises(Unauthorized):
            each.identify(f"Bearer {token}")
        assert each.list() == []
        with pytest.raises(NotFound):
            await each.revoke(record.id)


async def test_what_was_revoked_is_not_adopted_again(store: Store) -> None:
    """A token in a file, such as admin.token, stays revoked when the next start finds the file."""
    registry = await loaded(store)
    token = "lair_admin_" + "x" * 32
    record = await registry.adopt(token, "admin")
    assert await (await loaded(store)).adopt(token, "admin") == record
    await registry.revoke(record.id)
    for each in (registry, await loaded(store)):
        with pytest.raises(Conflict, match="was revoked: delete the file") as refused:
            await each.adopt(token, "admin")
        assert token not in refused.value.detail


async def test_two_adopt_one_token(store: Store) -> None:
    """Both get the same record."""
    registry = await loaded(store)
    records = await asyncio.gather(*(registry.adopt("lair_service_" + "x" * 32, "service") for _ in range(5)))
    assert len(set(records)) == 1 == len(registry.list())


async def test_the_token_itself_is_nowhere(store: Store, tmp_path: Path) -> None:
    """Not in the store's files, the records, or a representation; only its hash is."""
    registry = await loaded(store)
    token, record = await registry.create("admin")
    secret = token.removeprefix("lair_admin_")
    assert len(secret) >= 43, "256 bits"
    assert secret not in repr((registry, vars(registry), record, registry.identify(f"Bearer {token}")))
    await store.close()
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "x" * 100_000, "Bearer \ud800", "Bearer a b", "Bearer é"]
)
async def test_whoever_has_no_token_is_unauthorized(store: Store, header: str | None) -> None:
    """And is told how to send one, but nothing of what was sent."""
    with pytest.raises(Unauthorized) as refused:
        (await loaded(store)).identify(header)
    assert len(refused.value.detail) < 100


@pytest.mark.parametrize(
    ("kind", "owner", "note"),
    [
        ("owner", None, ""),
        ("owner", "a--b", ""),
        ("owner", "a\r\nb", ""),
        ("admin", "demo", ""),
        ("service", "demo", ""),
        ("admin", None, "x" * 201),
        ("admin", None, "a\nb"),
    ],
)
async def test_tokens_that_make_no_sense_are_refused(store: Store, kind: Kind, owner: str | None, note: str) -> None:
    """Nothing is kept of them."""
    registry = await loaded(store)
    with pytest.raises(InvalidInput):
        await registry.create(kind, owner=owner, note=note)
    with pytest.raises(InvalidInput, match="guessed"):
        await registry.adopt("password", "admin")
    assert registry.list() == [] and not (await store.list("")).entries


@pytest.mark.parametrize(
    ("value", "message"),
    [(b"{", "damaged"), (b"[]", "damaged"), (b"{}", "damaged"), (json.dumps({"schema": 2}).encode(), "newer")],
)
async def test_records_that_cannot_be_read_are_named(store: Store, value: bytes, message: str) -> None:
    """A newer version's, or a damaged one: no guess is made about who may do what."""
    await store.put("/tokens/abc", value)
    with pytest.raises(LairError, match=message):
        await loaded(store)


def allowed(identity: Identity) -> str:
    """What it may: a(dminister), w(rite) and r(ead) of its own, W and R of another's, e(verything read)."""
    answers = ""
    for letter, attempt in {
        "a": identity.require_admin,
        "w": lambda: identity.require_write("mine"),
        "W": lambda: identity.require_write("other"),
        "r": lambda: identity.require_read("mine"),
        "R": lambda: identity.require_read("other"),
        "e": identity.require_read,
    }.items():
        try:
            attempt()
        except Forbidden:
            continue
        answers += letter
    return answers


@pytest.mark.parametrize(
    ("identity", "may"),
    [
        (Identity("admin"), "awWrRe"),
        (Identity("service"), "awWrRe"),
        (Identity("owner", "mine"), "wr"),
        (Identity("read"), "rRe"),
        (Identity("read", "mine"), "r"),
        (Identity("waker"), ""),
    ],
)
def test_what_each_kind_may(identity: Identity, may: str) -> None:
    """The whole table."""
    assert allowed(identity) == may


async def test_what_another_process_does_counts_here_too(store: Store) -> None:
    """Its new tokens, and those that it revokes."""
    here, there = await loaded(store), await loaded(store)
    following = asyncio.create_task(here.follow())
    token, record = await there.create("admin")
    async with asyncio.timeout(5):
        while not here.list():
            await asyncio.sleep(0.01)
        identity = here.identify(f"Bearer {token}")
        await there.revoke(record.id)
        await here.revoked(identity).wait()
    with pytest.raises(Unauthorized):
        here.identify(f"Bearer {token}")
    following.cancel()
    await asyncio.wait([following])


async def test_two_adopt_the_same_token_at_once(store: Store) -> None:
    """Each knows it afterwards."""
    token = "lair_admin_" + "y" * 32
    both = await loaded(store), await loaded(store)
    records = await asyncio.gather(*(each.adopt(token, "admin") for each in both))
    assert records[0] == records[1]
    assert all(each.identify(f"Bearer {token}").kind == "admin" for each in both)


async def test_a_token_that_is_revoked_while_it_is_adopted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process was quicker: it does not come back here."""
    here, there, put = await loaded(store), await loaded(store), store.put
    token = "lair_admin_" + "z" * 32

    async def slow(*arguments: Any, **named: Any) -> int:
        revision = await put(*arguments, **named)
        await there.load()
        monkeypatch.setattr(store, "put", put)
        await there.revoke(there.list()[0].id)
        await here.load()
        return revision

    monkeypatch.setattr(store, "put", slow)
    with pytest.raises(Conflict, match="revoked"):
        await here.adopt(token, "admin")
    with pytest.raises(Unauthorized):
        here.identify(f"Bearer {token}")
