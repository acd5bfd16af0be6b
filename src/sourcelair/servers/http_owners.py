"""`/api/owners/`: what an owner says once for all of its servers."""

# Annotations are evaluated at once here (no `from __future__`): FastAPI can't find a closure's names in their text.

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from sourcelair.auth import Identity
from sourcelair.auth.http import Authenticate, dependency
from sourcelair.client.owners import OwnerPolicy
from sourcelair.client.policy import Policy
from sourcelair.servers.answers import Answers, expected, with_etag
from sourcelair.servers.events import may_see
from sourcelair.servers.service import ServersService

ONE = "/api/owners/{owner}"

PUT_ANSWERS: Answers = {
    201: {"model": Policy, "description": "There was none before."},
    412: {"description": "There is one (`If-None-Match: *`), or it is at another revision (`If-Match`)."},
}


def add_owners(router: APIRouter, service: ServersService, authenticate: Authenticate) -> None:
    """Add the paths for the policies of owners."""
    who = Depends(dependency(authenticate))

    @router.get("/api/owners", include_in_schema=False)
    @router.get("/api/owners/")
    async def list_owners(identity: Annotated[Identity, who]) -> list[OwnerPolicy]:
        """List the policies of those owners that the token may see."""
        identity.require_some_reading()
        return [service.owners.get(owner) for owner in service.owners.names() if may_see(identity, owner)]

    @router.get(ONE, include_in_schema=False, response_model=Policy)
    @router.get(f"{ONE}/", response_model=Policy)
    async def get_owner(owner: str, identity: Annotated[Identity, who]) -> Response:
        """Return what an owner says of all its servers; 404 where it says nothing. Its revision is the ETag."""
        identity.require_read(owner)
        found = service.owners.get(owner)
        return with_etag(found.policy, found.revision)

    @router.put(ONE, include_in_schema=False, response_model=Policy)
    @router.put(f"{ONE}/", response_model=Policy, responses=PUT_ANSWERS)
    async def put_owner(owner: str, body: Policy, request: Request, identity: Annotated[Identity, who]) -> Response:
        """Say what is in effect for all servers of an owner that do not say it themselves. Restarts nothing."""
        identity.require_write(owner)
        stored, created = await service.owners.put(owner, body, expected(request))
        return with_etag(stored.policy, stored.revision, 201 if created else 200)

    @router.delete(ONE, include_in_schema=False, status_code=204)
    @router.delete(f"{ONE}/", status_code=204, responses={412: {"description": "It is at another revision."}})
    async def delete_owner(owner: str, request: Request, identity: Annotated[Identity, who]) -> None:
        """Forget what an owner said; the installation's settings are in effect again."""
        identity.require_write(owner)
        await service.owners.delete(owner, expected(request))
