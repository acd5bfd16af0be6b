"""Commands about what servers there are: ls, show, open, rm."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sourcelair.cli import output, values
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
async def show(session: Session, name: Name) -> None:
    """Show all facts about a server: state, last start and where its time went, last exit, failure."""
    async with session.servers() as client:
        server = await client.get(*split_name(name))
    if session.as_json:
        output.as_json(server.model_dump())
        return
    for label, value in _facts(server):
        if value:
            output.line(f"{label:<13}{value}")
    if server.failure:
        output.line(f"{'failure':<13}{server.failure}")
        for text in server.failure_log:
            output.line(f"{'':<13}| {text}")


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


def _facts(server: Server) -> list[tuple[str, str]]:
    spec, instance, exit_ = server.spec, server.instance, server.last_exit
    readiness = f"{spec.readiness.path}" + (f" -> {spec.readiness.status}" if spec.readiness.status else "")
    facts = [
        ("server", f"{server.owner}/{server.project}"),
        ("url", server.url),
        ("hosts", ", ".join(server.hosts)),
        ("state", shown_state(server) + (f" ({server.cause})" if server.cause else "")),
        ("since", output.ago(server.changed_at)),
        ("wanted", server.desired + (", always on" if server.always_on else "")),
        ("driver", spec.driver),
        ("command", values.shell_line(spec.command)),
        ("directory", spec.directory or ""),
        ("env", ", ".join(spec.env)),
        ("ready", readiness),
        ("limits", _named(spec.limits.model_dump())),
        ("sleep", _named(spec.sleep.model_dump())),
    ]
    if instance:
        where = f"{instance.host}:{instance.port}" if instance.port else "no port yet"
        process = f", process {instance.pid}" if instance.pid else ""
        facts.append(("instance", f"{instance.id} on {where}{process}, started {output.ago(instance.started_at)}"))
    if server.timing:
        parts = [f"{name} {value:.1f} ms" for name, value in server.timing.model_dump().items() if value is not None]
        facts.append(("last start", ", ".join(parts)))
    if exit_:
        facts.append(("last exit", f"{exit_.reason}, {output.ago(exit_.at)}"))
    if server.retry_at:
        facts.append(("next try", output.until(server.retry_at)))
    return facts


def _named(values_: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values_.items() if value is not None)


def _open_browser(url: str) -> bool:
    import os
    import sys
    import webbrowser

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return webbrowser.open(url)
