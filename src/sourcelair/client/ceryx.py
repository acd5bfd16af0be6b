"""Ceryx as its clients see it: routes, nodes, withdrawals and activity.

The first four keys of a route are the original Ceryx API's, exactly; all others are optional, and left out of an
answer where they are null.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import to_json

from sourcelair.client.arrays import decode_array, decode_pieces
from sourcelair.client.http import ApiClient, segment
from sourcelair.client.policy import QuietRules, Seconds
from sourcelair.errors import HistoryCompacted, Unreachable
from sourcelair.pacing import in_steps

LISTED_AT_ONCE = 5000
"""Routes that are asked for at once where all are wanted: some 1.5 MB."""

LIST_ATTEMPTS = 3
"""How often a list is begun whose revision is forgotten before its last page."""


class RouteSettings(BaseModel):
    """How a route is served. The first four are the original's; ours are left out where they are null
    or false.

    `patience` and `wake_timeout` (seconds) are this route's own, `quiet` what neither wakes nor counts as activity,
    `streams` whether open WebSockets and event streams count as activity (null: always). With `strip_prefix` the app of
    a path's route does not see the prefix of its source.

    `buffering` is what the proxy takes in before it passes it on: `none` nothing, `request` every body, `response`
    answers too; null only bodies that say how long they are.
    """

    model_config = ConfigDict(extra="forbid")

    enforce_https: bool = False
    mode: Literal["proxy", "redirect"] = "proxy"
    certificate_path: str | None = None
    key_path: str | None = None
    patience: Annotated[Seconds, Field(ge=0, le=3600)] | None = None
    wake_timeout: Annotated[Seconds, Field(gt=0, le=3600)] | None = None
    quiet: QuietRules | None = None
    streams: Literal["always", "never", "flow"] | None = None
    buffering: Literal["none", "request", "response"] | None = None
    strip_prefix: bool = False

    @model_serializer(mode="wrap")
    def _without_nulls_of_ours(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        shown: dict[str, Any] = handler(self)
        return {
            key: value for key, value in shown.items() if key in _ORIGINAL or (value is not None and value is not False)
        }


_ORIGINAL = frozenset({"enforce_https", "mode", "certificate_path", "key_path"})


class Route(BaseModel):
    """A public host, or a path of one, and where its requests go; without a target they wait for its waker.

    `instance` names the run that the target belongs to; a withdrawal is proven for an instance. A route with
    `managed_by` is changed by that client only.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    target: str | None = None
    settings: RouteSettings = Field(default_factory=RouteSettings)
    waker: str | None = None
    instance: str | None = None
    managed_by: str | None = None


class StoredRoute(Route):
    """A route with the store's revision of its last change."""

    revision: int


