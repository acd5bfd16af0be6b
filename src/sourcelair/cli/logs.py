"""`lair logs`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name
from sourcelair.cli.session import Session, split_name


@command
async def logs(
    session: Session,
    name: Name,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines to begin with.")] = 100,
) -> None:
    """Print the last lines of a server's log."""
    owner, project = split_name(name)
    async with session.servers() as client:
        if follow:
            async for part in client.follow_logs(owner, project, lines=lines):
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
            return
        text = await client.logs(owner, project, lines=lines)
    if session.as_json:
        output.as_json({"server": name, "lines": text.splitlines()})
    else:
        sys.stdout.write(text)
