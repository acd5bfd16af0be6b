"""`lair up`: run everything, in the foreground or in the background."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session

if TYPE_CHECKING:
    from sourcelair.cli.system.directory import DataDirectory
    from sourcelair.client.servers import Server
    from sourcelair.settings import Settings

GARBAGE = (10_000, 10, 10)
"""New objects after which Python looks for cycles that nobody has any more, and such looks until an older generation's.
With its own 700, a start with many routes spends a sixth of its time on that, and stands still for a tenth of a second.
"""


@command
def up(
    session: Session,
    *,
    listen: Annotated[str | None, typer.Option(help="Public address (LAIR_LISTEN); default 127.0.0.1:8080.")] = None,
    domain: Annotated[str | None, typer.Option(help="Servers get {project}--{owner}.DOMAIN (LAIR_DOMAIN).")] = None,
    store: Annotated[str | None, typer.Option(help="etcd://HOST:PORT/PREFIX instead of files (LAIR_STORE).")] = None,
    demo: Annotated[bool | None, typer.Option("--demo/--no-demo", help="Create the two sample projects.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go to the background once it is up.")] = False,
) -> None:
    """Run everything: the three services, NGINX, and the servers that visitors wake.

    Ctrl-C stops all of it, project servers too. SIGTERM ends the control plane only: NGINX and the servers go on, and
    the next `lair up` takes them over.
    """
    session.flags.update(listen=listen, domain=domain, store=store, demo=demo)
    settings = session.settings
    from sourcelair.cli.system.directory import DataDirectory

    directory = DataDirectory(settings.data_dir)
    directory.prepare()
    if detach:
        from sourcelair.cli.system.background import start_in_background

        facts = start_in_background(settings, directory)
        _tell(session, settings, facts, background=True)
        return
    directory.lock()
    try:
        _run(session, settings, directory)
    finally:
        directory.unlock()


def _run(session: Session, settings: Settings, directory: DataDirectory) -> None:
    import uvloop

    from sourcelair.telemetry import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    gc.set_threshold(*GARBAGE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(session, settings, directory))


async def _serve(session: Session, settings: Settings, directory: DataDirectory) -> None:
    from sourcelair.cli.system.demo import create_demo, demo_servers
    from sourcelair.cli.system.system import System
    from sourcelair.client.servers import ServersClient

    started = time.monotonic()
    say = (lambda _: None) if session.as_json else output.line
    system = System(settings, directory, say)
    _warn_if_public(session, settings)

    async def ready() -> None:
        async with ServersClient(system.api_url, system.service_token) as client:
            if settings.demo:
                await create_demo(client, directory)
            demo = await demo_servers(client)
        facts = {**_facts(settings, demo), "abilities": sorted(system.abilities)}
        directory.announce(facts)
        gc.freeze()  # what came up stays: it is not looked at again and again
        say(f"Up in {time.monotonic() - started:.1f} s.")
        _tell(session, settings, facts)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: system.stop(everything=True))
    for name in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, lambda: system.stop(everything=False))
    try:
        await system.run(ready)
    finally:
        directory.renounce()
    say("Stopped.")


def _facts(settings: Settings, demo: list[Server]) -> dict[str, Any]:
    """What `running.json` and `lair up --json` say."""
    import os

    return {
        "process": os.getpid(),
        "api_listen": settings.api_listen,
        "listen": settings.listen,
        "domain": settings.domain,
        "node": settings.node,
        "demo": [server.url for server in demo],
    }


def _tell(session: Session, settings: Settings, facts: dict[str, Any], *, background: bool = False) -> None:
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
