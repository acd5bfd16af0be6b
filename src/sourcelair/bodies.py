"""Reading a request's JSON and its query: bounded while it is read, and with errors that name the field."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from sourcelair.errors import BadRequest, InvalidInput, TooLarge, shown_field
from sourcelair.pacing import in_steps

SMALL = 64 << 10
"""Bytes of a request that is about one thing."""

LARGE = 16 << 20
"""Bytes of a batch, or of a node's report: 10,000 routes with long wakers fit."""

MAX_PROBLEMS = 5
"""Problems of one body that are named; nothing of it is looked at once there are so many."""

MAX_FIELDS = 64
"""Fields that one object of a body may have: each that is not known is an error of its own."""

T = TypeVar("T")
Query = TypeVar("Query", bound=BaseModel)


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


async def read_json(request: Request, limit: int, *, empty: Any = None) -> Any:
    """Return the decoded body.

    Args:
        request: whose body it is.
        limit: bytes that it may have.
        empty: returned where there is no body, or null, if it may be left out.

    Raises:
        TooLarge: as `read_body`.
        BadRequest: it is not JSON.
    """
    body = await read_body(request, limit)
    if not body and empty is not None:
        return empty
    try:
        decoded = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from error
    return empty if decoded is None and empty is not None else decoded


def parse(model: type[T] | TypeAdapter[T], value: Any) -> T:
    """Return the value as that model.

    Raises:
        InvalidInput: naming the fields that are wrong, without repeating what they held.
    """
    problems = list[str]()
    found = _validate(_adapter(model), value, (), problems)
    if problems:
        raise _invalid(problems)
    return cast("T", found)


async def parse_many(model: type[T] | TypeAdapter[T], values: Any, where: str, most: int) -> list[T]:
    """Return a list's items as that model, with pauses in which others get their turn.

    Args:
        model: of one item.
        values: the list.
        where: the field's name, for messages; empty for a body that is the list.
        most: items that it may have.

    Raises:
        TooLarge: it has more.
        InvalidInput: as `parse`; what comes after the first few problems is not looked at.
    """
    name = where or "The body"
    if not isinstance(values, list):
        raise InvalidInput(f"{name}: Input should be a valid list")
    if len(values) > most:
        raise TooLarge(f"{name}: at most {most} at once.")
    adapter = _adapter(model)
    found, problems = list[T](), list[str]()
    async for at, value in in_steps(enumerate(values)):
        found.append(cast("T", _validate(adapter, value, (where, at) if where else (at,), problems)))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise _invalid(problems)
    return found


async def take_list(body: Any, field: str, model: type[T] | TypeAdapter[T], most: int) -> list[T]:
    """Take a long list out of a body, an empty one in its place: what remains is for `parse`. See `parse_many`."""
    if not isinstance(body, dict) or field not in body:
        return []
    values, body[field] = body[field], []
    return await parse_many(model, values, field, most)


def _adapter(model: type[T] | TypeAdapter[T]) -> TypeAdapter[T]:
    return model if isinstance(model, TypeAdapter) else _adapter_of(cast("Any", model))


@functools.cache
def _adapter_of(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _validate(adapter: TypeAdapter[T], value: Any, where: tuple[str | int, ...], problems: list[str]) -> T | None:
    """Return a value as it was validated; None where problems were added."""
    if _is_too_wide(value):
        problems.append(_describe(where, f"An object has more than {MAX_FIELDS} fields"))
        return None
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            problems.append(_describe((*where, *problem["loc"]), problem["msg"]))
        return None


def _is_too_wide(value: Any) -> bool:
    """Tell whether an object, or one within it, has more fields than any of ours."""
    return isinstance(value, dict) and (len(value) > MAX_FIELDS or any(map(_is_too_wide, value.values())))


def _invalid(problems: list[str]) -> InvalidInput:
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return InvalidInput("; ".join(problems[:MAX_PROBLEMS] + more))


def _describe(where: tuple[str | int, ...], message: str) -> str:
    path = ".".join(map(shown_field, where))
    return f"{path}: {message}" if path else message


def query_of(model: type[Query]) -> Callable[[Request], Awaitable[Query]]:
    """Return what reads a request's query as a model, for `Depends`. What the model does not know is ignored."""

    async def read(request: Request) -> Query:
        query = request.query_params
        return parse(model, {name: query[name] for name in model.model_fields if name in query})

    return read


def parameters_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI `parameters` of a query that is read as a model."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": field,
                "description": field.get("description", ""),
            }
            for name, field in schema["properties"].items()
        ]
    }


def schema_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return an OpenAPI `requestBody` for a body that is read by hand, its definitions written out in place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inline(definitions[part["$ref"].rsplit("/", 1)[-1]])
            return {key: inline(value) for key, value in part.items()}
        return [inline(item) for item in part] if isinstance(part, list) else part

    return {"requestBody": {"required": required, "content": {"application/json": {"schema": inline(schema)}}}}
