"""Errors: the same object on both sides of HTTP, one shape for all, and nothing of the sender's but its names."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from sourcelair.errors import (
    BY_STATUS,
    InvalidInput,
    LairError,
    PreconditionFailed,
    Unauthorized,
    Unavailable,
    from_problem,
    install_error_handlers,
    problem_response,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("cls", [LairError, *BY_STATUS.values()], ids=lambda cls: cls.__name__)
def test_an_error_survives_the_wire(cls: type[LairError]) -> None:
    """What a service raises, its client raises again: class, detail and facts."""
    problem = cls("What was wrong.", revision=7, source="a").problem()
    assert problem["status"] == cls.status and problem["type"] == "about:blank" and problem["title"]
    again = from_problem(cls.status, problem)
    assert type(again) is cls
    assert (again.detail, again.extra) == ("What was wrong.", {"revision": 7, "source": "a"})


@settings(deadline=None)
@given(
    st.integers(-1, 1000),
    st.dictionaries(
        st.sampled_from(["detail", "self", "retry_after", "status", "title", "extra"]) | st.text(),
        st.none() | st.text(),
    ),
)
def test_any_answer_becomes_an_error(status: int, problem: dict[str, Any]) -> None:
    """Whoever answered, with whatever: there is a LairError with a text, and it can be passed on."""
    error = from_problem(status, problem)
    assert error.detail
    assert error.problem()["status"] == error.status


def test_facts_never_hide_the_standard_members() -> None:
    """A member named `status` or `detail` is the error's own."""
    error = PreconditionFailed("mine", revision=3)
    error.extra["status"] = 200
    assert error.problem()["status"] == 412


def test_headers_say_what_to_do_next() -> None:
    """Retry-After in whole seconds, at least one; which kind of token a 401 wants."""
    assert problem_response(Unavailable("wait", retry_after=0.2)).headers["retry-after"] == "1"
    assert problem_response(Unavailable("wait", retry_after=2.1)).headers["retry-after"] == "3"
    assert "retry-after" not in problem_response(Unavailable("wait")).headers
    assert problem_response(Unauthorized("who?")).headers["www-authenticate"].startswith("Bearer")


class Body(BaseModel):
    """A body with a field."""

    model_config = ConfigDict(extra="forbid")

    number: int = 0


async def post(content: bytes, path: str = "/") -> httpx.Response:
    """The answer of an app with our handlers."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/")
    async def root(body: Body) -> Body:
        return body

    @app.post("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    @app.post("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"Lair-Test": "1"})

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, content=content, headers={"content-type": "application/json"})


def problem_of(answer: httpx.Response, status: int) -> str:
    """The detail of a well-formed problem."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    detail: str = problem["detail"]
    assert "Traceback" not in detail and "\n" not in detail and len(answer.content) < 3000
    return detail


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"1" * 10_000, b'{"a": NaN', b"\x00"])
async def test_what_is_not_json_is_400(content: bytes) -> None:
    """Malformed, not UTF-8, nested too deeply, numbers without end."""
    answer = await post(content)
    assert answer.status_code in {400, 422}
    problem_of(answer, answer.status_code)
    if content == b"{":
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"number": "x"}', "number: "),
        (b'{"nubmer": 1}', "nubmer: "),
        (b"[]", "Input should be"),
        (b'{"a\\r\\nb": 1}', r"'a\r\nb': "),
        (b'{"\\ud800": 1}', ""),
        (b'{"' + b"x" * 1_000_000 + b'": 1}', "xxxx"),
        (b'{"number": "' + b"x" * 1_000_000 + b'"}', "number: "),
        (b"{" + b",".join(b'"%d": 1' % n for n in range(10_000)) + b"}", "and 9995 more"),
    ],
    ids=range(8),
)
async def test_what_is_wrong_is_422_and_named(content: bytes, detail: str) -> None:
    """The field, and never the value; unknown names are cut and escaped."""
    assert detail in problem_of(await post(content), 422)


async def test_the_frameworks_own_errors_have_our_shape() -> None:
    """Unknown path, wrong method, an exception of Starlette with its headers."""
    problem_of(await post(b"", "/none"), 404)
    answer = await post(b"", "/teapot")
    assert problem_of(answer, 418) == "short and stout"
    assert answer.headers["lair-test"] == "1"
    assert answer.json()["title"] == "I'm a Teapot"


async def test_a_bug_is_a_500_without_its_words() -> None:
    """Nobody outside learns what was raised."""
    assert "secret" not in problem_of(await post(b"", "/broken"), 500)


def test_invalid_input_keeps_its_sentence() -> None:
    """The exception's text is the detail: what the command line prints."""
    assert str(InvalidInput("domain: no.")) == "domain: no."
