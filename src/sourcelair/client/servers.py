"""The SourceLair API as its clients see it: servers, their specs, states and starts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sourcelair.client.arrays import decode_array
from sourcelair.client.ceryx import NodeTotal
from sourcelair.client.http import segment
from sourcelair.client.owners import OwnersClient
from sourcelair.client.policy import Limits, Policy, Seconds, SleepPolicy, Text, WakePolicy
from sourcelair.pacing import in_steps

State = Literal["asleep", "starting", "awake", "draining", "dozing", "stopping", "failed"]
Desired = Literal["awake", "asleep", "disabled"]


class Readiness(BaseModel):
    """When a server counts as ready: it answered HTTP itself. 502, 503 and 504 mean not yet, unless named here."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field("/", pattern=r"^/[^\s]*$", max_length=2000, description="Path that is asked for.")
    status: list[int] | None = Field(None, description="Statuses that mean ready; null: any but 502, 503 and 504.")
    probe_timeout: Seconds = Field(5.0, gt=0, le=300, description="Seconds that one probe may take.")
    start_timeout: Seconds | None = Field(None, gt=0, le=3600, description="Seconds from start to ready.")


class Spec(BaseModel):
    """How to run a server. `{port}` in the command becomes the port it must listen on, as does `$PORT` in its env."""

    model_config = ConfigDict(extra="forbid")

    driver: Text = "process"
    command: list[Text] = Field(default_factory=list, max_length=1000)
    directory: Text | None = None
    env: dict[Text, Text] = Field(default_factory=dict, max_length=1000)
    readiness: Readiness = Field(default_factory=Readiness)
    limits: Limits = Field(default_factory=Limits)
    sleep: SleepPolicy = Field(default_factory=SleepPolicy)
    wake: WakePolicy = Field(default_factory=WakePolicy)

    @property
    def policy(self) -> Policy:
        """What this spec itself says of sleeping, waking and limits."""
        return Policy(sleep=self.sleep, wake=self.wake, limits=self.limits)


class ServerInput(BaseModel):
    """Body of PUT: all that a user says of a server. `hosts` are further public hosts (administrators only)."""

    model_config = ConfigDict(extra="forbid")

    spec: Spec
    hosts: list[Text] = Field(default_factory=list, max_length=100)
    enabled: bool = True
    always_on: bool = False


class Instance(BaseModel):
    """One run of a server. Times in Unix seconds; host and port are where it was proven to listen."""

    id: str
    host: str | None = None
    port: int | None = None
    pid: int | None = None
    started_at: float | None = None
    listening: bool = Field(False, description="While it starts: it listens, and has not answered for a while.")
    awake_at: float | None = Field(None, description="When it was published for the first time.")
    thawed_at: float | None = Field(None, description="When it was thawed last, where it ever dozed.")
    busy_until: float | None = Field(None, description="Until when the app itself says that it is busy.")
    extended_until: float | None = Field(None, description="Until when somebody asked to keep it awake.")


class Timing(BaseModel):
    """Where the time of the last start went: milliseconds after it was asked for, null if not reached.

    `gate` is what came before: from the visitor's arrival until this API was asked. `thawed` is there instead of
    `queued` to `ready` where it only dozed.
    """

    gate: float | None = None
    queued: float | None = None
    stored: float | None = None
    spawned: float | None = None
    listening: float | None = None
    ready: float | None = None
    thawed: float | None = None
    published: float | None = None


class Exit(BaseModel):
    """How the last instance ended: `reason` is one line for a person, `at` Unix seconds."""

    instance: str
    reason: str
    code: int | None = None
    signal: int | None = None
    at: float
    expected: bool = False


