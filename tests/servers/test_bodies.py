"""Bodies: what is wrong in them is said with the field's name, and nothing is stored that can't be shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.servers.world import Life

pytestmark = pytest.mark.anyio

ONE = "/api/servers/demo/blog/"
LONE = "\ud800"
SPEC = {"driver": "mock"}


@pytest.fixture
async def http(life: Life) -> AsyncIterator[httpx.AsyncClient]:
    await life.create()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(life.app, raise_app_exceptions=False),
        base_url="http://servers.test",
        headers={"Authorization": "Bearer admin", "Content-Type": "application/json"},
    ) as http:
        yield http


def escaped(body: Any) -> bytes:
    """Return a body as JSON that is plain ASCII: so a lone surrogate gets through."""

    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("spec.driver", {"spec": {"driver": LONE}}),
        ("spec.command.1", {"spec": {**SPEC, "command": ["a", LONE]}}),
        ("spec.directory", {"spec": {**SPEC, "directory": f"/{LONE}"}}),
        ("spec.env.A", {"spec": {**SPEC, "env": {"A": f"a{LONE}"}}}),
        ("spec.env.", {"spec": {**SPEC, "env": {LONE: "a"}}}),
        ("spec.readiness.path", {"spec": {**SPEC, "readiness": {"path": f"/{LONE}"}}}),
        ("hosts.0", {"spec": SPEC, "hosts": [f"{LONE}.example.com"]}),
    ],
)
async def test_half_a_character_in_a_server_is_named(http: httpx.AsyncClient, field: str, body: Any) -> None:
    answer = await http.put(ONE, content=escaped(body))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(field)
    assert (await http.get(ONE)).status_code == 200


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("The body is not valid JSON", {"cause": LONE}),
        ("cause", {"cause": "x" * 201}),
        ("The body is not valid JSON", {"failed_instance": LONE}),
        ("since", {"since": -1e308}),
        ("since", {"since": -1}),
        ("since", {"since": 10**400}),
    ],
)
async def test_a_start_that_makes_no_sense_is_refused(http: httpx.AsyncClient, field: str, body: Any) -> None:
    answer = await http.post(f"{ONE}start", content=escaped(body))
    assert answer.status_code in {400, 422}
    assert answer.json()["detail"].startswith(field)
    assert (await http.get(ONE)).json()["state"] == "asleep"


@pytest.mark.parametrize("since", [0, 1e308, 1])
async def test_any_time_of_arrival_gives_an_answer_that_can_be_shown(http: httpx.AsyncClient, since: float) -> None:
    assert (await http.post(f"{ONE}start?wait=5", content=escaped({"since": since}))).status_code == 200
    assert (await http.get(ONE)).json()["timing"]["gate"] >= 0


async def test_half_a_character_in_a_sleep_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{ONE}sleep", content=escaped({"instance": LONE, "totals": []}))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("instance")
    total = {"node": LONE, "generation": LONE, "total": 1}
    assert (await http.post(f"{ONE}sleep", content=escaped({"instance": "i1", "totals": [total]}))).status_code < 500
