"""What the SourceLair API stores: servers, the hosts that they claimed, and the ports that were given out.

Every record carries the schema version that wrote it; a newer one is refused, an older one would be migrated here.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from sourcelair.client.policy import Policy
from sourcelair.client.servers import Desired, Exit, Spec, State, Timing
from sourcelair.errors import Unavailable
from sourcelair.store.base import Entry

SCHEMA = 1

SERVERS, HOSTS, PORTS = "/servers/", "/hosts/", "/ports/"
OWNERS, STARTS = "/owners/", "/starts/"

Drain = Literal["idle", "doze", "explicit", "exit"]
"""Why it is withdrawn: to be stopped or frozen while nobody uses it, to be stopped whoever does, because it ended."""


class InstanceRecord(BaseModel):
    """One run of a server. `id` is never reused; the handle is the driver's, null until it was published once.

    `driver` is the one that started it: its spec may name another by now.
    """

    id: str
    port: int
    driver: str | None = None
    host: str | None = None
    pid: int | None = None
    handle: dict[str, Any] | None = None
    started_at: float
    listening: bool = False
    awake_at: float | None = None
    thawed_at: float | None = None
    busy_until: float | None = None
    extended_until: float | None = None


class ServerRecord(BaseModel):
    """A server as it is stored; the fields that `client.servers.Server` has too mean the same.

    `stop_instance` names the instance that an explicit stop is for; `removing` says that it is to be forgotten once
    nothing of it runs. `stopped_at` (Unix seconds) is when a user last stopped it, null once it is wanted again.
    `drain` is the kind of a drain that is under way, and `drain_until` (Unix seconds) its end. `failures` counts
    failed starts in a row. `policy` is what is in effect: it is not stored, but made of the spec,
    the owner's defaults and the settings whenever one of them is read or changes.
    """

    schema_version: int = SCHEMA
    owner: str
    project: str
    spec: Spec
    hosts: list[str] = []
    enabled: bool = True
    always_on: bool = False
    desired: Desired = "asleep"
    state: State = "asleep"
    cause: str | None = None
    actor: str | None = None
    instance: InstanceRecord | None = None
    stop_instance: str | None = None
    stopped_at: float | None = None
    removing: bool = False
    drain: Drain | None = None
    drain_until: float | None = None
    failure: str | None = None
    failure_log: list[str] = []
    failures: int = 0
    retry_at: float | None = None
    given_up: bool = False
    usual_start: float | None = None
    policy: Policy = Field(default_factory=Policy, exclude=True)
    last_exit: Exit | None = None
    timing: Timing | None = None
    route_revision: int | None = None
    created_at: float
    changed_at: float

    @property
    def name(self) -> str:
        """`owner/project`."""
        return f"{self.owner}/{self.project}"

    @property
    def key(self) -> str:
        """The store's key."""
        return server_key(self.owner, self.project)

    @property
    def instance_id(self) -> str | None:
        """The id of the instance that there is, or is being made."""
        return self.instance.id if self.instance else None


class OwnerRecord(BaseModel):
    """What an owner says once for all of its servers."""

    schema_version: int = SCHEMA
    owner: str
    policy: Policy


class StartsRecord(BaseModel):
    """How long a server's cold starts took: the last 20, newest first, and how many fell into each bucket ever."""

    schema_version: int = SCHEMA
    last: list[Timing] = []
    histogram: list[int] = []


class HostRecord(BaseModel):
    """A public host, claimed by one server."""

    schema_version: int = SCHEMA
    owner: str
    project: str


class PortRecord(BaseModel):
    """A port that was given out, until it is proven that nobody sends to that instance any more.

    `withdrawn` is the revision of the withdrawal; null while the instance may still be published.
    """

    schema_version: int = SCHEMA
    instance: str
    withdrawn: int | None = None


R = TypeVar("R", bound=BaseModel)


def server_key(owner: str, project: str) -> str:
    """Return the store's key of a server."""
    return f"{SERVERS}{owner}/{project}"


def encode(record: BaseModel) -> bytes:
    """Return a record as it is stored."""
    return record.model_dump_json().encode()


def decode(model: type[R], entry: Entry) -> R:
    """Return a stored record.

    Raises:
        Unavailable: a newer version of SourceLair wrote it, or somebody else.
    """
    try:
        values = json.loads(entry.value)
        schema = values.get("schema_version", SCHEMA)
        is_newer = schema > SCHEMA  # before anything else: a newer one may have any fields
        record = None if is_newer else model.model_validate(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unavailable(f"{entry.key} is no record of SourceLair: delete it, or restore a backup.") from error
    if record is None:
        raise Unavailable(
            f"{entry.key} was written by a newer version of SourceLair (schema {schema}, this one knows {SCHEMA}): "
            "run that version, or restore an older data directory."
        )
    return record
