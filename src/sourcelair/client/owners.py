"""The part of the SourceLair API that is about owners: what they say once for all of their servers."""

from __future__ import annotations

import httpx
from pydantic import BaseModel

from sourcelair.client.http import ApiClient, segment
from sourcelair.client.policy import Policy


class OwnerPolicy(BaseModel):
    """What an owner says once for all of its servers, and the revision of that."""

    owner: str
    policy: Policy
    revision: int


class OwnersClient(ApiClient):
    """The policies of owners."""

    async def owners(self) -> list[OwnerPolicy]:
        """Return the policies of those owners that the token may see."""
        return [OwnerPolicy(**item) for item in (await self.request("GET", "/api/owners/")).json()]

    async def get_owner(self, owner: str) -> OwnerPolicy:
        """Return an owner's policy. Raises NotFound: it has none."""
        return _owner(owner, await self.request("GET", _path(owner)))

    async def put_owner(self, owner: str, policy: Policy, *, expect: int | None = None) -> OwnerPolicy:
        """Set what is in effect for all servers of an owner that do not say it themselves.

        Args:
            owner: whose.
            policy: all that it says.
            expect: the revision that it must have; 0: there must be none.

        Raises:
            PreconditionFailed: it has another.
        """
        headers = {} if expect is None else {"If-Match": f'"{expect}"'} if expect else {"If-None-Match": "*"}
        return _owner(
            owner, await self.request("PUT", _path(owner), body=policy.model_dump(), headers=headers, wait=60)
        )

    async def delete_owner(self, owner: str, *, expect: int | None = None) -> None:
        """Forget what an owner said.

        Raises:
            NotFound: it said nothing.
            PreconditionFailed: it has another revision than `expect`.
        """
        headers = {} if expect is None else {"If-Match": f'"{expect}"'}
        await self.request("DELETE", _path(owner), headers=headers, wait=60)


def _path(owner: str) -> str:
    return f"/api/owners/{segment(owner)}/"


def _owner(owner: str, answer: httpx.Response) -> OwnerPolicy:
    return OwnerPolicy(owner=owner, policy=Policy(**answer.json()), revision=int(answer.headers["ETag"].strip('"')))
