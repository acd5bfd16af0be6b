"""Commands that switch a server off and on: disable, enable."""

from __future__ import annotations

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name
from sourcelair.cli.session import Session, split_name


@command
async def enable(session: Session, name: Name) -> None:
    """Switch a server on: a visit wakes it. Ends with 0 also where it was on already."""
    await _switch(session, name, on=True)


@command
async def disable(session: Session, name: Name) -> None:
    """Switch a server off: it is stopped, and nobody wakes it until `lair enable`. Its visitors are told so."""
    await _switch(session, name, on=False)


async def _switch(session: Session, name: str, *, on: bool) -> None:
    from sourcelair.cli.changes import change

    owner, project = split_name(name)
    async with session.servers() as client:
        server = await change(client, owner, project, lambda body: {**body, "enabled": on})
    if session.as_json:
        output.as_json(server.model_dump())
    elif on:
        output.line(f"{name} is enabled: " + ("it is always on." if server.always_on else "a visit wakes it."))
    else:
        output.line(f"{name} is disabled" + ("; what runs of it is being stopped." if server.instance else "."))
