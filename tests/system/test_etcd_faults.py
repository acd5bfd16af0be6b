"""etcd is full, refuses who asks, or holds what is not ours: clear words, nothing destroyed, and traffic goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, control, running_etcd
from tests.system.lair import Lair, running_lair
from tests.system.site import site_of
from tests.system.visitors import traffic

from sourcelair.client.servers import StartRequest
from sourcelair.errors import OutOfSpace
from sourcelair.store.etcd import EtcdStore, parse_address

pytestmark = [pytest.mark.anyio, pytest.mark.system]

QUOTA = 4_000_000
"""Bytes, for an etcd that is soon full."""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd", 1, f"--quota-backend-bytes={QUOTA}") as cluster:
        yield cluster


@asynccontextmanager
async def opened(etcd: EtcdCluster, prefix: str, name: str) -> AsyncIterator[EtcdStore]:
    """A store of etcd, whoever else has it."""
    store = EtcdStore(parse_address(etcd.url(prefix)), name)
    try:
        yield store
    finally:
        await store.close()


async def fill(store: EtcdStore) -> None:
    """Write until nothing more is taken, however small."""
    for size in (100_000, 1000, 1):
        with pytest.raises(OutOfSpace):
            for number in range(QUOTA):
                await store.put(f"/{size}/{number}", b"x" * size)


async def make_room(etcd: EtcdCluster, store: EtcdStore) -> None:
    """Do what the error says: delete, compact, defragment, disarm."""
    await asyncio.to_thread(control, etcd, "del", "--prefix", "/others/")
    revision = await store.revision()
    await asyncio.to_thread(control, etcd, "compact", "--physical", str(revision))
    await asyncio.to_thread(control, etcd, "defrag")
    await asyncio.to_thread(control, etcd, "alarm", "disarm")


async def test_a_full_etcd_stops_changes_and_no_traffic(etcd: EtcdCluster, tmp_path: Path) -> None:
    """Writes are 507 with what to do, reads and visits are answered; with room again all goes on, a wake too."""
    with running_lair(tmp_path / "own", {"LAIR_STORE": etcd.url("/lair")}) as lair:
        async with site_of(lair) as site, opened(etcd, "/others", "ballast") as ballast:
            awake = await site.identity("etcd", "awake", tmp_path)
            asleep = await site.identity("etcd", "asleep", tmp_path)
            await awake.fetch("/")
            async with traffic(site.address, awake.host) as seen:
                await fill(ballast)
                body = {"source": "new.example.com", "target": "http://127.0.0.1:1"}
                refused = await asyncio.to_thread(lair.call, "POST", "/api/routes/", body)
                assert refused.status == 507, refused.text
                assert "alarm disarm" in refused.json()["detail"] and "nothing was written" in refused.json()["detail"]
                assert lair.call("GET", "/api/routes/new.example.com/").status == 404
                assert lair.call("GET", f"/api/routes/{awake.host}/").status == 200
                with pytest.raises(OutOfSpace, match="alarm disarm"):
                    await site.servers.start("etcd", "asleep", StartRequest(), wait=5)
                assert "Traceback" not in lair.output
                await make_room(etcd, ballast)
                async with asyncio.timeout(30):
                    assert (await asleep.fetch("/")).status == 200
                answer = await asyncio.to_thread(lair.call, "POST", "/api/routes/", body)
                assert answer.status == 201, answer.text
            awake.check_books(seen)
            assert len(asleep.starts()) == 1


def ends(lair: Lair) -> str:
    """Start `lair up` that will not come up, and return what it said."""
    lair.start(wait=False)
    assert lair.up is not None
    assert lair.up.wait(30) not in {0, None}
    said = lair.output
    assert "Traceback" not in said
    return said


FOREIGN = {
    "ceryx": ("/routes/blog.example.com", b'{"schema": 99, "target": null}'),
    "servers": ("/servers/demo/blog", b'{"schema_version": 99, "owner": "demo", "project": "blog"}'),
    "auth": ("/tokens/abc", b'{"schema": 99, "hash": "x"}'),
}
"""A key of each store, and what a newer version may have written there."""


@pytest.mark.parametrize("name", sorted(FOREIGN))
@pytest.mark.parametrize("content", ["newer", "garbage"])
async def test_what_this_version_can_not_read_is_refused_and_kept(
    etcd: EtcdCluster, tmp_path: Path, name: str, content: str
) -> None:
    """A newer version's record, or none at all: it says which key, and what to do; nothing is changed."""
    key, value = FOREIGN[name]
    if content == "garbage":
        value = b"\xff not ours"
    async with opened(etcd, "/lair", name) as store:
        await store.put(key, value)
        lair = Lair(tmp_path / "own", {"LAIR_STORE": etcd.url("/lair")})
        try:
            said = await asyncio.to_thread(ends, lair)
            assert key in said
            assert ("newer" in said) == (content == "newer")
            entry = await store.get(key)
            assert entry is not None and entry.value == value and entry.version == 1
            await store.delete(key)
            await asyncio.to_thread(lair.start)
        finally:
            lair.close()


async def test_keys_that_are_no_text_are_refused_where_they_are_listed(etcd: EtcdCluster, tmp_path: Path) -> None:
    """They can't be ours; elsewhere under the prefix they harm nobody, and whoever runs goes on."""
    with running_lair(tmp_path / "own", {"LAIR_STORE": etcd.url("/lair")}) as lair:
        async with site_of(lair) as site:
            app = await site.identity("etcd", "app", tmp_path)
            await asyncio.to_thread(control, etcd, "put", "/lair/elsewhere\udcff", "x")
            await asyncio.to_thread(control, etcd, "put", "/lair/ceryx:/else/where", "x")
            await asyncio.to_thread(control, etcd, "put", "/lair/ceryx:/routes/\udcff", "x")
            assert (await app.fetch("/")).status == 200
            answer = await asyncio.to_thread(lair.call, "GET", "/api/routes/")
            assert answer.status == 503 and "/routes/\\xff" in answer.json()["detail"], answer.text
            assert "Traceback" not in lair.output
            await asyncio.to_thread(control, etcd, "del", "/lair/ceryx:/routes/\udcff")
            assert (await asyncio.to_thread(lair.call, "GET", "/api/routes/")).status == 200
            await app.stop()
            assert (await app.fetch("/")).status == 200


def test_who_has_another_password_is_told_so(etcd: EtcdCluster, tmp_path: Path) -> None:
    """At once, in one line, and it does not wait."""
    control(etcd, "user", "add", "root:secret")
    control(etcd, "user", "grant-role", "root", "root")
    control(etcd, "auth", "enable")
    (tmp_path / "password").write_text("guess")
    lair = Lair(tmp_path / "own", {"LAIR_STORE": etcd.url("/lair", f"?user=root&password_file={tmp_path}/password")})
    try:
        began = time.monotonic()
        said = ends(lair)
        assert time.monotonic() - began < 20
        assert "etcd knows no user root, or the password is another" in said and "guess" not in said
    finally:
        lair.close()
