"""A lean route says what FastAPI's own would say, and what it can't say remains FastAPI's."""

# No `from __future__ import annotations`: FastAPI can't find a closure's names in their text.

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from sourcelair.errors import NotFound, install_error_handlers
from sourcelair.lean import LeanRoute

pytestmark = pytest.mark.anyio


async def agent(request: Request) -> str:
    if "x-agent" not in request.headers:
        raise NotFound("Who asks?")
    return request.headers["x-agent"]


def plain(request: Request) -> str:
    return "a thread's"


async def of_query(limit: int) -> int:
    return limit


def client(*endpoints: Any) -> httpx.AsyncClient:
    router = APIRouter(route_class=LeanRoute)
    for endpoint in endpoints:
        router.add_api_route(f"/{endpoint.__name__}/{{name}}", endpoint, methods=["POST"])
    app = FastAPI()
    install_error_handlers(app)
    app.router.routes[:0] = router.routes
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lair")


def is_lean(endpoint: Any) -> bool:
    route = LeanRoute("/{name}", endpoint, methods=["POST"])
    return route.get_route_handler().__qualname__.startswith("LeanRoute.")


async def lean(name: str, request: Request, who: Annotated[str, Depends(agent)]) -> Response:
    return JSONResponse({"name": name, "who": who, "body": (await request.body()).decode()}, status_code=201)


async def counts(name: str, limit: int, who: Annotated[str, Depends(agent)]) -> Response:
    return JSONResponse({"limit": limit, "who": who})


async def tells(name: str, who: Annotated[str, Depends(agent)]) -> dict[str, str]:
    return {"name": name, "who": who}


async def numbered(name: int) -> Response:
    return JSONResponse({"name": name})


async def threaded(name: str, who: Annotated[str, Depends(plain)]) -> Response:
    return JSONResponse({"who": who})


async def deeper(name: str, limit: Annotated[int, Depends(of_query)]) -> Response:
    return JSONResponse({"limit": limit})


async def test_it_passes_on_what_its_endpoint_asks_for() -> None:
    said = await client(lean).post("/lean/a%20b", content=b"hello", headers={"X-Agent": "me"})
    assert (said.status_code, said.json()) == (201, {"name": "a b", "who": "me", "body": "hello"})


async def test_an_error_of_a_reader_is_a_problem() -> None:
    said = await client(lean).post("/lean/a")
    assert (said.status_code, said.json()["detail"]) == (404, "Who asks?")
    assert said.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("endpoint", [counts, tells, numbered, threaded, deeper])
def test_what_asks_for_more_is_no_lean_route(endpoint: Any) -> None:
    assert is_lean(lean) and not is_lean(endpoint)


async def test_what_asks_for_more_works_as_ever() -> None:
    asks = client(counts, tells, numbered, threaded, deeper)
    me = {"X-Agent": "me"}
    assert (await asks.post("/counts/a?limit=3", headers=me)).json() == {"limit": 3, "who": "me"}
    assert (await asks.post("/counts/a?limit=x", headers=me)).status_code == 422
    assert (await asks.post("/tells/a", headers=me)).json() == {"name": "a", "who": "me"}
    assert (await asks.post("/numbered/7")).json() == {"name": 7}
    assert (await asks.post("/threaded/a")).json() == {"who": "a thread's"}
    assert (await asks.post("/deeper/a?limit=4")).json() == {"limit": 4}


async def test_its_parameters_are_documented() -> None:
    operation = (await client(lean).get("/openapi.json")).json()["paths"]["/lean/{name}"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name"]
