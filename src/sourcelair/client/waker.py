"""The waker contract: what a proxy node asks of any waker. Hemera is one; `docs/reference/waker.md` explains it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sourcelair.client.policy import Text


class WakeRequest(BaseModel):
    """Body of `POST {waker}/wake`: a host has visitors, and no live target on this node.

    `source` is the host that was asked for, with the prefix of the route where that is a path's; `route` is the source
    of the route itself where it is another: `*.example.com`, `$wildcard`. `since` (Unix seconds) is when the visitor
    came for whom it is asked, and `address` where from.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    route: str | None = None
    reason: Literal["asleep", "unreachable"] = "asleep"
    instance: Text | None = None
    revision: int | None = None
    method: str = "GET"
    path: str = "/"
    node: str
    address: Text | None = Field(None, max_length=64)
    since: float | None = Field(None, ge=0, allow_inf_nan=False)


class WakeResult(BaseModel):
    """Answer 200: ready, and published at that revision."""

    instance: str
    revision: int
