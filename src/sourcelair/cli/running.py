"""Running one process of the system in the foreground, whatever its role."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from sourcelair.cli import output
from sourcelair.cli.session import Session

if TYPE_CHECKING:
    from sourcelair.cli.system.directory import DataDirectory
    from sourcelair.cli.system.roles import Role
    from sourcelair.settings import Settings

GARBAGE = (10_000, 10, 10)
"""New objects after which Python looks for cycles that nobody has any more, and such looks until an older generation's.
With its own 700, a start with many routes spends a sixth of its time on that, and stands still for a tenth of a second.
"""


def run(session: Session, directory: DataDirectory, role: Role, *, take_over: bool = False) -> None:
    """Run until a signal comes.

    Args:
        session: of the command.
        directory: prepared, not locked.
        role: of the process.
        take_over: servers are at home in this data directory from now on.
    """
    import uvloop

    from sourcelair.telemetry import configure_logging

    settings = session.settings
    directory.lock(role)
    try:
        configure_logging(settings.log_format, settings.log_level)
        gc.set_threshold(*GARBAGE)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(session, settings, directory, role, take_over))
    finally:
        directory.unlock()


async def _serve(session: Session, settings: Settings, directory: DataDirectory, role: Role, take_over: bool) -> None:
    from sourcelair.cli.system.system import System

    started = time.monotonic()
    say = (lambda _: None) if session.as_json else output.line
    system = System(settings, directory, role, say, take_over=take_over)
    _warn_if_public(session, settings)

    async def ready() -> None:
        # One that stands by asks nobody: who acts may be gone at any moment.
        acts = role.is_all and system.services.servers is not None
        demo = await _demo(settings, directory, system.api_url, system.service_token) if acts else []
        facts = {**_facts(settings, role), "demo": demo, "abilities": sorted(system.abilities)}
        directory.announce(facts)
        gc.freeze()  # what came up stays: it is not looked at again and again
        say(f"Up in {time.monotonic() - started:.1f} s.")
        if role.is_all or session.as_json:
            tell(session, settings, facts)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: system.stop(everything=True))
    for name in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, lambda: system.stop(everything=False))
    try:
        await system.run(ready)
    finally:
        directory.renounce()
    say("Stopped.")


async def _demo(settings: Settings, directory: DataDirectory, api_url: str, token: str) -> list[str]:
    """Create the sample projects, if they are wanted; return the URLs of those that there are."""
    from sourcelair.cli.system.demo import create_demo, demo_servers
    from sourcelair.client.servers import ServersClient

    async with ServersClient(api_url, token) as client:
        if settings.demo:
            await create_demo(client, directory)
        return [server.url for server in await demo_servers(client)]


def _facts(settings: Settings, role: Role) -> dict[str, Any]:
    """What `running.json` and `lair up --json` say."""
    facts: dict[str, Any] = {"process": os.getpid()}
    if role.services:
        facts |= {"api_listen": settings.api_listen}
    if role.proxy:
        facts |= {"listen": settings.listen, "node": settings.node}
    return {**facts, "domain": settings.domain}


def tell(session: Session, settings: Settings, facts: dict[str, Any], *, background: bool = False) -> None:
    """Print where things are and how to go on."""
    if session.as_json:
        output.as_json({**facts, "data_dir": str(settings.data_dir)})
        return
    if facts["demo"]:
        output.line("\nOpen in a browser (the first visit wakes the server):")
        for url in facts["demo"]:
            output.line(f"  {url}")
    lair = output.program()
    output.line("\nGo on with:")
    output.line(f"  {lair} create demo/blog --dir . -- python3 -m http.server {{port}}")
    output.line(f"  {lair} ls")
    output.line(f"{f'  {lair} down' if background else '  Ctrl-C':<21}stops everything")


def _warn_if_public(session: Session, settings: Settings) -> None:
    """Say what it means when the APIs are not on loopback."""
    import ipaddress

    from sourcelair.settings import split_address

    host, _ = split_address(settings.api_listen)
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        output.warn(
            f"the APIs listen on {settings.api_listen}: who has a token can run commands on this machine, "
            "and tokens travel unencrypted. Put TLS in front, or keep them on 127.0.0.1.",
            in_json=session.as_json,
        )
