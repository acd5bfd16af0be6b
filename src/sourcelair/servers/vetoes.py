"""The check before sleep: the app itself is asked, straight at its instance, and may say no."""

from __future__ import annotations

import asyncio

from sourcelair.servers.drains import is_disturbed
from sourcelair.servers.probing import NoAnswer, ask
from sourcelair.servers.worker import Worker


async def veto(worker: Worker) -> str | None:
    """Return why the app does not want to sleep; None where it does, or nobody asks it.

    Raises:
        Interrupted: something happened meanwhile that counts more.
    """
    path = worker.record.policy.sleep.check
    if not path:
        return None
    try:
        async with asyncio.timeout(worker.context.settings.check_timeout):
            return await worker.race(_ask(worker, path), lambda: is_disturbed(worker) or worker.relisten)
    except TimeoutError:
        return f"it did not answer GET {path} within {worker.context.settings.check_timeout:g} s"


async def _ask(worker: Worker, path: str) -> str | None:
    found, instance = worker.found, worker.record.instance
    listener = None
    if found is not None and instance is not None:
        listener = await worker.driver.listener(found, instance.port)
    if listener is None:
        return "it does not listen, and can't be asked whether it may sleep"
    try:
        timeout = worker.context.settings.check_timeout
        status = await ask(listener, worker.hosts[0], path, timeout=timeout, agent="lair-check")
    except NoAnswer as error:
        return f"it did not answer GET {path}: {error}"
    return None if 200 <= status < 300 else f"it answered {status} to GET {path}"