class RouteWrite(BaseModel):
    """One write of a batch. `route` None deletes.

    `expect`: the revision that the route must have (0: must not exist); None writes whatever is there.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    route: Route | None = None
    expect: int | None = None


class BatchResult(BaseModel):
    """All writes of a batch stand at one revision. `served`: every live node had applied it before the answer.

    A store that does not take so many in one transaction (etcd: more than 127) has done them in several
    `transactions`; the revision is the last one's.
    """

    revision: int
    served: bool
    transactions: int = 1


class RouteChanges(BaseModel):
    """One event of the watch: all changes of one revision. A route of None was deleted."""

    revision: int
    changes: list[RouteChange]


class RouteChange(BaseModel):
    """One changed route."""

    source: str
    route: StoredRoute | None


class InstanceCounts(BaseModel):
    """What one NGINX generation counted for one instance.

    `in_flight` is everything that is open, `streams` the part of it that is WebSockets or event streams, and
    `idle_streams` the part of those that keeps nothing awake by being open (by its route's `streams`). `total` is all
    that this generation ever sent there. `robots` are the requests among `total` that keep nothing awake, and
    `robots_in_flight` those still open. `last_active` (Unix seconds) is the last moment at which the node saw
    activity that keeps the instance awake; null where it saw none.
    """

    instance: str
    in_flight: int = 0
    streams: int = 0
    idle_streams: int = 0
    total: int = 0
    robots: int = 0
    robots_in_flight: int = 0
    last_active: float | None = None


class Refusal(BaseModel):
    """A route for which a node's NGINX has no room: what the node was told at `revision` is not served there."""

    source: str
    revision: int


class NodeReport(BaseModel):
    """What an agent says of its node: at once after it applied something, and as its heartbeat.

    `counts` holds the instances whose counts changed since the last report of this session. `applied` says that NGINX
    holds every change up to that revision, but for those that are `refused`; `capacity` is the number of routes that
    fit for certain, `held` the requests that wait at its gate right now, `connections` those that clients have open.
    """

    session: int
    generation: str
    applied: int
    routes: int
    capacity: int
    loaded: bool = True
    counts: list[InstanceCounts] = []
    refused: list[Refusal] = []
    held: int = 0
    connections: int | None = None


class Node(BaseModel):
    """A registered proxy node. `silent` ones said nothing for the time of the lease, and may still be serving.

    `held` requests wait at its gate; `connections` are open between it and clients, idle ones too. Null: not known.
    """

    node: str
    state: Literal["live", "silent"]
    registered_revision: int
    generation: str | None = None
    applied: int | None = None
    routes: int | None = None
    capacity: int | None = None
    lag: int | None = None
    held: int | None = None
    connections: int | None = None


class Ask(BaseModel):
    """Ceryx asks a node to acknowledge a withdrawal: sent on the node's event stream, again whenever it reconnects."""

    instance: str
    revision: int


class Acknowledgement(BaseModel):
    """A node's promise: it applied `revision`, and opens no request to `instance` until a later publication.

    The counts were read after the withdrawal was applied. `robots` are those of `total` that keep nothing awake.
    `flowing`: bytes passed on streams that keep it awake while they do, since the node last reported activity.
    """

    generation: str
    instance: str
    revision: int
    in_flight: int
    streams: int
    idle_streams: int = 0
    flowing: bool = False
    total: int
    robots: int = 0


class NodeAcknowledgement(BaseModel):
    """The newest acknowledgement of one node for a withdrawal; null counts where it has not said so yet."""

    node: str
    state: Literal["live", "silent"]
    acknowledged: bool
    generation: str | None = None
    in_flight: int | None = None
    streams: int | None = None
    idle_streams: int | None = None
    flowing: bool = False
    total: int | None = None
    robots: int | None = None


class Withdrawal(BaseModel):
    """How far every registered node has come with the withdrawal of `instance` at `revision`."""

    instance: str
    revision: int
    nodes: list[NodeAcknowledgement]

    @property
    def acknowledged(self) -> bool:
        """Whether every registered node has acknowledged."""
        return all(node.acknowledged for node in self.nodes)

    @property
    def drained(self) -> bool:
        """Whether every registered node has acknowledged with nothing in flight."""
        return all(node.acknowledged and node.in_flight == 0 for node in self.nodes)

    @property
    def drained_but_streams(self) -> bool:
        """Whether all that is still in flight is WebSockets and event streams."""
        return all(node.acknowledged and node.in_flight == node.streams for node in self.nodes)


class NodeTotal(BaseModel):
    """What one node's NGINX generation ever sent to an instance; `robots` of them keep nothing awake."""

    node: str
    generation: str
    total: int
    robots: int = 0


class Activity(BaseModel):
    """One instance's activity on all nodes.

    `last_active` is the newest of all nodes, in Unix seconds; `active` counts the open requests that keep it awake.
    """

    instance: str
    in_flight: int
    active: int
    streams: int
    idle_streams: int = 0
    last_active: float | None
    totals: list[NodeTotal]


RouteChanges.model_rebuild()


async def _stored(pieces: AsyncIterator[str]) -> AsyncIterator[StoredRoute]:
    try:
        async for item in decode_pieces(pieces):
            yield StoredRoute(**item)
    except ValueError as error:
        raise Unreachable(f"The list of routes broke off, or is none: {error}") from error


class CeryxClient(ApiClient):
    """Ceryx's API."""

    async def put_route(self, route: Route, *, expect: int | None = None) -> int:
        """Write one route and return its revision; it is served by all live nodes when this returns."""
        headers = {} if expect is None else {"If-Match": f'"{expect}"'}
        answer = await self.request(
            "PUT",
            f"/api/routes/{segment(route.source)}/",
            body=route.model_dump(exclude_none=False),
            headers=headers,
            wait=5,
        )
        return int(answer.headers["ETag"].strip('"'))

    async def get_route(self, source: str) -> StoredRoute:
        """Return one route. Raises NotFound."""
        answer = await self.request("GET", f"/api/routes/{segment(source)}/")
        return StoredRoute(**answer.json(), revision=int(answer.headers["ETag"].strip('"')))

    async def delete_route(self, source: str) -> None:
        """Delete one route; one that is absent is no error."""
        await self.request("DELETE", f"/api/routes/{segment(source)}/", wait=5)

    async def list_routes(self, managed_by: str | None = None, *, prefix: str = "") -> tuple[list[StoredRoute], int]:
        """Return all routes, or those of one manager or with a prefix, and the revision at which all were read.

        Raises:
            HistoryCompacted: that revision was forgotten before all was read, again and again.
        """
        for _ in range(LIST_ATTEMPTS - 1):
            with suppress(HistoryCompacted):
                return await self._list_once(managed_by, prefix)
        return await self._list_once(managed_by, prefix)

    async def _list_once(self, managed_by: str | None, prefix: str) -> tuple[list[StoredRoute], int]:
        pages = [page async for page in self.route_pages(managed_by, prefix=prefix)]
        return [route for routes, _ in pages for route in routes], pages[0][1]

    async def route_pages(
        self, managed_by: str | None = None, *, prefix: str = "", limit: int = LISTED_AT_ONCE
    ) -> AsyncIterator[tuple[list[StoredRoute], int]]:
        """Give routes in the order of their sources, in pages with the revision at which all of them are read.

        Args:
            managed_by: only those of this manager.
            prefix: only those whose source begins so.
            limit: routes of one page, 10,000 at most.

        Raises:
            HistoryCompacted: that revision is no longer kept: begin again.
        """
        params: dict[str, Any] = {"revisions": "true", "limit": limit, "managed_by": managed_by, "prefix": prefix}
        while params:
            answer = await self.request("GET", "/api/routes/", params=params, wait=60)
            # In steps: thousands at once would stall everything else in this process.
            routes = [StoredRoute(**item) async for item in in_steps(decode_array(answer.text))]
            yield routes, int(answer.headers["Lair-Revision"])
            params = dict(httpx.QueryParams(urlsplit(answer.links.get("next", {}).get("url", "")).query))

    @asynccontextmanager
    async def routes(self, silence: float) -> AsyncIterator[tuple[AsyncIterator[StoredRoute], int]]:
        """Give all routes while they come, and the revision at which they are read.

        A million of them as one list take three gigabytes.

        Args:
            silence: seconds without a byte after which the list counts as broken.
        """
        params = {"revisions": "true"}
        async with self.stream("GET", "/api/routes/", params=params, silence=silence) as answer:
            yield _stored(answer.aiter_text()), int(answer.headers["Lair-Revision"])

    async def batch(self, writes: Sequence[RouteWrite], *, managed_by: str | None = None) -> BatchResult:
        """Do all writes or none, at one revision; answered when all live nodes serve it.

        Args:
            writes: 10,000 at most.
            managed_by: who writes; routes of another are a Conflict.

        Raises:
            PreconditionFailed: an `expect` did not hold; `source` and `revision` of the first are in `extra`.
            Conflict: a route is managed by another.
        """
        parts = [to_json(write) async for write in in_steps(writes)]
        content = b'{"managed_by":%s,"writes":[%s]}' % (to_json(managed_by), b",".join(parts))
        answer = await self.request("POST", "/api/routes:batch", content=content, wait=5)
        return BatchResult(**answer.json())

    async def withdrawal(
        self,
        instance: str,
        revision: int,
        *,
        until: Literal["acknowledged", "drained", "quiet"],
        wait: float = 0.0,
    ) -> Withdrawal:
        """Ask all registered nodes to acknowledge a withdrawal.

        Args:
            instance: whose target was withdrawn.
            revision: of the withdrawal.
            until: answer as soon as all have `acknowledged`, are `drained`, or are `quiet` (but for streams).
            wait: seconds after which it answers anyhow.
        """
        params: dict[str, Any] = {"revision": revision, "until": until, "wait": wait}
        answer = await self.request("GET", f"/api/instances/{segment(instance)}/withdrawal", params=params, wait=wait)
        return Withdrawal(**answer.json())

    async def activity(self, instances: Sequence[str]) -> list[Activity]:
        """Return the activity of these instances, in the same order."""
        answer = await self.request("POST", "/api/activity", body={"instances": list(instances)})
        return [Activity(**item) for item in answer.json()]

    async def nodes(self) -> list[Node]:
        """Return all registered nodes."""
        answer = await self.request("GET", "/api/nodes/")
        return [Node(**item) for item in answer.json()]

    async def register_node(self, node: str, home: str | None = None) -> Node:
        """Register a node, durably, before it takes its snapshot.

        Args:
            node: its name.
            home: an id of where it keeps what it knows, by which it is told from others of that name.

        Raises:
            Conflict: another node has this name.
        """
        answer = await self.request("PUT", f"/api/nodes/{segment(node)}/", params={"home": home})
        return Node(**answer.json())

    async def remove_node(self, node: str) -> None:
        """Forget a node that is dead: whatever it has still to acknowledge counts as done."""
        await self.request("DELETE", f"/api/nodes/{segment(node)}/")

    async def report(self, node: str, report: NodeReport) -> None:
        """Say how far this node is. Raises NotFound where the node was removed: register anew."""
        await self.request("PUT", f"/api/nodes/{segment(node)}/report", body=report.model_dump())

    async def acknowledge(self, node: str, acknowledgements: Sequence[Acknowledgement]) -> None:
        """Answer asks."""
        await self.request(
            "POST",
            f"/api/nodes/{segment(node)}/acknowledgements",
            body=[item.model_dump() for item in acknowledgements],
        )
