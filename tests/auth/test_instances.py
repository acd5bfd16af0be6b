"""Tokens of instances: made of a key, recognised without a store, and good for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request

from sourcelair.auth import Identity, InstanceTokens, TokenRegistry
from sourcelair.auth.http import authenticator
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.errors import Forbidden, InvalidInput, Unauthorized
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

TOKENS = InstanceTokens("a" * 64)


def request(token: str) -> Request:
    return Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})


def test_a_token_names_its_instance() -> None:
    """The MAC of RFC 4231's second case, so that others can make the same."""
    token = TOKENS.make("i0123456789abcdef")
    assert TOKENS.identify(f"Bearer {token}") == Identity(kind="instance", token_id="i0123456789abcdef")
    known = InstanceTokens("Jefe").make("what do ya want for nothing?")
    assert known.endswith(".5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer lair-i.",
        "Bearer lair-i.i1",
        "Bearer lair-i.i1.",
        "Bearer lair-i..",
        "Bearer lair-i.i1." + "0" * 64,
        "Bearer lair-i.i1.é",
        "Basic " + TOKENS.make("i1"),
        "Bearer " + TOKENS.make("i1").replace("i1", "i2"),
        "Bearer " + TOKENS.make("i1")[:-1],
        "Bearer " + InstanceTokens("b" * 64).make("i1"),
    ],
)
def test_others_are_not_known(header: str | None) -> None:
    """Another instance's MAC, one of another installation, half of one, and none at all."""
    assert TOKENS.identify(header) is None


async def test_it_may_see_and_change_nothing(tmp_path: Path) -> None:
    """Whatever asks what it may."""
    store = await open_sqlite(tmp_path / "auth.db")
    registry = TokenRegistry(store)
    await registry.load()
    token = TOKENS.make("i1")
    identity = authenticator(registry, TOKENS)(request(token))
    assert identity.require_instance() == "i1"
    for check in (
        identity.require_admin,
        identity.require_read,
        identity.require_some_reading,
        lambda: identity.require_read("demo"),
        lambda: identity.require_write("demo"),
    ):
        with pytest.raises(Forbidden):
            check()
    with pytest.raises(Unauthorized):
        authenticator(registry)(request(token))
    with pytest.raises(Unauthorized):
        authenticator(registry, TOKENS)(request(token[:-1]))
    await store.close()


@pytest.mark.parametrize("kind", ["admin", "owner", "read", "service", "waker"])
def test_nobody_else_speaks_for_an_instance(kind: str) -> None:
    with pytest.raises(Forbidden):
        Identity(kind=kind, owner="demo").require_instance()  # type: ignore[arg-type]


async def test_nobody_makes_one_that_is_stored(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "auth.db")
    registry = TokenRegistry(store)
    with pytest.raises(InvalidInput):
        await registry.create("instance")
    await store.close()


def test_the_key_is_kept_and_nobody_elses(tmp_path: Path) -> None:
    """Made at the first call, readable by its owner alone."""
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    key = directory.instances_key()
    assert len(key) == 64 and directory.instances_key() == key
    assert (tmp_path / "data" / "instances.key").stat().st_mode & 0o777 == 0o600
    another = DataDirectory(tmp_path / "other")
    another.prepare()
    assert another.instances_key() != key
