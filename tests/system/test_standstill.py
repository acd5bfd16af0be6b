"""A SourceLair API that stands still at any step of a start or a stop, is followed, and comes back.

Whatever it was about to do, nothing starts twice, nobody's request is lost, and it does no harm when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest
from tests.etcd import EtcdCluster, running_etcd
from tests.system.lair import SOURCE, Lair
from tests.system.site import App, Site, site_of
from tests.system.visitors import Answer

from sourcelair.client.policy import SleepPolicy
from sourcelair.errors import LairError

pytestmark = [pytest.mark.anyio, pytest.mark.system]

HERE = Path(__file__).parent / "standstill"

STARTING = {
    "before it is stored": "sourcelair.servers.stored:Stored._update:before",
    "stored, and not said": "sourcelair.servers.stored:Stored._update:after",
    "before the launcher has its word": "sourcelair.servers.drivers.process.launcher:Word.give:before",
    "the launcher has its word": "sourcelair.servers.drivers.process.launcher:Word.give:after",
    "started": "sourcelair.servers.drivers.process:ProcessDriver.start:after",
    "ready, not published": "sourcelair.servers.publishing:Publisher.publish:before",
    "published, not awake": "sourcelair.servers.publishing:Publisher.publish:after",
}
STOPPING = {
    "before that is stored": "sourcelair.servers.stored:Stored._update:before",
    "before it is withdrawn": "sourcelair.servers.publishing:Publisher.publish:before",
    "withdrawn": "sourcelair.servers.publishing:Publisher.publish:after",
    "before it is stopped": "sourcelair.servers.drivers.process:ProcessDriver.stop:before",
    "stopped, and not stored": "sourcelair.servers.drivers.process:ProcessDriver.stop:after",
}
DOZING = {
    "before it is frozen": "sourcelair.servers.drivers.process:ProcessDriver.pause:before",
    "frozen": "sourcelair.servers.drivers.process:ProcessDriver.pause:after",
}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as cluster:
        yield cluster


@contextlib.contextmanager
def running(lair: Lair) -> Iterator[Lair]:
    try:
        lair.start()
        yield lair
    finally:
        if lair.up is not None and lair.up.poll() is None:
            lair.up.send_signal(signal.SIGCONT)
        lair.close()


@pytest.fixture
async def rest(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Site]:
    """All but the SourceLair API, which two processes of `shared` take turns in."""
    env = {"LAIR_STORE": etcd.url("/lair"), "LAIR_TEST_LEASE": "2", "LAIR_IDLE_TIMEOUT": "600"}
    with (
        running(Lair(tmp_path / "ceryx", env, command=("ceryx",))) as ceryx,
        running(Lair(tmp_path / "hemera", env, command=("hemera",))),
    ):
        async with site_of(ceryx) as site:
            yield site


@pytest.mark.parametrize("steps", [STARTING, STOPPING, DOZING], ids=["starting", "stopping", "dozing"])
async def test_it_stands_still(rest: Site, etcd: EtcdCluster, tmp_path: Path, steps: dict[str, str]) -> None:
    for number, (step, where) in enumerate(steps.items()):
        directory = tmp_path / f"step-{number}"
        directory.mkdir()
        mark = directory / "mark"
        env = {"LAIR_STORE": etcd.url("/lair"), "LAIR_TEST_LEASE": "2", "LAIR_DATA_DIR": str(tmp_path / "shared")}
        armed = env | {
            "STANDSTILL": where, "STANDSTILL_MARK": str(mark), "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE)])
        }  # fmt: skip
        shared = tmp_path / "shared"
        with running(Lair(directory / "first", armed, command=("api",), data_dir=shared)) as first:
            policy = SleepPolicy(doze_after=0.5 if steps is DOZING else None)
            app = await rest.identity("still", f"step-{number}", directory, policy=policy)
            if steps is not STARTING:
                assert (await app.fetch("/")).status == 200
            mark.touch()
            with running(Lair(directory / "second", env, command=("api",), data_dir=shared)) as second:
                await _step(app, first, second, mark, steps)
                await rest.servers.delete("still", f"step-{number}")
        assert (step, app.twice()) == (step, [])


async def _step(app: App, first: Lair, second: Lair, mark: Path, steps: dict[str, str]) -> None:
    """Let the first come to its step, the second follow it, and the first go on."""
    asking = asyncio.create_task(_ignored(app.stop() if steps is STOPPING else asyncio.sleep(0)))
    held = _visit(app) if steps is STARTING else []
    async with asyncio.timeout(20):
        while mark.exists():
            await asyncio.sleep(0.02)
    held += [] if steps is STARTING else _visit(app)
    async with asyncio.timeout(30):
        while "Starting the services" not in second.output:
            await asyncio.sleep(0.02)
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}
    assert first.up is not None
    first.up.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(first.up.wait, 30) not in {0, None}, first.output
    await asking
    assert (await app.fetch("/")).status == 200
    assert app.requests() == {str(n): 1 for n in range(3)}
    assert len(app.starts()) <= 1 + (steps is STOPPING)
    await app.until("awake")


def _visit(app: App) -> list[asyncio.Task[Answer]]:
    """Send three requests that must arrive once each."""
    return [
        asyncio.create_task(app.fetch(f"/{n}", method="POST", body=b"x", headers={"X-Request": str(n)}))
        for n in range(3)
    ]


async def _ignored(work: Awaitable[object]) -> None:
    with contextlib.suppress(LairError):
        await work
