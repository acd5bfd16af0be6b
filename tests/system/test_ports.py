"""A port passes from one owner to another only when no node can still route to the first.

The installation has three ports for three servers, so that they pass around as fast as they may; NGINX's workers or
the control plane are frozen meanwhile (SIGSTOP), and every answer says who gave it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.lair import Lair
from tests.system.processes import frozen, workers
from tests.system.site import App, Site
from tests.system.visitors import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROUNDS = 4


@pytest.fixture(scope="module")
def lair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lair]:
    """An installation that has three ports for its servers."""
    directory = tmp_path_factory.mktemp("narrow")
    narrow = Lair(directory)
    first = narrow.port + 10
    narrow.env |= {"LAIR_PORT_RANGE": f"{first}-{first + 2}", "LAIR_PORT_COOLDOWN": "1.2"}
    try:
        narrow.start()
        yield narrow
    finally:
        narrow.close()


def freezable(lair: Lair, who: str) -> list[int]:
    """Return the processes that are to be frozen."""
    assert lair.up is not None
    return {"nobody": [], "worker": workers(lair)[:1], "control-plane": [lair.up.pid]}[who]


async def visit_all(apps: list[App], tag: str, wrong: list[str]) -> None:
    """Visit every app once; whoever is answered by another goes into `wrong`."""

    async def one(app: App) -> None:
        async with asyncio.timeout(PATIENCE):
            answer = await app.fetch(f"/?{tag}", headers={"X-Request": tag})
        name = answer.headers.get("server-name")
        if name not in {None, app.name}:
            wrong.append(f"{app.name} was answered by {name} ({tag})")

    await asyncio.gather(*(one(app) for app in apps))


@pytest.mark.parametrize("who", ["nobody", "worker", "control-plane"])
async def test_recycled_ports_never_lead_to_another_owner(site: Site, lair: Lair, tmp_path: Path, who: str) -> None:
    """Stops and starts of two owners' servers on few ports, with a part frozen in between: no answer is another's."""
    apps = [await site.identity(f"{owner}-{who}", "recycled", tmp_path) for owner in ("ann", "bob")]
    wrong: list[str] = []
    done = asyncio.Event()

    async def visitors() -> None:
        number = 0
        while not done.is_set():
            await visit_all(apps, f"{who}-{number}", wrong)
            number += 1
            await asyncio.sleep(0.02)

    async def recycle() -> None:
        for _ in range(ROUNDS):
            await asyncio.gather(*(app.until("awake") for app in apps))
            stops = [asyncio.create_task(app.stop()) for app in apps]
            await asyncio.sleep(0.02)
            with frozen(freezable(lair, who)):
                await asyncio.sleep(0.4)
            await asyncio.gather(*stops)
            await asyncio.sleep(0.05)
        done.set()

    await visit_all(apps, f"{who}-first", wrong)
    async with asyncio.TaskGroup() as group:
        group.create_task(visitors())
        group.create_task(recycle())
    await visit_all(apps, f"{who}-last", wrong)
    await asyncio.gather(*(app.stop() for app in apps))  # three ports are few: leave them to the next
    assert not wrong
    for app in apps:
        assert len(app.starts()) > ROUNDS
        assert max(app.requests().values()) == 1
        await app.stop()
        await site.servers.delete(app.owner, app.project)


async def test_a_port_that_somebody_else_took(site: Site, lair: Lair, tmp_path: Path) -> None:
    """A stranger on a port of ours is never published: a visitor is answered by the app itself, on another port."""
    strangers = []
    app = await site.identity("bad", "crowded", tmp_path)
    try:
        for port in range(lair.port + 10, lair.port + 12):
            stranger = socket.socket()
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
            strangers.append(stranger)
        async with asyncio.timeout(30):
            while (answer := await app.fetch("/")).status != 200:
                assert answer.status in {503, 504}
                await asyncio.sleep(0.3)
        assert answer.headers["server-name"] == app.name
    finally:
        for stranger in strangers:
            stranger.close()
        await site.servers.delete(app.owner, app.project)
