"""What one process runs of the system: all of it, or a part, beside others that share its store."""

from __future__ import annotations

from dataclasses import dataclass

SERVICES = ("ceryx", "servers", "hemera")
"""The services. At most one process acts for each at any moment."""

_PATHS = {
    "ceryx": ("/api/routes", "/api/nodes", "/api/instances", "/api/activity"),
    "servers": ("/api/servers", "/api/owners", "/api/events", "/api/instance"),
    "hemera": ("/waker", "/api/time-left"),
}


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is for.

    Args:
        name: for files, and for people.
        services: that it acts for, once it is its turn.
        proxy: whether it runs a proxy node: an NGINX with its agent.
    """

    name: str
    services: tuple[str, ...]
    proxy: bool

    @property
    def is_all(self) -> bool:
        """Whether nothing else is needed."""
        return self.proxy and self.services == SERVICES


EVERYTHING = Role("up", SERVICES, proxy=True)
CERYX = Role("ceryx", ("ceryx",), proxy=True)
CERYX_API = Role("ceryx-api", ("ceryx",), proxy=False)
CERYX_PROXY = Role("ceryx-proxy", (), proxy=True)
API = Role("api", ("servers",), proxy=False)
HEMERA = Role("hemera", ("hemera",), proxy=False)


def service_of(path: str) -> str | None:
    """Return the service that answers a path; None for what every process answers by itself."""
    for service, prefixes in _PATHS.items():
        for prefix in prefixes:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/", ":"}:
                return service
    return None
