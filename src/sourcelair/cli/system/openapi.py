"""What the OpenAPI document says of all APIs alike: the token that they take, and what their errors look like.

Routes say what is theirs alone. Errors are made in one place (`sourcelair.errors`), so they are described in one too.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sourcelair.errors import PROBLEM_JSON

NO_TOKEN = ("/healthz", "/readyz")
"""Paths that monitors ask without a token."""

TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token: the first one is in DATA_DIR/admin.token, `lair token create` makes others.",
}

PROBLEM = {
    "title": "Problem",
    "description": "An error (RFC 9457). What else it has depends on the error.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "description": "The answer's status code."},
        "detail": {"type": "string", "description": "What is wrong and what to do, for a person."},
    },
    "additionalProperties": True,
}

_AS_PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}

_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")
"""What FastAPI says of errors; ours are not like that."""


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application whose errors are problems, and whose callers have a token."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"token": TOKEN}
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = PROBLEM
    for name in _FRAMEWORKS_OWN:
        schemas.pop(name, None)
    document["security"] = [{"token": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _describe_errors(operation["responses"], named="{" in path, with_token=path not in NO_TOKEN)
            if path in NO_TOKEN:
                operation["security"] = []
    return document


def _describe_errors(responses: dict[str, Any], *, named: bool, with_token: bool) -> None:
    if with_token:
        responses.setdefault("401", {"description": "No token, or one that is not known."})
        responses.setdefault("403", {"description": "The token may not do this."})
    if named:
        responses.setdefault("404", {"description": "There is no such thing."})
    if "422" in responses:
        responses["422"] = {"description": "Something in the request is wrong."}
    responses.setdefault("default", {"description": "Any other error."})
    for status, response in responses.items():
        if status[0] in "45d":
            response["content"] = _AS_PROBLEM
