"""The HTTP side of tokens: the dependency that every API uses, and `/api/tokens/`."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from sourcelair.auth.instances import InstanceTokens
from sourcelair.auth.tokens import Identity, Kind, TokenRegistry
from sourcelair.errors import Forbidden, InvalidInput
from sourcelair.streams import ends_with

Authenticate = Callable[[Request], Identity]


def authenticator(registry: TokenRegistry, instances: InstanceTokens | None = None) -> Authenticate:
    """Return the FastAPI dependency that turns a request's token into an `Identity`, or raises Unauthorized.

    A stream that answers the request ends when the token is revoked.

    Args:
        registry: all tokens that were made for somebody.
        instances: knows those of instances; None: they are no tokens here.
    """

    def authenticate(request: Request) -> Identity:
        header = request.headers.get("authorization")
        if instances is not None and (known := instances.identify(header)) is not None:
            return known
        identity = registry.identify(header)
        ends_with(request, registry.revoked(identity))
        return identity

    return authenticate


def dependency(authenticate: Authenticate) -> Callable[[Request], Awaitable[Identity]]:
    """Return `authenticate` for `Depends`.

    FastAPI runs a plain function in a thread, which costs more than looking a token up, and waits for seconds while
    the event loop is busy.
    """

    async def identity(request: Request) -> Identity:
        return authenticate(request)

    return identity


class TokenInput(BaseModel):
    """Body of `POST /api/tokens/`."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = "owner"
    owner: str | None = None
    note: str = ""


def create_router(registry: TokenRegistry) -> APIRouter:
    """Return `/api/tokens/`, for administrators only."""
    router = APIRouter(tags=["tokens"])
    authenticate = dependency(authenticator(registry))

    async def administrator(identity: Annotated[Identity, Depends(authenticate)]) -> Identity:
        if identity.kind != "admin":
            raise Forbidden("Only an administrator's token may list, make and revoke tokens.")
        return identity

    @router.get("/api/tokens", include_in_schema=False)
    @router.get("/api/tokens/")
    async def list_tokens(_: Annotated[Identity, Depends(administrator)]) -> list[dict[str, Any]]:
        """List all tokens; the tokens themselves are not kept, only their hashes."""
        return [asdict(record) for record in registry.list()]

    @router.post("/api/tokens", include_in_schema=False, status_code=201)
    @router.post("/api/tokens/", status_code=201)
    async def create_token(
        body: TokenInput, response: Response, _: Annotated[Identity, Depends(administrator)]
    ) -> dict[str, Any]:
        """Make a token. This answer is the only place that ever shows it."""
        if body.kind in {"service", "waker", "instance"}:
            raise InvalidInput(f"kind: tokens of the kind {body.kind!r} are made by the services themselves.")
        response.headers["Cache-Control"] = "no-store"
        token, record = await registry.create(body.kind, owner=body.owner, note=body.note)
        return {**asdict(record), "token": token}

    @router.delete("/api/tokens/{token_id}", include_in_schema=False, status_code=204)
    @router.delete("/api/tokens/{token_id}/", status_code=204)
    async def revoke_token(token_id: str, identity: Annotated[Identity, Depends(administrator)]) -> None:
        """Revoke a token; the one that asks can't revoke itself."""
        if token_id == identity.token_id:
            raise InvalidInput("This is the token that you use: revoke it with another administrator's.")
        await registry.revoke(token_id)

    return router
