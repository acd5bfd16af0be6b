"""Which route a request gets, beside a model: any set of routes, and any order in which they come and go."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ceryx.nginx.conftest import StartProxy
from tests.ceryx.nginx.world import Proxy

pytestmark = pytest.mark.anyio

HOSTS = ["a.b.c", "b.c", "*.b.c", "*.c", "$wildcard"]
PATHS = ["", "/x", "/x/y", "/z", "/x/y/z/1/2/3/4/5"]
ASKED_HOSTS = ["a.b.c", "b.c", "z.b.c", "q.z.b.c", "c", "elsewhere"]
ASKED_PATHS = ["/", "/x", "/x/", "/x/y?z", "/x/yy", "/zz/x", "/x/y/z/1/2/3/4/5/6/7", "/z//x", "/%78/y"]


class Change(NamedTuple):
    """A route that comes, or goes."""

    source: str
    is_there: bool


CHANGES = st.builds(
    Change, st.builds("{}{}".format, st.sampled_from(HOSTS), st.sampled_from(PATHS)), st.booleans() | st.just(True)
)


def chosen(routes: set[str], host: str, path: str) -> str | None:
    """Return the source that a request gets, by the words of the reference."""
    labels = host.split(".")
    hosts = [host, *("*." + ".".join(labels[at:]) for at in range(1, len(labels))), "$wildcard"]
    path = path.partition("?")[0].replace("%78", "x")
    for one in hosts:
        fitting = [prefix for prefix in PATHS if one + prefix in routes and f"{path}/".startswith(f"{prefix}/")]
        if fitting:
            return one + max(fitting, key=len)
    return None


async def ask(proxy: Proxy, host: str, path: str) -> str | None:
    found = await proxy.request(host, path=path)
    if found.status == 301:
        return found.headers["location"].removeprefix("http://to/").partition("|")[0]
    assert found.state == "unknown-host", (host, path, found)
    return None


async def test_the_most_specific_route_is_chosen(start_proxy: StartProxy) -> None:
    """After every change; and when all are gone the table is as empty as before the first."""
    proxy = await start_proxy(nginx_workers=1)
    await proxy.open()
    loop = asyncio.get_running_loop()

    async def play(changes: list[Change], visits: list[tuple[str, str]]) -> None:
        there = set[str]()
        touched = {change.source for change in changes}
        for change in [*changes, *(Change(source, False) for source in touched)]:
            (there.add if change.is_there else there.discard)(change.source)
            state = "redirect" if change.is_there else "deleted"
            await proxy.put(change.source, state, location=f"http://to/{change.source}|")
            for host, path in visits:
                assert await ask(proxy, host, path) == chosen(there, host, path), (there, host, path)
            assert (await proxy.control.hello(1)).routes == len(there)
        left = await proxy.control.read(HOSTS)
        assert all(entry is None or entry.revision > 0 for entry in left), "a host without routes still has an entry"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(CHANGES, min_size=1, max_size=12),
        st.lists(st.tuples(st.sampled_from(ASKED_HOSTS), st.sampled_from(ASKED_PATHS)), min_size=3, max_size=6),
    )
    def run(changes: list[Change], visits: list[tuple[str, str]]) -> None:
        asyncio.run_coroutine_threadsafe(play(changes, visits), loop).result(60)

    await asyncio.to_thread(run)
