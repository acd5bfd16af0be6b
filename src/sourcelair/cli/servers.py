"""Commands about what servers there are: ls, open, rm."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session, split_name
from sourcelair.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from sourcelair.client.servers import Server

Name = Annotated[
    str, typer.Argument(metavar="OWNER/PROJECT", help="The server, such as demo/blog.", show_default=False)
]


class ShownState(StrEnum):
    """The states of a server as `lair` shows them: the API's, and `disabled`."""

    asleep = "asleep"
    starting = "starting"
    awake = "awake"
    draining = "draining"
    dozing = "dozing"
    stopping = "stopping"
    failed = "failed"
    disabled = "disabled"


@command
async def ls(
    session: Session,
    *,
    owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None,
    state: Annotated[list[ShownState] | None, typer.Option(help="Only in this state; repeatable.")] = None,
) -> None:
    """List servers and their states."""
    async with session.servers() as client:
        known = await client.list()
    servers = [
        server
        for server in sorted(known, key=lambda server: (server.owner, server.project))
        if owner in {None, server.owner} and (not state or shown_state(server) in state)
    ]
    if session.as_json:
        output.as_json([server.model_dump() for server in servers])
    elif known and not servers:
        output.line(f"None of {len(known)} servers match." if len(known) > 1 else "The only server does not match.")
    elif not servers:
        output.line(f"No servers. Create one: {output.program()} create demo/blog -- python3 -m http.server {{port}}")
    else:
        rows = [(f"{s.owner}/{s.project}", shown_state(s), output.ago(s.changed_at), s.url) for s in servers]
        output.table(("SERVER", "STATE", "SINCE", "URL"), rows)


@command
async def open_(
    session: Session,
    name: Name,
    *,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser where there is one.")] = True,
) -> None:
    """Print a server's URL, and open it in the browser where there is one. That wakes it."""
    async with session.servers() as client:
        server = await client.get(*split_name(name))
    opened = browser and not session.as_json and _open_browser(server.url)
    if session.as_json:
        output.as_json({"url": server.url, "opened": opened})
    else:
        output.line(server.url)


@command
async def rm(
    session: Session, name: Name, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Stop a server and forget it: its record, its hosts, its log. Never its directory."""
    owner, project = split_name(name)
    async with session.servers() as client:
        server = await client.get(owner, project)
        hosts = ", ".join(server.hosts) or server.url
        confirm(
            f"This stops {name} and deletes its record, its hosts ({hosts}) and its log. "
            f"Its directory {server.spec.directory} stays as it is.",
            yes=yes,
        )
        if not await client.delete(owner, project):
            raise Unavailable(
                f"{name} is still being stopped: requests are in flight, or it does not end. It is deleted as soon as "
                f"it has ended; `{output.program()} show {name}` says how far it is."
            )
    if session.as_json:
        output.as_json({"deleted": name, "hosts": server.hosts, "directory_kept": server.spec.directory})
    else:
        output.line(f"Deleted {name}. Its directory {server.spec.directory} is untouched.")


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something that can't be undone.

    Raises:
        InvalidInput: nobody can be asked.
    """
    import sys

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(f"{what} Say --yes to go on: nobody can be asked here.")
    typer.confirm(f"{what} Go on?", abort=True, err=True)


def shown_state(server: Server) -> str:
    """Return the state for a person: a disabled one that sleeps is `disabled`."""
    return "disabled" if server.state == "asleep" and not server.enabled else server.state


def _open_browser(url: str) -> bool:
    import os
    import sys
    import webbrowser

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return webbrowser.open(url)
