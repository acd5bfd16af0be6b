"""Stopping what outlives a control plane: the instances of project servers, and NGINX."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from sourcelair.cli.system.directory import DataDirectory

if TYPE_CHECKING:
    from sourcelair.servers.drivers.base import Driver, Found
    from sourcelair.settings import Settings

A_MOMENT = 1.0
"""Seconds after which a person who waits for the end wants to know that it can be had sooner."""


async def stop_instances(
    driver: Driver, grace: float, hurry: asyncio.Event | None = None, late: Callable[[], None] = lambda: None
) -> int:
    """Stop every instance of this installation at once, and return how many there were.

    Args:
        driver: finds and stops them.
        grace: seconds from the stop signal to the kill.
        hurry: when it is set, what still runs is killed without waiting.
        late: called once if that takes longer than a moment.
    """
    found = await driver.find_all()
    telling = asyncio.get_running_loop().call_later(A_MOMENT, late)
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in found:
                tasks.create_task(_stop(driver, one, grace, hurry))
    finally:
        telling.cancel()
    return len(found)


async def _stop(driver: Driver, found: Found, grace: float, hurry: asyncio.Event | None) -> None:
    polite = asyncio.ensure_future(driver.stop(found, grace))
    hurried = asyncio.ensure_future(hurry.wait() if hurry else asyncio.Event().wait())
    try:
        await asyncio.wait({polite, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not polite.done():
            await driver.stop(found, 0)
        await polite
    finally:
        hurried.cancel()


async def stop_leftovers(settings: Settings, directory: DataDirectory) -> tuple[int, bool]:
    """Stop what still runs of an installation without a control plane.

    The caller holds the directory's lock.

    Returns:
        how many instances were stopped, and whether NGINX was.
    """
    from sourcelair.ceryx.nginx.engine import NginxEngine
    from sourcelair.servers.drivers.process import ProcessDriver

    engine = NginxEngine(settings, directory.path / "nginx")
    was_running = engine.pid is not None
    await engine.stop()
    driver = ProcessDriver(directory.path / "instances", directory.installation())
    try:
        stopped = await stop_instances(driver, settings.stop_grace)
    finally:
        await driver.close()
    return stopped, was_running