class Server(BaseModel):
    """A server as the API shows it. Values of `spec.env` are shown as `***` in lists and events.

    `cause` says why it is in this state, and `actor` who brought that about (`visitor`, `admin`, `owner`, `service`,
    `hemera`, `schedule`, `policy`, `memory`, `instance`, `system`); `failure` why the last start failed, with the last
    lines of its log; `retry_at` (Unix seconds) when the next start may be tried; `given_up`: only a person may try
    again, or its spec must change. `policy` is what is in effect: its own, its owner's and the installation's.
    `usual_start` is the median of its last cold starts, in seconds.
    """

    owner: str
    project: str
    url: str
    hosts: list[str]
    spec: Spec
    enabled: bool
    always_on: bool
    desired: Desired
    state: State
    cause: str | None = None
    actor: str | None = None
    failure: str | None = None
    failure_log: list[str] = []
    retry_at: float | None = None
    given_up: bool = False
    usual_start: float | None = None
    policy: Policy = Field(default_factory=Policy)
    instance: Instance | None = None
    last_exit: Exit | None = None
    timing: Timing | None = None
    route_revision: int | None = None
    revision: int
    created_at: float
    changed_at: float


class StartRequest(BaseModel):
    """Body of `start`: who asks, and the instance to which a connect failed, if that is why.

    `since` (Unix seconds) is when the visitor came for whom it is asked. Only a cause of `user` passes by the
    back-off.
    """

    model_config = ConfigDict(extra="forbid")

    cause: Text = Field("user", max_length=200)
    failed_instance: Text | None = None
    failed_revision: int | None = None
    since: float | None = Field(None, ge=0, allow_inf_nan=False)


class SleepRequest(BaseModel):
    """Body of `sleep`, an idle stop: what the sleeper saw when it decided. Anything newer cancels it.

    `revision` is the server's, as it was known then; null: whatever it is by now. `last_active` (Unix seconds) is what
    the proxies said: bytes that pass on an open stream change no total.
    """

    model_config = ConfigDict(extra="forbid")

    instance: Text
    totals: list[NodeTotal]
    mode: Literal["stop", "doze"] = "stop"
    revision: int | None = None
    last_active: float | None = None


class SleepResult(BaseModel):
    """Whether it sleeps now, and why not."""

    slept: bool
    reason: str


class ExtendRequest(BaseModel):
    """Body of `extend`: keep it awake for so many seconds from now, used or not. 0 takes that back."""

    model_config = ConfigDict(extra="forbid")

    seconds: Seconds = Field(ge=0, le=30 * 86400)


class BusyRequest(BaseModel):
    """Body of `POST /api/instance/busy`, sent by the app itself: so many seconds from now. 0: not busy any more."""

    model_config = ConfigDict(extra="forbid")

    seconds: Seconds = Field(ge=0, le=30 * 86400)


class Busy(BaseModel):
    """Answer to an app that said whether it is busy: until when that counts, in Unix seconds."""

    busy_until: float | None


class WakeReport(BaseModel):
    """How long the cold starts of one server took, in milliseconds after they were asked for.

    `histogram` maps an upper bound (`10` to `60000`, and `inf`) to the number of starts up to it and above the one
    before; `usual` is the median of the last 20, `breakdown` the median of each step of them, `last` the newest first.
    """

    starts: int
    usual: float | None
    breakdown: Timing
    histogram: dict[str, int]
    last: list[Timing]


class ServerEvent(BaseModel):
    """One event of `/api/events`: a server changed. `server` is null when it was deleted."""

    revision: int
    owner: str
    project: str
    server: Server | None


