"""What etcd refuses, and what becomes of it: clear words, nothing half written, and it goes on when etcd does."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, binary, control, running_etcd
from tests.ports import claimed_stretch

from sourcelair.errors import Forbidden, InvalidInput, LairError, OutOfSpace, TooLarge, Unavailable
from sourcelair.store import open_stores
from sourcelair.store.base import Change, Compare, CompareFailed, Put, Store
from sourcelair.store.etcd import EtcdStore, Holder, claim, cluster, parse_address
from sourcelair.store.etcd.claim import Claim, seat_key
from sourcelair.store.etcd.store import Fence

SEAT = seat_key("ceryx")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


async def first_of(store: Store, prefix: str, revision: int) -> Change:
    async with asyncio.timeout(20):
        return await anext(aiter(store.watch(prefix, revision)))


async def test_where_nobody_answers_it_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that comes back is found again, by calls and by a watch that waited meanwhile."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with running_etcd(tmp_path) as running:
        store = EtcdStore(parse_address(running.url("/gone")), "store")
        revision = await store.put("/a", b"1")
        watching = asyncio.create_task(first_of(store, "/", revision + 1))
        running.members[0].kill()
        with pytest.raises(Unavailable, match=r"etcd does not answer \(127\.0\.0\.1:"):
            await store.get("/a")
        running.members[0].start()
        await asyncio.to_thread(running.wait)
        while True:
            try:
                again = await store.put("/b", b"2")
                break
            except Unavailable:
                continue
        assert (await watching).revision <= again
        await store.close()


async def test_other_keys_of_the_cluster_are_not_ours(etcd: EtcdCluster) -> None:
    """Neither those of a neighbour whose prefix begins like ours, nor somebody else's; but they count revisions."""
    ours = EtcdStore(parse_address(etcd.url("/lair")), "store")
    theirs = EtcdStore(parse_address(etcd.url("/lair")), "store2")
    revision = await ours.put("/a", b"1")
    await theirs.put("/b", b"2")
    control(etcd, "put", "/lair/store", "foreign")
    assert [entry.key for entry in (await ours.list("")).entries] == ["/a"]
    last = await ours.put("/c", b"3")
    assert last == revision + 3
    assert (await first_of(ours, "", revision + 1)).revision == last
    await ours.close()
    await theirs.close()


async def test_what_is_too_much_for_etcd_is_too_large(etcd: EtcdCluster) -> None:
    """So many operations, or so many bytes, are refused as a whole."""
    store = EtcdStore(parse_address(etcd.url("/large")), "store")
    with pytest.raises(TooLarge, match="max-txn-ops"):
        await store.transact([], [Put(f"/{number}", b"") for number in range(129)])
    with pytest.raises(TooLarge, match="max-request-bytes"):
        await store.transact([], [Put(f"/{number}", b"x" * 1_000_000) for number in range(2)])
    assert (await store.list("")).entries == ()
    await store.close()


async def test_a_full_etcd_refuses_writes_and_is_read_on(tmp_path: Path) -> None:
    """Its quota is used up: what there is can be read and watched, and nothing is half written."""
    with running_etcd(tmp_path, 1, "--quota-backend-bytes=1000000") as running:
        store = EtcdStore(parse_address(running.url("/full")), "store")
        revision = await store.put("/kept", b"1")
        with pytest.raises(OutOfSpace, match="alarm disarm"):
            for number in range(100):
                await store.put(f"/{number}", b"x" * 100_000)
        kept = await store.get("/kept")
        assert kept is not None and kept.value == b"1"
        assert (await first_of(store, "/kept", revision)).revision == revision
        await store.close()


