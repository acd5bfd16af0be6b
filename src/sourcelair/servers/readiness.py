"""From spawned to ready: where the instance itself listens, and then that the app itself answers HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sourcelair.client.servers import Readiness
from sourcelair.servers.drivers.base import Driver, Found, Listener
from sourcelair.servers.probing import NoAnswer, ask

FIRST_LOOK, LONGEST_LOOK, LATER = 0.001, 0.02, 0.01
"""Seconds between looks for the listener, which sends no event: at least, at most, and as a part of what it took."""

FIRST_PROBE, LONGEST_PROBE = 0.005, 0.1
"""Seconds between probes that were answered with "not yet"."""

NOT_YET = {502, 503, 504}


async def until_listening(driver: Driver, found: Found, port: int) -> Listener:
    """Return where the instance listens on its port, as soon as it does."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (listener := await driver.listener(found, port)) is None:
        pause = min(max(FIRST_LOOK, (loop.time() - began) * LATER), LONGEST_LOOK)
        await asyncio.sleep(pause)
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
    while True:
        try:
            status = await ask(listener, host, readiness.path, timeout=readiness.probe_timeout, agent="lair-probe")
            if status in readiness.status if readiness.status else status not in NOT_YET:
                return
            answered(f"it answered {status} to GET {readiness.path}")
        except TimeoutError:
            answered(f"it took more than {readiness.probe_timeout:g} s to answer GET {readiness.path}")
        except NoAnswer as error:
            answered(f"it did not answer HTTP: {error}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PROBE)
