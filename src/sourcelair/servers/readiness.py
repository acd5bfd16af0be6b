"""From spawned to ready: where the instance itself listens, and then that the app itself answers HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from sourcelair.client.servers import Readiness
from sourcelair.servers.drivers.base import Driver, Found, Listener

FIRST_LOOK, LONGEST_LOOK = 0.002, 0.02
"""Seconds between looks for the listener, which sends no event: at first, and for one that takes long."""

FIRST_PROBE, LONGEST_PROBE = 0.005, 0.1
"""Seconds between probes that were answered with "not yet"."""

NOT_YET = {502, 503, 504}


async def until_listening(driver: Driver, found: Found, port: int) -> Listener:
    """Return where the instance listens on its port, as soon as it does."""
    pause = FIRST_LOOK
    while (listener := await driver.listener(found, port)) is None:
        await asyncio.sleep(pause)
        pause = min(pause * 1.05, LONGEST_LOOK)
    return listener


async def until_answering(listener: Listener, host: str, readiness: Readiness, answered: Callable[[str], None]) -> None:
    """Return as soon as the app gives the answer that means ready.

    Args:
        listener: where it listens.
        host: sent as `Host`: development servers check it.
        readiness: what to ask for.
        answered: told what it said that means "not yet", for the message to its user.
    """
    pause = FIRST_PROBE
    # The transport alone: a client would read a redirect's target and cookies, which may be anything.
    async with httpx.AsyncHTTPTransport(verify=False, trust_env=False) as transport:
        while True:
            try:
                status = await ask(
                    transport, listener, host, readiness.path, timeout=readiness.probe_timeout, agent="lair-probe"
                )
                if status in readiness.status if readiness.status else status not in NOT_YET:
                    return
                answered(f"it answered {status} to GET {readiness.path}")
            except httpx.TimeoutException:
                answered(f"it took more than {readiness.probe_timeout:g} s to answer GET {readiness.path}")
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # it may also be the path that is wrong
                answered(f"it did not answer HTTP: {error or type(error).__name__}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PROBE)


async def ask(
    transport: httpx.AsyncHTTPTransport, listener: Listener, host: str, path: str, *, timeout: float, agent: str
) -> int:
    """Return the status of an app's answer to GET, asked straight at its instance.

    Args:
        transport: to use.
        listener: where it listens.
        host: sent as `Host`.
        path: to ask for.
        timeout: seconds, of each step.
        agent: sent as `User-Agent`.

    Raises:
        httpx.HTTPError: it did not answer HTTP.
        httpx.InvalidURL: the path can't be asked for; so does ValueError.
    """
    address = f"[{listener.host}]" if ":" in listener.host else listener.host
    request = httpx.Request(
        "GET",
        f"http://{address}:{listener.port}{path}",
        headers={"Host": host, "User-Agent": agent, "Accept": "*/*", "Connection": "close"},
        extensions={"timeout": httpx.Timeout(timeout).as_dict()},
    )
    response = await transport.handle_async_request(request)
    await response.aclose()
    return response.status_code
