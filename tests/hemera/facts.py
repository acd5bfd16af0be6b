"""Servers and activities as plain facts, at a time that stands still."""

from __future__ import annotations

from typing import Any

from sourcelair.client.ceryx import Activity
from sourcelair.client.policy import Policy, SleepPolicy
from sourcelair.client.servers import Instance, Server, Spec

NOW = 10_000.0


def server(sleep: dict[str, Any] | None = None, **facts: Any) -> Server:
    """Return an awake server that is stopped after 60 s.

    Args:
        sleep: its policy in effect, besides.
        facts: `awake_at`, `thawed_at`, `busy_until` and `extended_until` are of its instance, all others of the server.
    """
    names = ("busy_until", "extended_until", "thawed_at")
    of_instance = {name: facts.pop(name) for name in names if name in facts}
    instance = Instance(id="i1", awake_at=facts.pop("awake_at", NOW - 1000), **of_instance)
    values: dict[str, Any] = {
        "owner": "demo", "project": "blog", "url": "http://blog--demo.localhost", "hosts": ["blog--demo.localhost"],
        "spec": Spec(), "enabled": True, "always_on": False, "desired": "awake", "state": "awake",
        "instance": instance, "revision": 1, "created_at": 0.0, "changed_at": NOW - 1000,
        "policy": Policy(sleep=SleepPolicy(**{"stop_after": 60.0, "warn_before": 30.0, **(sleep or {})})), **facts,
    }  # fmt: skip
    return Server(**values)


def activity(**changes: Any) -> Activity:
    facts: dict[str, Any] = {
        "instance": "i1", "in_flight": 0, "active": 0, "streams": 0, "last_active": None, "totals": [], **changes,
    }  # fmt: skip
    return Activity(**facts)
