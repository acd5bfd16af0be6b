"""The parts of one process, made and connected, and not yet started."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.types import ASGIApp

from sourcelair.auth import InstanceTokens, TokenRegistry
from sourcelair.auth.http import Authenticate, authenticator
from sourcelair.ceryx.service import CeryxService
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.cli.system.homes import settle_home
from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import ServersClient
from sourcelair.hemera.service import HemeraService
from sourcelair.servers.drivers.process import ProcessDriver
from sourcelair.servers.service import ServersService
from sourcelair.settings import Settings
from sourcelair.store import Stores
from sourcelair.store.base import Store

WHEREVER = "http://hemera.sourcelair.internal/waker"
"""What routes name as their waker where Hemera may be anywhere. Nodes know where that is, and look no such name up."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients of the services, by which those of this process speak to each other, and to those elsewhere."""

    ceryx: CeryxClient
    servers: ServersClient


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask for what."""

    registry: TokenRegistry
    instances: InstanceTokens
    authenticate: Authenticate


@dataclass(frozen=True, slots=True)
class Services:
    """The services that this process acts for; None for the others."""

    ceryx: CeryxService | None
    servers: ServersService | None
    hemera: HemeraService | None
    driver: ProcessDriver | None


async def open_clients(api_url: str, token: str, app: ASGIApp, stack: AsyncExitStack) -> Clients:
    """Return clients for one process.

    Args:
        api_url: where its APIs answer.
        token: of services.
        app: what answers there.
        stack: closes them.
    """
    return Clients(
        await stack.enter_async_context(CeryxClient(api_url, token, within=app)),
        await stack.enter_async_context(ServersClient(api_url, token, within=app)),
    )


async def open_access(stores: Stores, directory: DataDirectory) -> Access:
    """Read all tokens, and register those that lie in files of this data directory.

    They are at every start: a file that was deleted is made anew, with another token in it.
    """
    registry = TokenRegistry(await stores.shared("auth"))
    await registry.load()
    await registry.adopt(directory.token("admin"), "admin", note="the first token, from admin.token")
    await registry.adopt(directory.token("service"), "service", note="the services among themselves")
    await registry.adopt(directory.token("waker"), "waker", note="NGINX to Hemera")
    instances = InstanceTokens(directory.instances_key())
    return Access(registry, instances, authenticator(registry, instances))


def waker_of(settings: Settings, api_url: str) -> str:
    """Return the waker's URL in the routes of servers."""
    return WHEREVER if settings.store else f"{api_url}/waker"


async def make_services(
    settings: Settings,
    directory: DataDirectory,
    stores: Mapping[str, Store],
    names: tuple[str, ...],
    *,
    clients: Clients,
    access: Access,
    api_url: str,
    take_over: bool,
    stack: AsyncExitStack,
) -> Services:
    """Make services.

    Args:
        settings: all of them.
        directory: whose instances the SourceLair API runs.
        stores: by the services' names.
        names: of the services.
        clients: of all services.
        access: whose tokens instances get.
        api_url: where instances say that they are busy.
        take_over: the servers are this data directory's from now on, whoever's they were.
        stack: closes what must be closed at the end.

    Raises:
        Conflict: the servers run from another data directory.
    """
    ceryx = servers = hemera = driver = None
    if "ceryx" in names:
        ceryx = CeryxService(stores["ceryx"], settings)
    if "servers" in names:
        if settings.store:  # a file is at home where it lies
            await settle_home(stores["servers"], directory.installation(), take_over=take_over)
        driver = ProcessDriver(directory.path / "instances", directory.installation())
        stack.push_async_callback(driver.close)

        def told(instance: str) -> dict[str, str]:
            return {"LAIR_API": api_url, "LAIR_TOKEN": access.instances.make(instance)}

        servers = ServersService(
            stores["servers"],
            settings,
            {driver.name: driver},
            clients.ceryx,
            waker=waker_of(settings, api_url),
            told=told,
        )
    if "hemera" in names:
        hemera = HemeraService(settings, clients.servers, clients.ceryx)
    return Services(ceryx, servers, hemera, driver)
