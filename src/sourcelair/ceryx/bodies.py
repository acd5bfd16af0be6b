"""Reading a request's JSON: bounded while it is read, and with errors that name the field."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from sourcelair.errors import BadRequest, InvalidInput, TooLarge

ONE = 64 << 10
"""Bytes of a request that is about one thing."""

MANY = 16 << 20
"""Bytes of a batch, or of a node's report: 10,000 routes with long wakers fit."""

MAX_PROBLEMS = 5
"""Problems of one body that are named; the rest are counted."""

T = TypeVar("T")


class WithoutExtras(BaseModel):
    """Base of bodies that are read here: a field that is not known is an error, never ignored."""

    model_config = ConfigDict(extra="forbid")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        TooLarge: it is longer than `limit` bytes; no more than that is ever kept.
    """
    message = f"The body is larger than {limit >> 10} KiB."
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(message)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(message)
    return bytes(body)


async def read_json(request: Request, limit: int) -> Any:
    """Return the decoded body.

    Raises:
        TooLarge: as `read_body`.
        BadRequest: it is not JSON.
    """
    body = await read_body(request, limit)
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from error


def parse(model: type[T] | TypeAdapter[T], value: Any) -> T:
    """Return the value as that model.

    Raises:
        InvalidInput: naming the fields that are wrong, without repeating what they held.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        said = [_describe(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            said.append(f"and {len(problems) - MAX_PROBLEMS} more")
        raise InvalidInput("; ".join(said)) from error


def _describe(problem: Any) -> str:
    where = ".".join(str(part)[:80] for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return an OpenAPI `requestBody` for a body that is read by hand, its definitions written out in place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inline(definitions[part["$ref"].rsplit("/", 1)[-1]])
            return {key: inline(value) for key, value in part.items()}
        return [inline(item) for item in part] if isinstance(part, list) else part

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(schema)}}}}
