"""Who has a name shows a token: one attempt to get it for all who wait, and none that outlives its store."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, control, running_etcd

from sourcelair.errors import Unavailable
from sourcelair.store.etcd import EtcdStore, cluster, parse_address

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

WAITING = 50


@pytest.fixture
def login(tmp_path: Path) -> str:
    (tmp_path / "password").write_text("secret\n")
    return f"?user=root&password_file={tmp_path / 'password'}"


def authentications(running: EtcdCluster) -> int:
    """Return how often the only member was asked for a token."""
    with urllib.request.urlopen(f"http://{running.endpoints}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    started = [line for line in lines if line.startswith("grpc_server_started_total") and '"Authenticate"' in line]
    return sum(int(float(line.split()[-1])) for line in started)


async def test_all_who_wait_are_told_at_once_that_nobody_answers(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one after the other; each has an error of its own, and closing waits for no attempt."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    store = EtcdStore(parse_address(f"etcd://127.0.0.1:1/lair{login}"), "store")
    began = time.monotonic()
    failed = await asyncio.gather(*(store.get("/a") for _ in range(WAITING)), return_exceptions=True)
    assert time.monotonic() - began < 5
    assert all(isinstance(error, Unavailable) and "does not answer" in error.detail for error in failed)
    assert len({id(error) for error in failed}) == WAITING
    monkeypatch.setattr(cluster, "PATIENCE", 50.0)
    watching = asyncio.create_task(anext(aiter(store.watch("/", 1)), None))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.close()
        assert await watching is None


async def test_one_attempt_serves_all_who_wait(tmp_path: Path, login: str) -> None:
    """Also those who came first and went away; the next token is asked for when this one has run out."""
    with running_etcd(tmp_path, 1, "--auth-token-ttl=1") as running:
        control(running, "user", "add", "root:secret")
        control(running, "user", "grant-role", "root", "root")
        control(running, "auth", "enable")
        store, before = EtcdStore(parse_address(running.url("/lair", login)), "store"), authentications(running)
        running.members[0].send(signal.SIGSTOP)
        waiting = [asyncio.create_task(store.get("/a")) for _ in range(WAITING)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        running.members[0].send(signal.SIGCONT)
        assert await asyncio.gather(*waiting[1:]) == [None] * (WAITING - 1)
        assert authentications(running) == before + 1
        # Tokens are forgotten a second after they were used last, a look at a time.
        while authentications(running) == before + 1:
            await asyncio.sleep(1.5)
            await asyncio.gather(*(store.get("/a") for _ in range(WAITING)))
        assert authentications(running) == before + 2
        await store.close()