async def test_users_passwords_and_tokens_that_run_out(tmp_path: Path) -> None:
    """Who is no user, has another password or another's keys is told so; a token that ran out is renewed unseen."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    with running_etcd(tmp_path, 1, "--auth-token-ttl=1") as running:
        control(running, "user", "add", "root:root")
        control(running, "user", "add", "lair:secret")
        control(running, "role", "add", "lair")
        control(running, "role", "grant-permission", "lair", "readwrite", "--prefix=true", "/lair/")
        control(running, "user", "grant-role", "lair", "lair")
        control(running, "user", "grant-role", "root", "root")
        control(running, "auth", "enable")
        login = f"?user=lair&password_file={password}"
        store = EtcdStore(parse_address(running.url("/lair", login)), "store")
        revision = await store.put("/a", b"1")
        watching = asyncio.create_task(first_of(store, "/b", revision))
        idle = EtcdStore(parse_address(running.url("/lair", login)), "store")
        await idle.get("/a")
        elsewhere = EtcdStore(parse_address(running.url("/other", login)), "store")
        with pytest.raises(Forbidden, match="user lair"):
            await elsewhere.put("/a", b"1")
        nobody = EtcdStore(parse_address(running.url("/lair")), "store")
        with pytest.raises(Forbidden, match="no user"):
            await nobody.get("/a")
        wrong = tmp_path / "wrong"
        wrong.write_text("guess\n")
        stranger = EtcdStore(parse_address(running.url("/lair", f"?user=lair&password_file={wrong}")), "store")
        with pytest.raises(LairError, match="no user lair, or the password is another"):
            await stranger.get("/a")
        began = time.monotonic()
        while time.monotonic() - began < 2.5:  # tokens run out a second after they were used last
            await asyncio.sleep(0.1)
        late = asyncio.create_task(first_of(idle, "/b", revision))
        assert await store.get("/a") is not None
        written = await store.put("/b", b"2")
        assert (await late).revision == written
        assert (await watching).revision == written
        for one in (store, idle, elsewhere, nobody, stranger):
            await one.close()


async def test_encrypted_with_certificates_of_both_sides(tmp_path: Path) -> None:
    """Who shows no certificate gets no answer."""
    _certificates(tmp_path)
    with claimed_stretch(2) as ports:
        client, peer = (f"https://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        process = subprocess.Popen(
            [
                binary(), f"--data-dir={tmp_path / 'data'}", "--name=m", f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=m={peer}", "--client-cert-auth",
                f"--trusted-ca-file={tmp_path / 'ca.pem'}", f"--cert-file={tmp_path / 'both.pem'}",
                f"--key-file={tmp_path / 'both.key'}",
            ],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            where = f"etcd://127.0.0.1:{ports[0]}/tls?ca={tmp_path / 'ca.pem'}"
            both = f"{where}&cert={tmp_path / 'both.pem'}&key={tmp_path / 'both.key'}"
            store = EtcdStore(parse_address(both), "store")
            assert await store.put("/a", b"1") > 0
            await store.close()
            for other in (where, f"etcd://127.0.0.1:{ports[0]}/tls"):
                stranger = EtcdStore(parse_address(other), "store")
                with pytest.raises(Unavailable):
                    await stranger.get("/a")
                await stranger.close()
        finally:
            process.kill()
            process.wait()


def _certificates(directory: Path) -> None:
    """Make an authority, and one certificate for both sides."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    whose = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl(*new, "-keyout", "both.key", "-out", "both.csr", *whose)
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy"]
    openssl("x509", "-req", "-in", "both.csr", "-out", "both.pem", *signed)


async def test_the_late_write_of_a_former_owner_is_refused(etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was paused while its lease ran out writes nothing any more, and learns that it is not the owner."""
    monkeypatch.setattr(claim, "LEASE", 1.0)
    address = parse_address(etcd.url("/owners"))
    free, told, losses = EtcdStore(address, "control"), list[str](), list[LairError]()
    first = Claim(free, Holder("one", "here", 1), ["ceryx"], told.append)
    late = EtcdStore(address, "store", Fence(free, SEAT, await first.acquire(), losses.append))
    await late.put("/a", b"1")
    second = Claim(free, Holder("two", "there", 2), ["ceryx"], told.append)
    now = EtcdStore(address, "store", Fence(free, SEAT, await second.acquire()))
    assert len(told) == 1 and "process 1 on here" in told[0]
    revision = await now.put("/a", b"2")
    with pytest.raises(Unavailable, match="taken over"):
        await late.put("/a", b"3")
    with pytest.raises(Unavailable, match="taken over"):
        await late.transact([Compare("/a", revision - 1)], [Put("/a", b"3")])
    assert len(losses) == 2
    with pytest.raises(CompareFailed):
        await now.transact([Compare("/a", revision - 1)], [Put("/a", b"3")])
    with pytest.raises(Unavailable, match="taken over"):
        await first.keep()
    entry = await now.get("/a")
    assert entry is not None and entry.value == b"2"
    for store in (free, late, now):
        await store.close()


async def test_who_waits_for_the_owner_does_so_though_history_is_forgotten(etcd: EtcdCluster) -> None:
    """The owner's key was written long ago; its end is noticed at once all the same."""
    store, told = EtcdStore(parse_address(etcd.url("/forgotten")), "control"), list[str]()
    first, second = (Claim(store, Holder(name, "here", 1), ["ceryx"], told.append) for name in ("one", "two"))
    await first.acquire()
    await store.put("/other", b"")
    await store.compact(await store.revision())
    waiting = asyncio.create_task(second.acquire())
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)
        await store.put("/other", b"")
        await store.compact(await store.revision())
        assert not waiting.done()
        await first.release()
        await waiting
    await store.close()


