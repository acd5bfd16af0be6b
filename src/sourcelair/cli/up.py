"""`lair up`: run everything, in the foreground or in the background."""

from __future__ import annotations

from typing import Annotated

import typer

from sourcelair.cli.command import command
from sourcelair.cli.running import run, tell
from sourcelair.cli.session import Session

TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Servers of another machine, which is gone for good, live here now.")
]


@command
def up(
    session: Session,
    *,
    listen: Annotated[str | None, typer.Option(help="Public address (LAIR_LISTEN); default 127.0.0.1:8080.")] = None,
    domain: Annotated[str | None, typer.Option(help="Servers get {project}--{owner}.DOMAIN (LAIR_DOMAIN).")] = None,
    store: Annotated[str | None, typer.Option(help="etcd://HOST:PORT/PREFIX instead of files (LAIR_STORE).")] = None,
    demo: Annotated[bool | None, typer.Option("--demo/--no-demo", help="Create the two sample projects.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go to the background once it is up.")] = False,
    take_over: TakeOver = False,
) -> None:
    """Run everything: the three services, NGINX, and the servers that visitors wake.

    Ctrl-C stops all of it, project servers too. SIGTERM ends the control plane only: NGINX and the servers go on, and
    the next `lair up` takes them over.
    """
    session.flags.update(listen=listen, domain=domain, store=store, demo=demo)
    settings = session.settings
    from sourcelair.cli.system.directory import DataDirectory
    from sourcelair.cli.system.roles import EVERYTHING

    directory = DataDirectory(settings.data_dir)
    directory.prepare()
    if detach:
        from sourcelair.cli.system.background import start_in_background

        facts = start_in_background(settings, directory, take_over=take_over)
        tell(session, settings, facts, background=True)
        return
    run(session, directory, EVERYTHING, take_over=take_over)
