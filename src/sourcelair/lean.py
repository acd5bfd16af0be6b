"""FastAPI's routes without what a request has no use for: the way of a wake goes through three of them.

FastAPI's own handler opens stacks for dependencies that clean up, looks for forms, and validates what can't be wrong:
75 of the 130 microseconds of a small request, and several times that where the code has not run for a while. Paths,
documentation and errors remain FastAPI's.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

Reader = Callable[[Request], Awaitable[Any]]
"""Reads something off a request: an endpoint asks for it by `Depends`."""


class LeanRoute(APIRoute):
    """A route that calls its endpoint directly, where that asks for nothing but strings of its path, the request, and
    what coroutines read off the request alone; and where it returns a response. All others are as ever.

    Pass it as `route_class` of an `APIRouter` whose routes are taken as they are: dependencies that an application adds
    where it includes a router are not for these.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        wanted = self.dependant
        named = {field.alias for field in wanted.path_params} == set(self.param_convertors)
        if not (named and _is_lean(wanted) and all(map(_is_reader, wanted.dependencies)) and self._returns_response()):
            return super().get_route_handler()
        endpoint, request_name = self.endpoint, wanted.request_param_name
        readers = [(each.name or "", cast("Reader", each.call)) for each in wanted.dependencies]

        async def handle(request: Request) -> Response:
            values = dict(request.path_params)
            if request_name is not None:
                values[request_name] = request
            for name, read in readers:
                values[name] = await read(request)
            return cast("Response", await endpoint(**values))

        return handle

    def _returns_response(self) -> bool:
        returned = inspect.signature(self.endpoint).return_annotation
        return (
            inspect.iscoroutinefunction(self.endpoint) and isinstance(returned, type) and issubclass(returned, Response)
        )


def _is_lean(wanted: Dependant) -> bool:
    others = (
        *wanted.query_params,
        *wanted.header_params,
        *wanted.cookie_params,
        *wanted.body_params,
        *filter(
            None,
            (
                wanted.websocket_param_name,
                wanted.http_connection_param_name,
                wanted.response_param_name,
                wanted.background_tasks_param_name,
                wanted.security_scopes_param_name,
            ),
        ),
    )
    plain = (field.field_info.annotation is str and not field.field_info.metadata for field in wanted.path_params)
    return not others and all(plain)


def _is_reader(wanted: Dependant) -> bool:
    plain = wanted.name is not None and _is_lean(wanted) and not wanted.dependencies and not wanted.path_params
    return plain and wanted.request_param_name == "request" and inspect.iscoroutinefunction(wanted.call)
