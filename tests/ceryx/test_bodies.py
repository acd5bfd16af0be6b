"""Bodies that are wrong in a great many places cost little: the work for errors is bounded, in all requests."""

from __future__ import annotations

import tracemalloc

import httpx
import pytest
from tests.ceryx.conftest import Ceryx

pytestmark = pytest.mark.anyio

MANY = 300_000
FIELDS = b",".join(b'"k%d":0' % number for number in range(MANY))


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/routes:batch", b'{"writes":[' + b"0," * MANY + b"0]}", 413),
        ("POST", "/api/routes:batch", b'{"writes":[' + b"{}," * MANY + b"{}]}", 413),
        ("POST", "/api/routes:batch", b'{"writes":[' + b"0," * 9_999 + b"0]}", 422),
        ("POST", "/api/routes:batch", b"{" + FIELDS + b"}", 422),
        ("POST", "/api/routes:batch", b'{"writes":[{"source":"a",' + FIELDS + b"}]}", 422),
        ("POST", "/api/routes:batch", b'{"writes":[{"source":"a","route":{"source":"a",' + FIELDS + b"}}]}", 422),
        ("POST", "/api/nodes/n1/acknowledgements", b"[" + b"0," * MANY + b"0]", 413),
        ("POST", "/api/nodes/n1/acknowledgements", b"[" + b"0," * 9_999 + b"0]", 422),
        ("PUT", "/api/nodes/n1/report", b'{"counts":[' + b"0," * MANY + b"0]}", 413),
        ("PUT", "/api/nodes/n1/report", b'{"counts":[' + b"0," * 99_999 + b"0]}", 422),
        ("PUT", "/api/nodes/n1/report", b'{"refused":[' + b"0," * MANY + b"0]}", 413),
        ("POST", "/api/activity", b'{"instances":[' + b"0," * MANY + b"0]}", 413),
        ("POST", "/api/activity", b'{"instances":[' + b"0," * 99_999 + b"0]}", 422),
        ("POST", "/api/activity", b"{" + FIELDS + b"}", 422),
    ],
    ids=lambda value: f"{value[:30]}" if isinstance(value, bytes) else None,
)
async def test_errors_are_not_built_by_the_thousand(
    ceryx: Ceryx, method: str, path: str, body: bytes, status: int
) -> None:
    """Neither time nor memory goes into errors that nobody will read: a few are named, and that is it."""
    client = ceryx.client("admin")
    await client.register_node("n1")
    app = httpx.ASGITransport(ceryx.app)
    async with httpx.AsyncClient(transport=app, base_url="http://c", headers={"Authorization": "Bearer admin"}) as api:
        tracemalloc.start()
        try:
            answer = await api.request(method, path, content=body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.text) < 1000
    # What was sent and what it decodes to; each error alone would be more than 300 bytes.
    assert peak < 6 * len(body) + MANY * 100


async def test_the_first_problems_are_named(ceryx: Ceryx) -> None:
    """With their place in the list."""
    answer = await ceryx.client("admin")._http.post(
        "/api/routes:batch", json={"writes": [{"source": "a"}, {"source": 7}, {"sauce": "b"}]}
    )
    assert answer.status_code == 422
    for words in ("writes.1.source: ", "writes.2.source: ", "writes.2.sauce: "):
        assert words in answer.json()["detail"]


async def test_lists_come_whole(ceryx: Ceryx) -> None:
    """What is validated in steps arrives complete and in its order."""
    names = [f"h{number}" for number in range(1001)]
    writes = [{"source": name, "route": {"source": name, "target": "http://h:1"}} for name in names]
    client = ceryx.client("admin")
    assert (await client._http.post("/api/routes:batch", json={"writes": writes})).status_code == 200
    assert [route.source for route in (await client.list_routes())[0]] == sorted(names)
    found = await client.activity(names)
    assert [item.instance for item in found] == names
