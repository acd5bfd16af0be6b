"""`lair ceryx`, `lair api`, `lair hemera`: one part of the system each, beside others that share its store in etcd."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sourcelair.cli.command import command
from sourcelair.cli.running import run
from sourcelair.cli.session import Session
from sourcelair.cli.system import roles
from sourcelair.cli.up import TakeOver
from sourcelair.errors import InvalidInput

Store = Annotated[str | None, typer.Option(help="etcd://HOST:PORT/PREFIX, the same for all (LAIR_STORE).")]
Listen = Annotated[str | None, typer.Option(help="Public address (LAIR_LISTEN); default 127.0.0.1:8080.")]
Node = Annotated[str | None, typer.Option(help="Name of this proxy node (LAIR_NODE); each has its own.")]
Domain = Annotated[str | None, typer.Option(help="Servers get {project}--{owner}.DOMAIN (LAIR_DOMAIN).")]


class CeryxRole(StrEnum):
    """What of Ceryx a process runs."""

    ALL = "all"
    API = "api"
    PROXY = "proxy"


@command
def ceryx(
    session: Session,
    *,
    role: Annotated[CeryxRole, typer.Option(help="The API, a proxy node, or both.")] = CeryxRole.ALL,
    store: Store = None,
    listen: Listen = None,
    node: Node = None,
) -> None:
    """Run Ceryx: the API for routes, a proxy node (NGINX with its agent, which opens no API), or both."""
    chosen = {CeryxRole.ALL: roles.CERYX, CeryxRole.API: roles.CERYX_API, CeryxRole.PROXY: roles.CERYX_PROXY}[role]
    session.flags.update(store=store, listen=listen, node=node)
    _run(session, chosen)


@command
def api(session: Session, *, store: Store = None, domain: Domain = None, take_over: TakeOver = False) -> None:
    """Run the SourceLair API: it starts and stops the servers of this machine."""
    session.flags.update(store=store, domain=domain)
    _run(session, roles.API, take_over=take_over)


@command
def hemera(session: Session, *, store: Store = None) -> None:
    """Run Hemera: it wakes servers, puts them to sleep, and tells visitors what is happening."""
    session.flags.update(store=store)
    _run(session, roles.HEMERA)


def _run(session: Session, role: roles.Role, *, take_over: bool = False) -> None:
    from sourcelair.cli.system.directory import DataDirectory

    settings = session.settings
    if not settings.store:
        raise InvalidInput(
            "--store: parts of the system need a store that they share, such as etcd://10.0.0.1:2379/lair. "
            "`lair up` runs all of it with files."
        )
    directory = DataDirectory(settings.data_dir)
    directory.prepare()
    run(session, directory, role, take_over=take_over)
