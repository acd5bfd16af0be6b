"""Every error that a user of SourceLair may meet, and the one place that turns errors into answers.

::

    LairError                    status  title
    ├── InvalidInput             422     the request was understood, and is wrong
    ├── BadRequest               400     the request could not be read at all
    ├── Unauthorized             401     no token, or one that is not known
    ├── Forbidden                403     the token's scope is too small
    ├── NotFound                 404
    ├── Conflict                 409     another's, or not in this state
    ├── PreconditionFailed       412     `If-Match` named an older revision
    ├── HistoryCompacted         410     a watch asked for revisions that are gone
    ├── TooLarge                 413
    ├── TooManyRequests          429     slower: `retry_after` says when
    ├── Unavailable              503     try again: `retry_after` says when
    ├── OutOfSpace               507     the node's route table (or the disk) is full
    └── Unreachable              502     another service did not answer (clients raise it)

On the APIs an error is RFC 9457 problem+json with the `detail` that the original Ceryx API had; on the command
line it is one line. Never a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:  # the command line imports this module too, and must start fast
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

PROBLEM_JSON = "application/problem+json"


class LairError(Exception):
    """An error with a message for a person: what was wrong, where, and what to do.

    Args:
        detail: one or two sentences for a person.
        retry_after: seconds after which it makes sense to try again, sent as `Retry-After`.
        extra: further members of the problem+json object (RFC 9457, section 3.2).
    """

    status: ClassVar[int] = 500

    def __init__(self, detail: str, *, retry_after: float | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.extra = extra

    def another(self) -> Self:
        """Return the same error for another caller, who may add to it."""
        other = copy(self)
        other.extra = dict(self.extra)
        return other

    def problem(self) -> dict[str, Any]:
        """Return the RFC 9457 object: `type`, `title`, `status`, `detail` and the extra members."""
        return _problem(self.status, self.detail, self.extra)


def _problem(status: int, detail: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {**extra, "type": "about:blank", "title": _phrase(status), "status": status, "detail": detail}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a status that nobody registered, from a program that is not ours
        return f"Status {status}"


class InvalidInput(LairError):
    """The request was understood, and something in it is wrong."""

    status = 422


class BadRequest(LairError):
    """The request could not be read at all, such as malformed JSON."""

    status = 400


class Unauthorized(LairError):
    """No token came with the request, or one that is not known."""

    status = 401


class Forbidden(LairError):
    """The token is good, and its scope is too small for this."""

    status = 403


class NotFound(LairError):
    """There is no such thing."""

    status = 404


class Conflict(LairError):
    """It belongs to somebody else, or its state does not allow this now."""

    status = 409


class HistoryCompacted(LairError):
    """A watch asked for revisions that are no longer kept: list again, and watch from there."""

    status = 410


class PreconditionFailed(LairError):
    """`If-Match` named a revision that is not the current one."""

    status = 412


class TooLarge(LairError):
    """The request is larger than this service takes."""

    status = 413


class TooManyRequests(LairError):
    """Too many of these came in a short time."""

    status = 429


class Unreachable(LairError):
    """Another service did not answer. Raised by the clients, with the network error chained."""

    status = 502


class Unavailable(LairError):
    """It can't be done right now, and may be in a moment."""

    status = 503


class OutOfSpace(LairError):
    """A table or a disk is full; nothing was written."""

    status = 507


BY_STATUS: dict[int, type[LairError]] = {
    cls.status: cls
    for cls in (
        InvalidInput, BadRequest, Unauthorized, Forbidden, NotFound, Conflict, HistoryCompacted,
        PreconditionFailed, TooLarge, Unreachable, Unavailable, OutOfSpace,
    )
}  # fmt: skip


def from_problem(status: int, problem: Mapping[str, Any]) -> LairError:
    """Rebuild the error that a service answered with.

    Args:
        status: the HTTP status code of the answer.
        problem: the decoded problem+json object; only `detail` is relied on.
    """
    error = BY_STATUS.get(status, LairError)(str(problem.get("detail") or _phrase(status)))
    error.extra = {key: value for key, value in problem.items() if key not in {"type", "title", "status", "detail"}}
    return error


def problem_response(error: LairError) -> JSONResponse:
    """Return the HTTP answer for an error: problem+json, with `Retry-After` where it is known."""
    from fastapi.responses import JSONResponse

    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="sourcelair"'
    return JSONResponse(error.problem(), status_code=error.status, headers=headers, media_type=PROBLEM_JSON)


_MAX_ERRORS = 5
"""Validation errors that one answer lists: a body of 10 MB can have a million."""


def _describe(error: Mapping[str, Any]) -> str:
    """One validation error of pydantic as `field: what is wrong`, without echoing the input."""
    location = error["loc"]
    if location and location[0] in {"body", "query", "path", "header"}:
        location = location[1:]
    where = ".".join(shown_field(part) for part in location)
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def shown_field(part: int | str) -> str:
    """Return a field's name as it may stand in a message: it is the sender's where it is an unknown one."""
    name = str(part)[:80]
    return name if name.isprintable() else repr(name)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` answer as problem+json, those of the framework too."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    async def lair_error(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, LairError)  # noqa: S101 - registered for this class only
        return problem_response(exc)

    async def validation(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for this class only
        errors = exc.errors()
        if any(error["type"] == "json_invalid" for error in errors):
            return problem_response(BadRequest("The body is not valid JSON: " + _describe(errors[0])))
        described = "; ".join(_describe(error) for error in errors[:_MAX_ERRORS])
        more = len(errors) - _MAX_ERRORS
        return problem_response(InvalidInput(f"{described}; and {more} more" if more > 0 else described))

    async def http_error(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)  # noqa: S101 - registered for this class only
        problem = _problem(exc.status_code, str(exc.detail), {})
        return JSONResponse(problem, exc.status_code, exc.headers, media_type=PROBLEM_JSON)

    async def unexpected(_: Request, exc: Exception) -> JSONResponse:
        # The framework raises it again when this is sent, so that the server logs it with its traceback.
        return problem_response(LairError("Something went wrong here that nobody foresaw. The log has the details."))

    app.add_exception_handler(LairError, lair_error)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
