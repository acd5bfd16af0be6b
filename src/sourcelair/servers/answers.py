"""What the parts of the SourceLair API's HTTP side have in common: paths, answers, and conditions on revisions."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sourcelair.client.servers import Server
from sourcelair.errors import BadRequest

ONE = "/api/servers/{owner}/{project}"

Answers = dict[int | str, dict[str, Any]]

NOT_STARTED: Answers = {
    409: {"description": "It is disabled."},
    503: {"description": "The start failed: with `state`, `log` and `retry_at`."},
}

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,19})"')


def answer(server: Server, status: int = 200) -> JSONResponse:
    """Return a server as an answer, with its revision as its ETag."""
    return with_etag(server, server.revision, status)


def with_etag(model: BaseModel, revision: int, status: int = 200) -> JSONResponse:
    """Return an answer whose ETag is a revision."""
    return JSONResponse(model.model_dump(), status_code=status, headers={"ETag": f'"{revision}"'})


def expected(request: Request) -> int | None:
    """Return the revision that `If-Match` or `If-None-Match: *` asks for; None where there is no condition.

    Raises:
        BadRequest: it is no revision.
    """
    if request.headers.get("if-none-match", "").strip() == "*":
        return 0
    header = request.headers.get("if-match")
    if header is None:
        return None
    match = _ETAG.fullmatch(header.strip())
    if match is None:
        raise BadRequest('If-Match: send one revision as the ETag gave it, such as "42".')
    return int(match[1])
