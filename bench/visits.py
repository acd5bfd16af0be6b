"""Visits one by one: until a host is served, or all the time while something is done to the proxy."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

AGAIN = 0.005
"""Seconds between two tries where nobody listens yet."""

EVERY = 0.01
"""Seconds between visits that go on all the time."""

LONGEST = 60.0
"""Seconds that a visit, or everything until a host is served, may take."""


def served(port: int, host: str, timeout: float = LONGEST) -> bool:
    """Visit a host once, by a connection of its own; return whether its server answered.

    Raises:
        OSError: there is no connection, or it broke.
        http.client.HTTPException: what came is no answer.
    """
    visit = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        visit.request("GET", "/", headers={"Host": host, "User-Agent": "bench"})
        answer = visit.getresponse()
        answer.read()
        return answer.status == 200
    finally:
        visit.close()


def until_served(port: int, hosts: Sequence[str], began: float, longest: float = LONGEST) -> list[float]:
    """Visit hosts, side by side, until each is served; return the seconds since `began` (monotonic) for each.

    Raises:
        RuntimeError: one is not in time.
    """

    def wait(host: str) -> float:
        while time.monotonic() < began + longest:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if served(port, host):
                    return time.monotonic() - began
            time.sleep(AGAIN)
        raise RuntimeError(f"{host} is not served after {longest:g} s")

    with ThreadPoolExecutor(len(hosts)) as threads:
        return list(threads.map(wait, hosts))


@dataclass
class Seen:
    """What visits saw that went on all the time."""

    visits: int = 0
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    """Seconds of the longest."""


@contextlib.contextmanager
def visiting(port: int, hosts: Sequence[str]) -> Iterator[Seen]:
    """Visit hosts in turn while something is done, a hundred times a second; what was seen is complete afterwards."""
    seen, over = Seen(), threading.Event()

    def visit() -> None:
        for host in itertools.cycle(hosts):
            if over.wait(EVERY):
                return
            began = time.monotonic()
            try:
                failure = "" if served(port, host) else "another answer than the server's"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
            seen.visits += 1
            seen.longest = max(seen.longest, time.monotonic() - began)
            if failure:
                seen.failures.append(failure)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