async def test_an_owner_learns_that_its_key_is_anothers(etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease may live on: a copy of its data directory took over, say."""
    monkeypatch.setattr(claim, "LEASE", 0.3)
    store = EtcdStore(parse_address(etcd.url("/copied")), "control")
    first, copy = (Claim(store, Holder("same", "here", number), ["ceryx"], lambda _: None) for number in (1, 2))
    await first.acquire()
    await copy.acquire()
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="taken over"):
            await first.keep()
    await store.close()


async def test_a_member_that_stands_still_costs_no_lease(tmp_path: Path) -> None:
    """Another one renews it, and answers, well before it runs out."""
    with running_etcd(tmp_path, 3) as running:
        store = EtcdStore(parse_address(running.url("/frozen")), "store")
        lease = await store.grant_lease(claim.LEASE)
        running.members[0].send(signal.SIGSTOP)
        began = time.monotonic()
        await store.renew_lease(lease)
        assert time.monotonic() - began < claim.LEASE / 2
        assert await store.get("/none") is None
        running.members[0].send(signal.SIGCONT)
        await store.close()


async def test_a_user_of_an_etcd_without_users_is_told_so(etcd: EtcdCluster, tmp_path: Path) -> None:
    """Nobody waits for what will never be."""
    password = tmp_path / "password"
    password.write_text("secret")
    location, said = etcd.url("/users", f"?user=lair&password_file={password}"), list[str]()
    async with asyncio.timeout(10):
        with pytest.raises(LairError, match="authentication is not enabled"):
            async with (
                open_stores(location) as stores,
                stores.hold(["ceryx"], say=said.append, lost=lambda _: None),
            ):
                pass
    assert said == []


async def test_who_has_the_data_directory_follows_at_once(etcd: EtcdCluster) -> None:
    """After a crash nobody waits for a lease; and what was written is there."""
    location, said = etcd.url("/follow"), list[str]()
    address = parse_address(location)
    control_store = EtcdStore(address, "control")
    crashed = Claim(control_store, Holder("mine", "here", 1), ["ceryx"], said.append)
    old = EtcdStore(address, "ceryx", Fence(control_store, SEAT, await crashed.acquire()))
    await old.put("/a", b"1")
    async with (
        asyncio.timeout(5),
        open_stores(location, identity="mine") as opened,
        opened.hold(["ceryx"], say=said.append, lost=lambda _: None) as stores,
    ):
        entry = await stores["ceryx"].get("/a")
        assert entry is not None and entry.value == b"1"
        owner = await control_store.get(SEAT)
        assert owner is not None and json.loads(owner.value)["process"] != 1
        with pytest.raises(Unavailable, match="taken over"):
            await old.put("/a", b"2")
    assert await control_store.get(SEAT) is None, "it is released at the end"
    assert said == []
    await old.close()
    await control_store.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("etcd://host", "prefix"),
        ("etcd://host/", "prefix"),
        ("etcd:///lair", "HOST:PORT"),
        ("etcd://host:x/lair", "HOST:PORT"),
        ("etcd://me:secret@host/lair", "password_file"),
        ("etcd://host/lair?password=secret", "no option"),
        ("etcd://host/lair?cert=a", "belong together"),
        ("etcd://host/lair?user=me", "belong together"),
        ("etcd://host/lair?ca=", "is empty"),
    ],
)
def test_an_address_that_can_not_be_right(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        parse_address(text)
    assert "secret" not in raised.value.detail


def test_an_address() -> None:
    address = parse_address("etcd://one,two:1234,[::1]:5/some/where/?user=me&password_file=/p")
    assert address.endpoints == ("one:2379", "two:1234", "[::1]:5")
    assert (address.prefix, address.user, address.is_tls) == ("/some/where", "me", False)
