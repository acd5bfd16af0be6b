"""`lair create`: a new server, or with --update changes to one that exists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sourcelair.cli import output, policies, values
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name
from sourcelair.cli.session import Session, split_name
from sourcelair.errors import Conflict, InvalidInput, NotFound, PreconditionFailed

if TYPE_CHECKING:
    from sourcelair.client.servers import Server, ServersClient


class Streams(StrEnum):
    """Whether an open WebSocket or event stream keeps a server awake."""

    always = "always"
    never = "never"
    flow = "flow"


@command
async def create(
    session: Session,
    name: Name,
    argv: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="What to run; {port} becomes the port.", show_default=False),
    ] = None,
    *,
    directory: Annotated[
        Path | None, typer.Option("--dir", "-C", help="Directory that it runs in.", show_default="the current one")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="Variable; repeatable.")] = None,
    idle: Annotated[
        str | None, typer.Option(metavar="TIME", help="Is stopped after this long unused, as 90s, 10m, never.")
    ] = None,
    doze: Annotated[
        str | None, typer.Option(metavar="TIME", help="Is frozen in memory after this long unused, or never.")
    ] = None,
    min_awake: Annotated[str | None, typer.Option(metavar="TIME", help="Stays awake at least this long.")] = None,
    lifetime: Annotated[
        str | None, typer.Option(metavar="TIME", help="Is stopped after this long, used or not, or never.")
    ] = None,
    streams: Annotated[
        Streams | None, typer.Option(help="Whether open WebSockets keep it awake.", show_default="always")
    ] = None,
    check: Annotated[
        str | None, typer.Option(metavar="PATH", help="Asked before it sleeps: anything but 2xx keeps it awake.")
    ] = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(metavar="WINDOW", help="Kept awake then, as 'mon-fri 9:00-17:00 Europe/Athens'; repeatable."),
    ] = None,
    patience: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time a browser waits before the waiting page.")
    ] = None,
    wake_timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Time other requests are held.")] = None,
    tries: Annotated[int | None, typer.Option(help="Starts that fail in a row before it gives up.")] = None,
    show_log: Annotated[
        bool | None,
        typer.Option(
            "--show-log/--no-show-log",
            help="Visitors see its log while it starts, or never.",
            show_default="where it failed",
        ),
    ] = None,
    quiet: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Does not wake it, as 'path=/health* method=GET'; repeatable."),
    ] = None,
    host: Annotated[list[str] | None, typer.Option(help="Another public host; repeatable (administrators).")] = None,
    always_on: Annotated[
        bool | None, typer.Option("--always-on/--no-always-on", help="Never sleeps; starts again when it ends.")
    ] = None,
    enabled: Annotated[
        bool | None, typer.Option("--enabled/--no-enabled", help="Whether a visit may wake it.", show_default="enabled")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Where it exists, change what is given here, and nothing else.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where it exists, forget all that was said of it before.")
    ] = False,
    driver: Annotated[str | None, typer.Option(help="What runs it.", show_default="process")] = None,
    ready_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Asked for to see whether it is ready.", show_default="/")
    ] = None,
    ready_status: Annotated[
        list[int] | None, typer.Option(min=100, max=599, help="Status that means ready; repeatable.")
    ] = None,
    start_timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Time that a start may take.")] = None,
    drain_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time that a stop waits for requests.")
    ] = None,
    stop_grace: Annotated[str | None, typer.Option(metavar="TIME", help="Time from SIGTERM to SIGKILL.")] = None,
    open_files: Annotated[int | None, typer.Option(help="Open files per process.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes and threads.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of all its processes, as 512M.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Processors that it may keep busy, as 0.5.")] = None,
) -> None:
    """Create a server, and print its URL. The first visit wakes it."""
    owner, project = split_name(name)
    how = f"lair create {name} -- python3 -m http.server {{port}}"
    if update and replace:
        raise InvalidInput("--update changes what is given, --replace all of it: say one of them.")
    if not argv and not update:
        raise InvalidInput(f"Say what to run: {how}")
    given: dict[str, Any] = {
        "spec": {
            "driver": driver,
            "command": argv or None,
            "directory": None if directory is None else str(directory.expanduser().absolute()),
            "env": values.variables(env or []),
            "readiness": {
                "path": ready_path,
                "status": ready_status or None,
                "start_timeout": values.seconds(start_timeout),
            },
            "limits": {
                "processes": processes,
                "open_files": open_files,
                "memory_bytes": values.size(memory),
                "cpus": cpus,
            },
            "sleep": {
                "stop_after": values.duration(idle),
                "doze_after": values.duration(doze),
                "min_awake": values.seconds(min_awake),
                "max_lifetime": values.duration(lifetime),
                "streams": streams.value if streams else None,
                "check": check,
                "schedule": [policies.window(each) for each in schedule] if schedule else None,
                "drain_timeout": values.seconds(drain_timeout),
                "stop_grace": values.seconds(stop_grace),
            },
            "wake": {
                "patience": values.seconds(patience),
                "timeout": values.seconds(wake_timeout),
                "tries": tries,
                "show_log": show_log,
                "quiet": [policies.rule(each) for each in quiet] if quiet else None,
            },
        },
        "hosts": host or None,
        "enabled": enabled,
        "always_on": always_on,
    }
    async with session.servers() as client:
        server = await _update(client, owner, project, given) if update else None
        if server is None:
            if not argv:
                raise NotFound(f"No server found for {name}. To create it, say what to run: {how}")
            server = await _create(client, owner, project, given, replace=replace)
    if session.as_json:
        output.as_json(server.model_dump())
    else:
        output.line(server.url)
    from sourcelair.cli.doubts import doubt

    if said := doubt(server.spec):
        output.warn(f"{name} will not start as it is: {said}.", in_json=session.as_json)


async def _create(client: ServersClient, owner: str, project: str, given: dict[str, Any], *, replace: bool) -> Server:
    from sourcelair.cli.changes import merged
    from sourcelair.client.servers import ServerInput

    with values.refused_by_the_model():
        body = ServerInput.model_validate(merged({"spec": {"directory": str(Path.cwd())}}, given))
    try:
        return await client.put(owner, project, body, create_only=not replace)
    except PreconditionFailed as error:
        raise Conflict(
            f"{owner}/{project} exists already. `lair create --update` changes it, `lair show` shows it."
        ) from error


async def _update(client: ServersClient, owner: str, project: str, given: dict[str, Any]) -> Server | None:
    """Change what was given of a server; None where there is no such server."""
    from sourcelair.cli.changes import change, merged

    def edit(body: dict[str, Any]) -> dict[str, Any]:
        return {**merged(body, given), "hosts": [*body["hosts"], *(given["hosts"] or [])]}

    try:
        return await change(client, owner, project, edit)
    except NotFound:
        return None
