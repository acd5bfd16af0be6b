"""A proxy node without its API: NGINX and the agent of an installation whose control plane is down.

`lair up` is all of it in one process; on several machines this is what runs beside each NGINX. Settings come from the
installation's environment.
"""

from __future__ import annotations

import asyncio
import gc

import uvloop

from sourcelair.ceryx.agent import Agent
from sourcelair.ceryx.nginx.control import NginxControl
from sourcelair.ceryx.nginx.engine import NginxEngine
from sourcelair.cli.running import GARBAGE
from sourcelair.client.ceryx import CeryxClient
from sourcelair.settings import load_settings


async def run() -> None:
    """Run both for as long as this process runs; NGINX goes on after that."""
    settings = load_settings()
    directory = settings.data_dir
    tokens = {name: (directory / f"{name}.token").read_text().strip() for name in ("service", "waker")}
    engine = NginxEngine(settings, directory / "nginx")
    api = f"http://{settings.api_listen}"
    async with CeryxClient(api, tokens["service"]) as ceryx, asyncio.TaskGroup() as tasks:
        agent = Agent(
            settings,
            ceryx,
            NginxControl(engine.control_socket),
            directory=directory / "agent",
            waker=f"{api}/waker",
            waker_token=tokens["waker"],
        )
        tasks.create_task(engine.run())
        tasks.create_task(agent.run())


if __name__ == "__main__":
    gc.set_threshold(*GARBAGE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
