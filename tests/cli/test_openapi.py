"""What the OpenAPI document says: enough for a generated client to show a token and to understand an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from sourcelair.auth.http import create_router as create_tokens_router
from sourcelair.ceryx.http import create_router as create_ceryx_router
from sourcelair.cli.system.app import create_app, monitoring_router, serve
from sourcelair.hemera.http import create_router as create_hemera_router
from sourcelair.servers.http import create_router as create_servers_router

SERVER = {"application/json": {"schema": {"$ref": "#/components/schemas/Server"}}}
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

ONE = "/api/servers/{owner}/{project}/"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Of the application with all of its routes, and nothing behind them."""
    nothing = cast(Any, None)
    app = create_app()
    serve(
        app,
        create_ceryx_router(nothing, nothing),
        create_servers_router(nothing, nothing),
        create_hemera_router(nothing, nothing),
        create_tokens_router(nothing),
        monitoring_router(nothing, nothing, nothing),
    )
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_all_but_what_monitors_ask_for_takes_a_token(document: dict[str, Any]) -> None:
    """So that /docs has its "Authorize", and generated clients send one."""
    (scheme,) = document["security"][0]
    declared = document["components"]["securitySchemes"][scheme]
    assert (declared["type"], declared["scheme"]) == ("http", "bearer")
    assert {path for path, operation in operations(document) if operation.get("security") == []} == {
        "/healthz",
        "/readyz",
    }


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    """Also what the framework refuses, and what nobody thought of."""
    for path, operation in operations(document):
        errors = {status: said for status, said in operation["responses"].items() if status[0] in "45d"}
        assert all(said["content"] == PROBLEM and said["description"] for said in errors.values()), path
        assert "default" in errors
        assert operation.get("security") == [] or {"401", "403"} <= set(errors)
    assert {"type", "title", "status", "detail"} == set(document["components"]["schemas"]["Problem"]["required"])


@pytest.mark.parametrize(
    ("path", "method", "good", "bad"),
    [
        (ONE, "put", {"200", "201"}, {"401", "403", "404", "409", "412", "422"}),
        (ONE, "delete", {"202", "204"}, {"401", "403", "404"}),
        (f"{ONE}start", "post", {"200", "202"}, {"401", "403", "404", "409", "503"}),
        (f"{ONE}wake", "post", {"202"}, {"401", "403", "404", "409", "503"}),
        (f"{ONE}extend", "post", {"200"}, {"401", "403", "404", "409", "422"}),
        (f"{ONE}restart", "post", {"200"}, {"401", "403", "404", "409", "503"}),
    ],
)
def test_every_status_is_there(document: dict[str, Any], path: str, method: str, good: set[str], bad: set[str]) -> None:
    responses = document["paths"][path][method]["responses"]
    assert {status for status in responses if status.startswith("2")} == good
    assert bad <= set(responses)
    if method != "delete":
        assert all(responses[status]["content"] == SERVER for status in good)


def test_policies_of_owners_are_described(document: dict[str, Any]) -> None:
    """As servers are: with both good answers, and with what a condition may refuse."""
    one = document["paths"]["/api/owners/{owner}/"]
    policy = {"application/json": {"schema": {"$ref": "#/components/schemas/Policy"}}}
    assert [one["put"]["responses"][status]["content"] for status in ("200", "201")] == [policy, policy]
    assert {"401", "403", "404", "412", "422"} <= set(one["put"]["responses"])
    assert "204" in one["delete"]["responses"]
    stop_after = document["components"]["schemas"]["SleepPolicy"]["properties"]["stop_after"]
    assert [part.get("type") for part in stop_after["anyOf"]] == ["number", "string", "null"]
    assert {"200", "404", "409"} <= set(document["paths"]["/api/instance/busy"]["post"]["responses"])


def test_lists_of_routes_are_described(document: dict[str, Any]) -> None:
    """What may be asked for, what leads to the next page, and what a cursor may be answered."""
    listed = document["paths"]["/api/routes/"]["get"]
    asked = {parameter["name"] for parameter in listed["parameters"]}
    assert asked == {"prefix", "managed_by", "revisions", "limit", "cursor", "watch", "from"}
    assert set(listed["responses"]["200"]["headers"]) == {"Lair-Revision", "Link"}
    assert listed["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array"
    assert {"400", "410", "422"} <= set(listed["responses"])


def test_what_is_referred_to_is_there(document: dict[str, Any]) -> None:
    found = list[str]()

    def look(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.append(part["$ref"])
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                look(each)

    look(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert found and set(found) <= known


@pytest.mark.anyio
async def test_the_pages_need_no_internet() -> None:
    """Scripts, styles and pictures are our own, and there."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app()), base_url="http://api") as client:
        for page in ("/docs", "/redoc"):
            html = (await client.get(page)).text
            parts = re.findall(r"(?:src|href)=[\"']([^\"']+)", html)
            assert parts and all(part.startswith("/") for part in parts), parts
            assert "//cdn" not in html and "googleapis" not in html
            for part in parts:
                answer = await client.get(part)
                assert answer.status_code == 200 and answer.content, part
