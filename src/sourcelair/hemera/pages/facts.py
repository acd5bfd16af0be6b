"""What a page tells of a server, in words for a person: how far its wake is, or why there is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from sourcelair.client.servers import Server

PageState = Literal["starting", "failed", "disabled", "unknown-host", "rate-limited"]
Stage = Literal["queued", "starting", "listening", "ready"]

STEPS: tuple[tuple[Stage, str], ...] = (
    ("queued", "Queued"),
    ("starting", "Starting"),
    ("listening", "Connecting"),
    ("ready", "Ready"),
)

HEADINGS: dict[PageState, str] = {
    "starting": "Waking up",
    "failed": "This server did not start",
    "disabled": "This server is switched off",
    "unknown-host": "Nothing is here yet",
    "rate-limited": "Too many at once",
}

REFRESH = 2
"""Seconds after which a browser without JavaScript asks again."""

RARELY = 30
"""Seconds for `Retry-After` where nothing is going to change by itself."""

MOST_OF_A_REASON, MOST_OF_A_LOG, MOST_OF_A_PATH = 300, 2500, 500
"""Characters that a page shows of why a start failed, and of its log; and of a path that the button leads back to."""


@dataclass(frozen=True)
class Facts:
    """What is told. `elapsed` and `usual` in seconds since the wake began; `retry` in seconds, None for never."""

    state: PageState
    host: str
    path: str = "/"
    stage: Stage = "queued"
    said: str = ""
    place: int | None = None
    elapsed: float | None = None
    usual: float | None = None
    retry: int | None = REFRESH
    log: list[str] = field(default_factory=list)
    failed_at: str | None = None
    given_up: bool = False
    late: bool = False
    changed: int = 0
    owner: str = ""
    project: str = ""

    @property
    def heading(self) -> str:
        """The title of the page."""
        return HEADINGS[self.state]

    @property
    def retry_after(self) -> int:
        """Seconds for the header."""
        return self.retry or RARELY

    @property
    def time(self) -> str:
        """The time that it took until now, against what is usual."""
        if self.elapsed is None:
            return ""
        elapsed, usual = round(self.elapsed), round(self.usual or 0)
        if not usual:
            return f"{elapsed} s"
        return (
            f"{elapsed} s, longer than the usual {usual} s" if elapsed > usual else f"{elapsed} s of usually {usual} s"
        )


def state_of(server: Server | None) -> PageState:
    """Return what visitors are told: `unknown-host`, `disabled`, `failed` or `starting`."""
    if server is None:
        return "unknown-host"
    if not server.enabled:
        return "disabled"
    if server.state not in {"failed", "asleep"}:
        return "starting"
    held_back = server.given_up or (server.retry_at is not None and server.retry_at > time.time())
    if held_back or (server.state == "failed" and server.desired != "awake"):
        return "failed"
    return "starting"


def stage_of(server: Server) -> Stage:
    """Return which step of a wake it is at."""
    if server.state == "awake":
        return "ready"
    if server.state == "starting":
        return "listening" if server.instance and server.instance.listening else "starting"
    return "starting" if server.state == "dozing" else "queued"


def said_of(server: Server | None, place: int | None = None) -> str:
    """Return where its wake is, as a sentence."""
    if server is None:
        return "Looking for it."
    if server.state in {"draining", "stopping"}:
        return "Finishing its last run."
    stage = stage_of(server)
    if stage == "queued":
        return f"Waiting for its turn: place {place}." if place else "Waiting for its turn."
    if stage == "listening":
        return "It is up, and gets ready for you."
    return "Ready." if stage == "ready" else "Starting up."


def waiting(
    server: Server | None, host: str, path: str, *, place: int | None = None, elapsed: float | None = None
) -> Facts:
    """Return what is told while a server wakes; without one, while nobody knows yet which one that is."""
    if server is None:
        return Facts("starting", host, path, said=said_of(None))
    return Facts(
        "starting",
        host,
        path,
        stage=stage_of(server),
        said=said_of(server, place),
        place=place,
        elapsed=None if elapsed is None else round(elapsed, 1),
        usual=server.usual_start,
        late=server.state == "awake",
        owner=server.owner,
        project=server.project,
    )


def failed(server: Server, host: str, path: str) -> Facts:
    """Return what is told of a failed start. Its log may hold secrets: it is shown where its policy says so."""
    retry = None
    if not server.given_up:
        retry = max(REFRESH, round((server.retry_at or 0) - time.time()) + 1)
    reason = (server.failure or "nobody saw why")[:MOST_OF_A_REASON]
    return Facts(
        "failed",
        host,
        path,
        said=f"{reason[:1].upper()}{reason[1:]}.",
        retry=retry,
        log=_last(server.failure_log) if server.policy.wake.show_log is not False else [],
        failed_at=datetime.fromtimestamp(server.changed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        given_up=server.given_up,
        changed=changed(server),
        owner=server.owner,
        project=server.project,
    )


def changed(server: Server) -> int:
    """Return when its state changed, in milliseconds."""
    return round(server.changed_at * 1000)


def down(server: Server | None, host: str, path: str) -> Facts:
    """Return what is told where a visit wakes nothing: it is switched off, or there is none."""
    if server is None:
        said = "No server has this address. Check the spelling, or create it first."
        return Facts("unknown-host", host, path, said=said, retry=RARELY)
    said = "Its owner has switched it off. Visiting does not wake it."
    return Facts("disabled", host, path, said=said, retry=RARELY, owner=server.owner, project=server.project)


def rate_limited(server: Server | None, host: str, path: str, retry: int) -> Facts:
    """Return what is told to who has woken too many: it may be tried again in `retry` seconds."""
    return Facts(
        "rate-limited",
        host,
        path,
        said="You, or somebody on your network, opened many servers at once. This one has to wait a little.",
        retry=max(1, retry),
        owner=server.owner if server else "",
        project=server.project if server else "",
    )


def _last(lines: list[str]) -> list[str]:
    """Return as many of the last lines as a page has room for."""
    kept: list[str] = []
    room = MOST_OF_A_LOG
    for line in reversed(lines):
        room -= len(line.encode()) + 1 + 4 * sum(line.count(character) for character in "&<>\"'")
        if room < 0:
            break
        kept.append(line)
    return kept[::-1]
