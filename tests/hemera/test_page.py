"""The page, and what it is told while it is open."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.hemera.world import HOST, Hemera

from sourcelair.client.servers import Server, StartRequest
from sourcelair.errors import LairError, Unreachable
from sourcelair.hemera.pages import builtin, facts
from sourcelair.hemera.progress import progress
from sourcelair.servers.drivers.base import ExitStatus
from sourcelair.servers.drivers.mock import Script

pytestmark = pytest.mark.anyio

MOST = 15_000
"""Bytes that a page may have, with all that it needs."""

MARKUP = "<script>alert(1)</script>"

FAILS = Script(listens=False, exit_after=0.001, exit_status=ExitStatus(code=3))


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


async def state(stream: AsyncGenerator[bytes, None], kind: str = "state") -> dict[str, Any]:
    """Return the next event of a kind."""
    async with asyncio.timeout(10):
        async for piece in stream:
            if piece.startswith(f"event: {kind}\n".encode()):
                return json.loads(piece.split(b"data: ", 1)[1])  # type: ignore[no-any-return]
    raise AssertionError(f"no {kind} came")


async def fail(hemera: Hemera, times: int = 1) -> Server:
    for _ in range(times):
        with contextlib.suppress(LairError):
            await hemera.life.client.start("demo", "blog", StartRequest(), wait=5)
    await hemera.look()
    return await hemera.life.client.get("demo", "blog")


async def test_it_is_not_kept_and_runs_nothing_but_its_own(hemera: Hemera) -> None:
    await hemera.life.create()
    page = await hemera.page()
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-type"].startswith("text/html")
    assert '<noscript><meta http-equiv="refresh"' in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame" not in policy, "online IDEs embed it"
    assert "x-frame-options" not in page.headers
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize("told", ["starting", "failed", "down", "limited"])
def test_it_is_small_whatever_it_says(told: str) -> None:
    """With everything as long as it may be, and all of it markup."""
    host, path = ".".join(["a" * 60] * 4), "/" + "<'&\">" * 2000
    server = Server(
        owner="o" * 30, project="p" * 30, url="", hosts=[host], spec={}, enabled=True, always_on=False,
        desired="asleep", state="failed", failure="&" * 9999, failure_log=["<" * 500] * 20, retry_at=9e9,
        policy={"wake": {"show_log": True}}, revision=1, created_at=0, changed_at=0,
    )  # type: ignore[arg-type]  # fmt: skip
    made = {
        "starting": facts.waiting(server, host, path, place=99999, elapsed=99999.9),
        "failed": facts.failed(server, host, path),
        "down": facts.down(server, host, path),
        "limited": facts.rate_limited(server, host, path, 3600),
    }
    html = builtin.render(made[told])
    assert len(html.encode()) < MOST
    assert "<<" not in html


async def test_a_switched_off_server_says_so(hemera: Hemera) -> None:
    await hemera.life.create(enabled=False)
    page = await hemera.page()
    assert page.headers["lair-state"] == "disabled"
    assert "switched off" in page.text
    assert page.headers["retry-after"] == "30"
    assert "<script" not in page.text


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"state": "failed"}, "failed"),
        ({"state": "failed", "retry_at": 1.0}, "failed"),
        ({"state": "failed", "retry_at": 1.0, "desired": "awake"}, "starting"),
        ({"state": "failed", "retry_at": 9e9, "desired": "awake"}, "failed"),
        ({"state": "failed", "given_up": True, "desired": "awake"}, "failed"),
        ({"state": "asleep", "given_up": True}, "failed"),
        ({"state": "asleep", "retry_at": 9e9}, "failed"),
        ({"state": "asleep", "retry_at": 1.0}, "starting"),
        ({"state": "starting", "retry_at": 9e9}, "starting"),
        ({"state": "dozing"}, "starting"),
        ({"state": "failed", "enabled": False}, "disabled"),
    ],
)
async def test_which_page_it_is(hemera: Hemera, server: dict[str, Any], told: str) -> None:
    """Failed is what a visit does not start; what is being tried again is on its way."""
    made = await hemera.life.create()
    assert facts.state_of(made.model_copy(update=server)) == told


async def test_who_has_woken_too_many_is_told_when_to_come_back(hemera: Hemera) -> None:
    await hemera.life.create()
    page = await hemera.page(state="rate-limited", retry_after=17)
    assert (page.status_code, page.headers["lair-state"], page.headers["retry-after"]) == (429, "rate-limited", "17")
    assert "17 seconds" in page.text
    assert 'content="17"' in page.text


async def test_an_api_that_is_down_is_a_page_that_comes_again(hemera: Hemera) -> None:
    async def down(**_: object) -> None:
        raise Unreachable("nobody answers")

    hemera.service.directory._servers.list = down  # type: ignore[method-assign,assignment]
    page = await hemera.page()
    assert page.headers["lair-state"] == "starting"
    assert page.headers["retry-after"] == "2"


@pytest.mark.parametrize("show_log", [False, None, True])
async def test_a_failed_start_shows_why_and_injects_nothing(hemera: Hemera, show_log: bool | None) -> None:
    """Why, to everybody; its log, which may hold secrets, unless the policy forbids it; and nothing as markup."""
    script = Script(listens=False, output=f"{MARKUP}\n".encode(), exit_after=0.01, exit_status=ExitStatus(code=3))
    await hemera.life.create(script=script, spec={"wake": {"show_log": show_log}})
    assert (await fail(hemera)).failure_log == [MARKUP]
    page = await hemera.page()
    assert page.status_code == 503
    assert page.headers["lair-state"] == "failed"
    assert "It exited with code 3." in page.text
    assert MARKUP not in page.text
    assert ("&lt;script&gt;alert(1)" in page.text) == (show_log is not False)


@pytest.mark.parametrize("path", [f"/{MARKUP}", '/"><img src=x onerror=alert(1)>', "/'\" onload=x ", "/\u20ac/\x00"])
async def test_a_path_is_no_markup(hemera: Hemera, path: str) -> None:
    await hemera.life.create(script=FAILS)
    await fail(hemera)
    plain, tried = Tags((await hemera.page()).text), Tags((await hemera.page(path=path)).text)
    assert tried.names == plain.names
    assert tried.attributes == plain.attributes


async def test_a_host_is_no_markup(hemera: Hemera) -> None:
    """What is no host name is refused; and were one let through, it would be text."""
    page = await hemera.page(f"{MARKUP}.localhost")
    assert page.status_code == 422
    assert "<script" not in builtin.render(facts.down(None, MARKUP, "/"))


async def test_what_has_given_up_is_not_tried_again_by_itself(hemera: Hemera) -> None:
    await hemera.life.create(script=FAILS)
    server = (await fail(hemera)).model_copy(update={"given_up": True, "retry_at": None})
    hemera.service.directory.take(server.model_copy(update={"revision": server.revision + 1}))
    page = await hemera.page()
    assert page.headers["lair-state"] == "failed"
    assert "not tried again by itself" in page.text
    assert "http-equiv" not in page.text
    assert "data-retry" not in page.text
    assert "Try again now" in page.text


async def test_a_person_may_ask_for_another_try_now_and_then(hemera: Hemera) -> None:
    """It passes by the back-off; however many ask, there is one try in a while, and back they go to where they were."""
    await hemera.life.create(script=FAILS)
    await fail(hemera, 3)
    starts = hemera.life.world.driver.count("start")
    assert (await hemera.wake()).status_code == 503, "it is held back"
    assert 'action="/.hemera/retry?to=%2Fa%3Fb%3Dc"' in (await hemera.page(path="/a?b=c")).text
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


async def test_each_stage_is_told_and_then_the_way_to_the_app(hemera: Hemera) -> None:
    await hemera.life.create(script=Script(serves=True, status=503))
    stream = progress(hemera.service, HOST)
    told = await state(stream)
    assert (told["stage"], told["said"], told["go"]) == ("queued", "Waiting for its turn.", False)
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=0)
    await hemera.life.until("starting")
    await hemera.look()
    told = await state(stream)
    assert (told["state"], told["stage"]) == ("starting", "starting")
    worker = hemera.life.service.worker("demo", "blog")
    while not (worker.record.instance and worker.record.instance.listening):
        await worker.change()
    await hemera.look()
    told = await state(stream)
    assert (told["stage"], told["go"]) == ("listening", False)
    page = (await hemera.page()).text
    assert '<li data-step="listening" aria-current="step">' in page
    (running,) = hemera.life.world.instances.instances.values()
    assert running.site is not None
    running.site._head = running.site._head.replace(b"503 Service Unavailable", b"200 OK")
    await hemera.life.until("awake")
    await hemera.look()
    told = await state(stream)
    assert (told["state"], told["stage"], told["go"]) == ("awake", "ready", True)
    await stream.aclose()


async def test_what_changes_while_an_event_is_sent_is_told_too(hemera: Hemera) -> None:
    """A slow visitor must not wait for the next change: the page would never go on."""
    await hemera.life.create()
    stream = progress(hemera.service, HOST)
    assert not (await state(stream))["go"]
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=5)
    await hemera.look()
    assert (await state(stream))["go"]
    await stream.aclose()


async def test_time_counts_from_the_beginning_of_the_wake(hemera: Hemera) -> None:
    """Whenever a page was opened; and it is told beside what is usual."""
    await hemera.life.create(script=Script(listens=False))
    await hemera.life.client.start("demo", "blog", StartRequest(), wait=0)
    await hemera.life.until("starting")
    server = await hemera.life.client.get("demo", "blog")
    changes = {"changed_at": server.changed_at - 12, "usual_start": 15.2, "revision": server.revision + 1}
    hemera.service.directory.take(server.model_copy(update=changes))
    page = (await hemera.page()).text
    assert re.search(r"1[23] s of usually 15 s", page)
    answer = await hemera.http.get("/waker/visitor/state", headers={"Lair-Source": HOST})
    assert 12 <= answer.json()["elapsed"] < 25
    assert answer.json()["usual"] == 15.2


async def test_only_nodes_ask_for_pages(hemera: Hemera) -> None:
    for path in ("page?source=a.localhost", "visitor/state", "visitor/events"):
        answer = await hemera.http.get(f"/waker/{path}", headers={"Authorization": "Bearer owner-demo"})
        assert answer.status_code == 403