class ServersClient(OwnersClient):
    """The SourceLair API."""

    @staticmethod
    def _path(owner: str, project: str, action: str = "") -> str:
        return f"/api/servers/{segment(owner)}/{segment(project)}/{action}"

    async def put(
        self, owner: str, project: str, server: ServerInput, *, create_only: bool = False, expect: int | None = None
    ) -> Server:
        """Create or update.

        Args:
            owner: its owner.
            project: its project.
            server: all that is said of it.
            create_only: it must not exist.
            expect: the revision that it must be at.

        Raises:
            PreconditionFailed: it is there, or at another revision.
        """
        headers = {"If-None-Match": "*"} if create_only else {} if expect is None else {"If-Match": f'"{expect}"'}
        answer = await self.request(
            "PUT", self._path(owner, project), body=server.model_dump(), headers=headers, wait=60
        )
        return Server(**answer.json())

    async def get(self, owner: str, project: str) -> Server:
        """Return one server. Raises NotFound."""
        return Server(**(await self.request("GET", self._path(owner, project))).json())

    async def list(self, *, host: str | None = None, prefix: str | None = None) -> list[Server]:
        """Return the servers that the token may see; with `host`, the one that answers there (or none).

        With `prefix` those whose name begins so; `OWNER/` for all of an owner.
        """
        answer = await self.request("GET", "/api/servers/", params={"host": host, "prefix": prefix}, wait=60)
        # In steps: thousands at once would stall everything else in this process.
        return [Server(**item) async for item in in_steps(decode_array(answer.text), 50)]

    async def start(self, owner: str, project: str, request: StartRequest, *, wait: float = 0.0) -> Server:
        """Start it (no more than once), and wait until it is awake.

        Returns:
            the server: `awake`, or still on its way when `wait` seconds are over.

        Raises:
            Conflict: it is disabled (`extra["state"] == "disabled"`).
            Unavailable: the start failed; `extra` has `state`, `log` and `retry_at`.
        """
        answer = await self.request(
            "POST",
            self._path(owner, project, "start"),
            body=request.model_dump(),
            params={"wait": wait},
            wait=wait,
        )
        return Server(**answer.json())

    async def stop(self, owner: str, project: str, *, wait: float = 60.0) -> Server:
        """Put it to sleep, whoever visits (an explicit stop); a later visit wakes it."""
        answer = await self.request("POST", self._path(owner, project, "stop"), params={"wait": wait}, wait=wait)
        return Server(**answer.json())

    async def restart(self, owner: str, project: str, *, wait: float = 60.0) -> Server:
        """Stop it explicitly and start a new instance."""
        answer = await self.request("POST", self._path(owner, project, "restart"), params={"wait": wait}, wait=wait)
        return Server(**answer.json())

    async def sleep(self, owner: str, project: str, request: SleepRequest) -> SleepResult:
        """Ask for an idle stop."""
        answer = await self.request("POST", self._path(owner, project, "sleep"), body=request.model_dump())
        return SleepResult(**answer.json())

    async def wake(self, owner: str, project: str) -> Server:
        """Wake it as a visitor would, without waiting for it.

        Raises:
            Conflict: it is disabled (`extra["state"] == "disabled"`).
            Unavailable: its last start failed, and it is not yet time for the next; `extra` has `retry_at`.
        """
        return Server(**(await self.request("POST", self._path(owner, project, "wake"))).json())

    async def extend(self, owner: str, project: str, seconds: float) -> Server:
        """Keep it awake for so many seconds from now, used or not; 0 takes that back. Raises Conflict: it sleeps."""
        body = ExtendRequest(seconds=seconds).model_dump()
        return Server(**(await self.request("POST", self._path(owner, project, "extend"), body=body)).json())

    async def busy(self, seconds: float) -> Busy:
        """Say with an instance's own token that it is busy for so many seconds from now; 0: not any more.

        Raises:
            NotFound: no server has this instance any more.
            Conflict: it is being stopped already.
        """
        body = BusyRequest(seconds=seconds).model_dump()
        return Busy(**(await self.request("POST", "/api/instance/busy", body=body)).json())

    async def report(self, owner: str, project: str) -> WakeReport:
        """Return how long its cold starts took."""
        return WakeReport(**(await self.request("GET", self._path(owner, project, "report"))).json())

    async def delete(self, owner: str, project: str, *, wait: float = 60.0) -> bool:
        """Stop it and forget it. Its directory is never touched.

        Returns:
            whether it is done; else it is still on its way after `wait` seconds.
        """
        answer = await self.request("DELETE", self._path(owner, project), params={"wait": wait}, wait=wait)
        return answer.status_code == 204

    async def logs(self, owner: str, project: str, *, lines: int = 100) -> str:
        """Return the last lines of its log."""
        params: dict[str, Any] = {"lines": lines}
        return (await self.request("GET", self._path(owner, project, "logs"), params=params)).text

    async def follow_logs(
        self, owner: str, project: str, *, lines: int = 100, newest: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Give the last lines of its log (with `newest`, of its newest instance only), and then all that comes.

        Raises:
            Unreachable: no answer came, or the stream broke.
        """
        params = {"lines": lines, "follow": "true", **({"newest": "true"} if newest else {})}
        async with self.stream("GET", self._path(owner, project, "logs"), params=params) as response:
            async for part in response.aiter_raw():
                yield part
