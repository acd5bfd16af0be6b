"""Wakers that are named, in a real NGINX: from the route to the wake."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.ceryx.agents import alive
from tests.ceryx.conftest import Ceryx, make_settings
from tests.ceryx.nginx.conftest import Serve, StartProxy
from tests.ceryx.nginx.world import Proxy, Waker, until

from sourcelair.ceryx.agent import Agent, resolve
from sourcelair.client.ceryx import CeryxClient, Route

pytestmark = pytest.mark.anyio
HOST = "blog--demo.localhost"


async def test_a_waker_is_called_once_it_is_known_where_it_is(proxy: Proxy, waker: Waker, serve: Serve) -> None:
    """Whoever waits already is woken, and an address that was found outlives a route that comes without."""
    url = f"http://waker.internal:{waker.port}/waker"
    await proxy.put(HOST, waker=url)
    held = asyncio.create_task(proxy.request(HOST))
    await proxy.control.set_wakers({url: ("127.0.0.1", waker.port)})
    await until(lambda: len(waker.wakes) == 1)
    await proxy.live(HOST, await serve(), waker=url)
    assert (await held).body == b"app"
    proxy.control._wakers.clear()  # as a new agent's, whose look-ups hang
    await proxy.put("other.localhost", waker=url)
    held = asyncio.create_task(proxy.request("other.localhost"))
    await until(lambda: len(waker.wakes) == 2)
    held.cancel()
    await asyncio.wait([held])


async def test_a_waker_is_woken_whose_name_fails_first(
    api: Ceryx, start_proxy: StartProxy, waker: Waker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it together: the route, the look-ups that fail, the one that does not, and the wake."""
    monkeypatch.setattr(resolve, "FIRST_RETRY", 0.01)
    known: list[str] = []
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        if not known:
            raise OSError(0, "nobody says")
        return known

    proxy = await start_proxy(patience=0.15, wake_timeout=10)
    client = CeryxClient(api.url, "service")
    settings = make_settings(tmp_path, node="n1")
    agent = Agent(
        settings, client, proxy.control, directory=tmp_path / "agent", waker=None, waker_token=None, lookup=lookup
    )
    agent.client = client  # type: ignore[attr-defined]
    async with alive(agent):
        await until(lambda: agent.ready)
        await client.put_route(Route(source=HOST, waker=f"http://waker.internal:{waker.port}/waker"))
        held = asyncio.create_task(proxy.request(HOST))
        await until(lambda: len(asked) >= 3)
        assert waker.wakes == []
        known.append("127.0.0.1")
        await until(lambda: len(waker.wakes) == 1)
        held.cancel()
        await asyncio.wait([held])
