"""`lair routes`: Ceryx's routes, also those of no server."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sourcelair.cli import output
from sourcelair.cli.command import command
from sourcelair.cli.session import Session
from sourcelair.errors import LairError

routes = typer.Typer(no_args_is_help=True, help="The proxy's routes: public host -> target.")

Source = Annotated[
    str,
    typer.Argument(
        metavar="HOST[/PATH]",
        help="Public host, *.HOST for all below one, or $wildcard; with a path for what begins with that.",
        show_default=False,
    ),
]


class Buffering(StrEnum):
    """What the proxy takes in before it passes it on."""

    none = "none"
    request = "request"
    response = "response"


@routes.command("list")
@command
async def list_(
    session: Session,
    *,
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Only hosts that begin so.", show_default="all hosts")
    ] = "",
) -> None:
    """List all routes."""
    async with session.ceryx() as client:
        found, revision = await client.list_routes(prefix=prefix)
    if session.as_json:
        output.as_json({"revision": revision, "routes": [route.model_dump() for route in found]})
        return
    rows = [
        (r.source, r.target or "(asleep)" if r.waker or r.target else "(none)", r.settings.mode, r.managed_by or "")
        for r in sorted(found, key=lambda route: route.source)
    ]
    output.table(("SOURCE", "TARGET", "MODE", "MANAGED BY"), rows)


@routes.command("set")
@command
async def set_(
    session: Session,
    source: Source,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="Such as http://127.0.0.1:3000.", show_default="none: its waker is asked"
        ),
    ] = None,
    *,
    waker: Annotated[str | None, typer.Option(help="Base URL of the waker that is asked without a target.")] = None,
    redirect: Annotated[bool, typer.Option("--redirect", help="Redirect there instead of proxying.")] = False,
    enforce_https: Annotated[bool, typer.Option("--enforce-https", help="Redirect http to https.")] = False,
    buffering: Annotated[
        Buffering | None,
        typer.Option(help="What is taken in before it is passed on.", show_default="bodies of known length"),
    ] = None,
    strip_prefix: Annotated[
        bool, typer.Option("--strip-prefix", help="Take the path of HOST/PATH off before the app sees it.")
    ] = False,
) -> None:
    """Create a route, or overwrite it. It is served when this ends."""
    from sourcelair.client.ceryx import Route, RouteSettings

    settings = RouteSettings(
        mode="redirect" if redirect else "proxy",
        enforce_https=enforce_https,
        buffering=buffering.value if buffering else None,
        strip_prefix=strip_prefix,
    )
    async with session.ceryx() as client:
        revision = await client.put_route(Route(source=source, target=target, settings=settings, waker=waker))
        route = await client.get_route(source)
    if session.as_json:
        output.as_json(route.model_dump())
    else:
        output.line(f"{route.source} -> {route.target or '(none)'} (revision {revision})")


@routes.command("rm")
@command
async def rm(session: Session, source: Source) -> None:
    """Delete a route. One that is absent is an error here."""
    async with session.ceryx() as client:
        await client.get_route(source)
        await client.delete_route(source)
    if session.as_json:
        output.as_json({"deleted": source})
    else:
        output.line(f"Deleted the route of {source}.")


nodes = typer.Typer(no_args_is_help=True, help="The proxy nodes that serve the routes.")


@nodes.command("list")
@command
async def list_nodes(session: Session) -> None:
    """List proxy nodes; a silent one may still be serving."""
    async with session.ceryx() as client:
        found = await client.nodes()
    if session.as_json:
        output.as_json([node.model_dump() for node in found])
        return
    rows = [
        (
            node.node,
            node.state,
            str(node.routes or 0),
            "" if node.connections is None else str(node.connections),
            "" if node.held is None else str(node.held),
            str(node.lag or 0),
        )
        for node in found
    ]
    output.table(("NODE", "STATE", "ROUTES", "CONNECTIONS", "HELD", "REVISIONS BEHIND"), rows)


@nodes.command("rm")
@command
async def rm_node(
    session: Session,
    node: Annotated[str, typer.Argument(help="The node that is dead.", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a node that is dead for good: nothing waits for it any more. Its NGINX must not be running."""
    from sourcelair.cli.servers import confirm

    async with session.ceryx() as client:
        known = {found.node: found.state for found in await client.nodes()}
        if known.get(node) == "live":
            raise LairError(f"{node} is live: stop its `lair up` and its NGINX first.")
        confirm(f"Ports that wait for {node} are given out again: its NGINX must be dead.", yes=yes)
        await client.remove_node(node)
    if session.as_json:
        output.as_json({"removed": node})
    else:
        output.line(f"Removed {node}.")
