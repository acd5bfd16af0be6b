"""Hemera beside a real SourceLair API whose instances a script makes: the waker contract, pages, progress, sleep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from tests.servers.world import Life, a_world, authenticate

from sourcelair.client.servers import ServersClient, StartRequest
from sourcelair.errors import LairError, install_error_handlers
from sourcelair.hemera import waker
from sourcelair.hemera.http import _progress, create_router
from sourcelair.hemera.service import HemeraService
from sourcelair.servers import starts
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

HOST = "blog--demo.localhost"


class Hemera:
    """Hemera as a proxy node sees it, and the API behind it."""

    def __init__(self, life: Life, service: HemeraService) -> None:
        self.life = life
        self.service = service
        app = FastAPI()
        install_error_handlers(app)
        app.include_router(create_router(service, authenticate))
        self.http = httpx.AsyncClient(
            base_url="http://hemera.test",
            transport=httpx.ASGITransport(app),
            headers={"Authorization": "Bearer waker"},
            timeout=30,
        )

    async def wake(self, host: str = HOST, **changes: object) -> httpx.Response:
        return await self.http.post("/waker/wake", json={"source": host, "node": "n1", **changes})

    async def page(self, host: str = HOST) -> httpx.Response:
        return await self.http.get("/waker/page", params={"source": host, "path": "/"})

    async def retry(self, to: str) -> httpx.Response:
        return await self.http.post("/waker/visitor/retry", params={"to": to}, headers={"Lair-Source": HOST})


@pytest.fixture
async def hemera(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hemera]:
    async with a_world(tmp_path_factory.mktemp("world"), max_starting=2) as world, world.up() as life:
        # Streams don't end in an ASGI transport: the list is asked for where a host is not known.
        transport = httpx.ASGITransport(life.app)
        async with ServersClient("http://servers.test", "service", transport=transport) as servers:
            service = HemeraService(world.settings, servers, world.ceryx)
            async with service:
                hemera = Hemera(life, service)
                yield hemera
                await hemera.http.aclose()


async def test_five_hundred_wakes_are_one_start(hemera: Hemera) -> None:
    await hemera.life.create(script=Script(serves=True, listen_after=0.05))
    answers = await asyncio.gather(*(hemera.wake() for _ in range(500)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["instance"] for answer in answers}) == 1
    assert hemera.life.world.driver.count("start") == 1
    route = await hemera.life.world.ceryx.get_route(HOST)
    assert answers[0].json() == {"instance": route.instance, "revision": route.revision}


async def test_servers_that_never_listen_keep_no_other_from_waking(
    hemera: Hemera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "LONGEST_TURN", 0.05)
    monkeypatch.setattr(waker, "LONGEST_TURN", 0.05)
    for project in ("one", "two"):
        await hemera.life.create("many", project, script=Script(listens=False))
    calls = [asyncio.ensure_future(hemera.wake(f"{project}--many.localhost")) for project in ("one", "two")]
    for project in ("one", "two"):
        await hemera.life.until("starting", "many", project)
    await hemera.life.create()
    assert (await hemera.wake()).status_code == 200
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_an_unknown_host(hemera: Hemera) -> None:
    answer = await hemera.wake("nobody--demo.localhost")
    assert answer.status_code == 404
    assert answer.headers["lair-state"] == "unknown-host"


async def test_a_disabled_server_wakes_for_nobody(hemera: Hemera) -> None:
    await hemera.life.create(enabled=False)
    answer = await hemera.wake()
    assert answer.status_code == 403
    assert answer.headers["lair-state"] == "disabled"
    page = await hemera.page()
    assert page.headers["lair-state"] == "disabled"
    assert "switched off" in page.text


async def test_a_failed_start_shows_why_and_injects_nothing(hemera: Hemera) -> None:
    output = b"<script>alert(1)</script>\n"
    await hemera.life.create(
        script=Script(listens=False, output=output, exit_after=0.01, exit_status=ExitStatus(code=3))
    )
    answer = await hemera.wake()
    assert answer.status_code == 503
    assert answer.headers["lair-state"] == "failed"
    assert answer.json()["log"] == ["<script>alert(1)</script>"]
    page = await hemera.page()
    assert page.status_code == 503
    hemera.service.directory._by_name.clear()
    page = await hemera.page()
    assert "code 3" in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script>alert" not in page.text


async def test_a_person_may_ask_for_another_try_now_and_then(hemera: Hemera) -> None:
    """It passes by the back-off; however many ask, there is one try in a while, and back they go to where they were."""
    script = Script(listens=False, exit_after=0.001, exit_status=ExitStatus(code=3))
    await hemera.life.create(script=script)
    for _ in range(3):
        with contextlib.suppress(LairError):
            await hemera.life.client.start("demo", "blog", StartRequest(), wait=5)
    starts = hemera.life.world.driver.count("start")
    hemera.service.directory._replace(await hemera.life.client.list())
    assert (await hemera.wake()).status_code == 503, "it is held back"
    assert 'action="/.hemera/retry?to=%2F"' in (await hemera.page()).text
    answers = [await hemera.retry("/a?b=c") for _ in range(3)]
    assert {(answer.status_code, answer.headers["location"]) for answer in answers} == {(303, "/a?b=c")}
    await hemera.life.until("starting")
    await hemera.life.until("failed")
    assert hemera.life.world.driver.count("start") == starts + 1


@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("/x/%2F?y", "/x/%2F?y"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\r\nSet-Cookie: x", "/"),
        ("/\u20ac", "/"),
        ("", "/"),
    ],
)
async def test_another_try_leads_nowhere_else(hemera: Hemera, to: str, location: str) -> None:
    await hemera.life.create()
    assert (await hemera.retry(to)).headers["location"] == location
    assert hemera.life.world.driver.count("start") == 0, "a server that did not fail is not started by it"


async def test_the_page_is_small_and_not_kept(hemera: Hemera) -> None:
    await hemera.life.create()
    page = await hemera.page()
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-type"].startswith("text/html")
    assert len(page.content) < 15_000
    assert 'http-equiv="refresh"' in page.text


async def test_only_nodes_ask(hemera: Hemera) -> None:
    answer = await hemera.http.post("/waker/wake", json={}, headers={"Authorization": "Bearer owner-demo"})
    assert answer.status_code == 403
    answer = await hemera.http.post("/waker/wake", json={}, headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


async def test_an_api_that_is_down_is_no_failed_start(hemera: Hemera) -> None:
    await hemera.life.create()

    async def down(**_: object) -> None:
        from sourcelair.errors import Unreachable

        raise Unreachable("nobody answers")

    hemera.service.directory._servers.list = down  # type: ignore[method-assign,assignment]
    assert (await hemera.wake("other--demo.localhost")).status_code == 502
    page = await hemera.page("other--demo.localhost")
    assert page.headers["lair-state"] == "starting"


async def test_what_changes_while_an_event_is_sent_is_told_too(hemera: Hemera) -> None:
    """A slow visitor must not wait for the next change: the page would never go on."""
    await hemera.life.create()
    stream = _progress(hemera.service, HOST)
    assert b"retry" in await anext(stream)
    assert b'"go": false' in await anext(stream)
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=5)
    hemera.service.directory._replace(await hemera.life.client.list())
    async with asyncio.timeout(2):
        assert b'"go": true' in await anext(stream)
    await stream.aclose()
