"""Commands that start, stop and keep awake: start, stop, restart, wake, extend."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sourcelair.cli import output, values
from sourcelair.cli.command import command
from sourcelair.cli.servers import Name
from sourcelair.cli.session import Session, split_name
from sourcelair.errors import Conflict, LairError, Unavailable

if TYPE_CHECKING:
    from sourcelair.client.servers import Server, ServersClient

Wait = Annotated[str, typer.Option(metavar="TIME", help="How long to wait for it.")]

LONGEST_CALL = 20.0
"""Seconds of one long poll: a wait is made of several, so that a lost connection is noticed."""


@command
async def start(session: Session, name: Name, *, wait: Wait = "90s") -> None:
    """Start a server, and wait until it answers."""
    owner, project = split_name(name)
    began = time.monotonic()
    async with session.servers() as client:
        was_awake = (await client.get(owner, project)).state == "awake"
        with _progress(session, f"Starting {name}"), _naming_enable(name):
            server = await _start(client, owner, project, values.seconds(wait) or 0.0)
    _report_awake(session, server, "was awake already" if was_awake else f"awake after {_ms(began)} ms")


@command
async def stop(session: Session, name: Name, *, wait: Wait = "90s") -> None:
    """Put a server to sleep, and wait until its instance is gone. A visit wakes it again.

    Requests in flight may end first (its drain timeout). Ends with 0 also where it slept already.
    """
    owner, project = split_name(name)
    deadline = time.monotonic() + (values.seconds(wait) or 0.0)
    async with session.servers() as client:
        before = await client.get(owner, project)
        instance = before.instance.id if before.instance else None
        with _progress(session, f"Stopping {name}"):
            left = max(0.0, deadline - time.monotonic())
            server = await client.stop(owner, project, wait=min(left, LONGEST_CALL))
            while _still_there(server, instance) and time.monotonic() < deadline:
                server = await _changed(client, server, deadline)
    if _still_there(server, instance):
        raise Unavailable(
            f"{name} is still {server.state} after {wait}: it goes on stopping. `lair show {name}` shows it."
        )
    # It may be asleep still at this very moment: what the visitors want is stored before anything is started.
    woken = server.desired == "awake"
    if session.as_json:
        output.as_json({**server.model_dump(), "stopped_instance": instance, "woken_again": woken})
    elif woken:
        state = "starting" if server.state == "asleep" else server.state
        output.line(f"{name}: that instance is gone; visitors have woken the next one already ({state}).")
    elif server.state == "failed":
        output.line(f"{name} does not run: its last start failed. `lair show {name}` says why.")
    elif instance is None:
        output.line(f"{name} slept already.")
    else:
        output.line(f"{name} sleeps." if server.enabled else f"{name} is stopped, and disabled.")


@command
async def restart(session: Session, name: Name, *, wait: Wait = "90s") -> None:
    """Stop a server and start a new instance of it."""
    owner, project = split_name(name)
    deadline = time.monotonic() + (values.seconds(wait) or 0.0)
    began = time.monotonic()
    async with session.servers() as client:
        with _progress(session, f"Restarting {name}"), _naming_enable(name):
            await client.restart(owner, project, wait=min(values.seconds(wait) or 0.0, LONGEST_CALL))
            server = await _start(client, owner, project, max(0.0, deadline - time.monotonic()))
    _report_awake(session, server, f"awake again after {_ms(began)} ms")


@command
async def wake(session: Session, name: Name) -> None:
    """Wake a server as a visitor would, and do not wait for it. After failed starts it waits as visitors do."""
    async with session.servers() as client:
        with _naming_enable(name):
            server = await client.wake(*split_name(name))
    if session.as_json:
        output.as_json(server.model_dump())
    elif server.state == "awake":
        output.line(f"{name} is awake.")
    else:
        before = "its last start failed" if server.state == "failed" else server.state
        output.line(f"{name} is on its way" + (f" ({before})." if server.state != "asleep" else "."))


@command
async def extend(
    session: Session,
    name: Name,
    time: Annotated[str, typer.Argument(metavar="TIME", help="As 30m, 2h; 0 takes that back.", show_default=False)],
) -> None:
    """Keep a server that is awake awake for a time from now, used or not. It never shortens what was asked before."""
    async with session.servers() as client:
        server = await client.extend(*split_name(name), values.seconds(time) or 0.0)
    until = server.instance.extended_until if server.instance else None
    if session.as_json:
        output.as_json(server.model_dump())
    elif until is None:
        output.line(f"{name} sleeps when nobody uses it, as usual.")
    else:
        output.line(f"{name} stays awake until {output.clock(until)} ({output.until(until)}).")


async def _start(client: ServersClient, owner: str, project: str, wait: float) -> Server:
    from sourcelair.client.servers import StartRequest

    deadline = time.monotonic() + wait
    while True:
        left = max(0.0, deadline - time.monotonic())
        server = await client.start(owner, project, StartRequest(), wait=min(left, LONGEST_CALL))
        if server.state == "awake":
            return server
        if left <= 0:
            raise Unavailable(
                f"{owner}/{project} is {server.state} after {wait:g} s: it goes on starting. "
                f"`lair logs {owner}/{project}` shows what it says."
            )


@contextlib.contextmanager
def _naming_enable(name: str) -> Iterator[None]:
    """Say which command switches a server on again, where the API says that it is off."""
    try:
        yield
    except Conflict as error:
        if error.extra.get("state") != "disabled":
            raise
        raise Conflict(f"{name} is disabled: `lair enable {name}` switches it on.", **error.extra) from error


def _still_there(server: Server, instance: str | None) -> bool:
    return instance is not None and server.instance is not None and server.instance.id == instance


async def _changed(client: ServersClient, server: Server, deadline: float) -> Server:
    """Return the server once it has moved on: a stop that was asked for again just waits for the first."""
    left = max(0.0, deadline - time.monotonic())
    return await client.stop(server.owner, server.project, wait=min(left, LONGEST_CALL))


def _report_awake(session: Session, server: Server, how: str) -> None:
    if server.state != "awake":
        raise LairError(f"{server.owner}/{server.project} is {server.state}.")
    if session.as_json:
        output.as_json(server.model_dump())
    else:
        output.line(f"{server.owner}/{server.project} {how}: {server.url}")


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


@contextlib.contextmanager
def _progress(session: Session, text: str) -> Iterator[None]:
    """Show that something goes on, on a terminal only."""
    import sys

    if session.as_json or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
