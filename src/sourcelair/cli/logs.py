"""`lair logs`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name
from sourcelair.cli.session import Session, split_name
from sourcelair.errors import NotFound, Unavailable, Unreachable

if TYPE_CHECKING:
    from sourcelair.client.servers import ServersClient


@command
async def logs(
    session: Session,
    name: Name,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines to begin with.")] = 100,
) -> None:
    """Print the last lines of a server's log.

    One that is followed ends with 0 when the server is removed. With --json each of its lines is an object of its own.
    """
    owner, project = split_name(name)
    async with session.servers() as client:
        if follow:
            await _follow(session, client, owner, project, lines)
            return
        text = await client.logs(owner, project, lines=lines)
    if session.as_json:
        output.as_json({"server": name, "lines": text.splitlines()})
    else:
        sys.stdout.write(text)


async def _follow(session: Session, client: ServersClient, owner: str, project: str, lines: int) -> None:
    """Print what comes until it ends, and say why it did.

    Raises:
        NotFound: there is no such server.
        Unreachable: the API is gone.
    """
    await client.get(owner, project)  # a log that is silent and an API that is frozen look the same
    rest = b""
    async for part in client.follow_logs(owner, project, lines=lines):
        if session.as_json:
            *whole, rest = (rest + part).split(b"\n")
            _print_objects(whole)
        else:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
    if rest:
        _print_objects([rest])
    await _explain_end(session, client, owner, project)


def _print_objects(lines: list[bytes]) -> None:
    for text in lines:
        output.line(json.dumps({"line": text.decode(errors="replace")}, ensure_ascii=False))


async def _explain_end(session: Session, client: ServersClient, owner: str, project: str) -> None:
    """Say that the server was removed, or raise Unreachable: its log has no other end."""
    try:
        removed = (await client.get(owner, project)).cause == "removed"
    except NotFound:
        removed = True
    except (Unreachable, Unavailable):  # gone already, or just ending
        removed = False
    if not removed:
        raise Unreachable(
            f"The control plane at {client.base_url} has ended, so the log is not followed any more. "
            "`lair up` starts it again."
        )
    output.warn(f"{owner}/{project} was removed.", in_json=session.as_json)
