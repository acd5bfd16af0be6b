"""`/api/tokens/`: for administrators only, and a token is shown once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from sourcelair.auth import Kind, TokenRegistry
from sourcelair.auth.http import create_router
from sourcelair.errors import install_error_handlers
from sourcelair.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[TokenRegistry]:
    store = await open_sqlite(tmp_path / "auth.db")
    registry = TokenRegistry(store)
    await registry.load()
    yield registry
    await store.close()


@pytest.fixture
async def client(registry: TokenRegistry) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an administrator's token."""
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(create_router(registry))
    token, _ = await registry.create("admin", note="the test's")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield client


async def test_a_token_is_shown_once(client: httpx.AsyncClient) -> None:
    """In the answer that makes it, which nobody may cache; the list never has it, nor its hash."""
    made = await client.post("/api/tokens/", json={"kind": "owner", "owner": "demo", "note": "CI"})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    token = made.json()["token"]
    listed = await client.get("/api/tokens/")
    assert listed.status_code == 200
    assert [record["note"] for record in listed.json()] == ["the test's", "CI"]
    assert {key for record in listed.json() for key in record} == {"id", "kind", "owner", "note", "created_at"}
    assert token.removeprefix("lair_owner_") not in listed.text


REQUESTS = [("GET", "/api/tokens/"), ("POST", "/api/tokens/"), ("DELETE", "/api/tokens/x/")]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_without_a_token_it_is_401(client: httpx.AsyncClient, method: str, path: str) -> None:
    """None, a wrong one, a wrong scheme: before anything else is looked at."""
    for header in ("", "Bearer wrong", "Basic YTpi"):
        answer = await client.request(method, path, headers={"Authorization": header}, content=b"{")
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("kind", ["owner", "read", "service", "waker"])
async def test_other_kinds_are_403(client: httpx.AsyncClient, registry: TokenRegistry, kind: Kind) -> None:
    """Services too: they never list or make tokens."""
    token, _ = await registry.create(kind, owner="demo" if kind == "owner" else None)
    before = registry.list()
    for method, path in REQUESTS:
        answer = await client.request(
            method, path, headers={"Authorization": f"Bearer {token}"}, json={"kind": "admin"}
        )
        assert answer.status_code == 403
    assert registry.list() == before


async def test_revoking_ends_a_token(client: httpx.AsyncClient) -> None:
    """204, and its next request is 401; again it is 404; nobody locks themselves out."""
    made = (await client.post("/api/tokens/", json={"kind": "admin"})).json()
    theirs = {"Authorization": f"Bearer {made['token']}"}
    assert (await client.get("/api/tokens/", headers=theirs)).status_code == 200
    assert (await client.delete(f"/api/tokens/{made['id']}/", headers=theirs)).status_code == 422
    assert (await client.delete(f"/api/tokens/{made['id']}/")).status_code == 204
    assert (await client.get("/api/tokens/", headers=theirs)).status_code == 401
    assert (await client.delete(f"/api/tokens/{made['id']}/")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "service"},
        {"kind": "waker"},
        {"kind": "root"},
        {"kind": "owner"},
        {"kind": "owner", "owner": "a--b"},
        {"kind": "admin", "owner": "demo"},
        {"kind": "admin", "note": "a\r\nb"},
        {"kind": "admin", "token": "mine"},
        [],
    ],
)
async def test_what_makes_no_sense_is_422(client: httpx.AsyncClient, registry: TokenRegistry, body: object) -> None:
    """With the field in the message; nothing is made."""
    answer = await client.post("/api/tokens/", json=body)
    assert answer.status_code == 422
    assert len(registry.list()) == 1


@pytest.mark.parametrize("field", ["kind", "owner", "note"])
async def test_half_a_character_is_named(client: httpx.AsyncClient, field: str) -> None:
    """JSON can say a lone surrogate, and nothing can store it."""
    body = json.dumps({"kind": "owner", "owner": "demo", field: "\ud800"}).encode()
    answer = await client.post("/api/tokens/", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(field)
