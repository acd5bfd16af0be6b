"""Every part of the system, made and connected, and not yet started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.types import ASGIApp

from sourcelair.auth import InstanceTokens, TokenRegistry
from sourcelair.ceryx.agent import Agent
from sourcelair.ceryx.nginx.control import NginxControl
from sourcelair.ceryx.nginx.engine import NginxEngine
from sourcelair.ceryx.service import CeryxService
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import ServersClient
from sourcelair.errors import LairError
from sourcelair.hemera.service import HemeraService
from sourcelair.servers.drivers.process import ProcessDriver
from sourcelair.servers.service import ServersService
from sourcelair.settings import Settings
from sourcelair.store import open_stores


@dataclass(frozen=True)
class Parts:
    """The parts. `service_token` is what they show to each other."""

    registry: TokenRegistry
    instance_tokens: InstanceTokens
    service_token: str
    ceryx: CeryxService
    servers: ServersService
    hemera: HemeraService
    driver: ProcessDriver
    engine: NginxEngine
    agent: Agent


async def assemble(
    settings: Settings,
    directory: DataDirectory,
    engine: NginxEngine,
    api_url: str,
    stack: AsyncExitStack,
    *,
    app: ASGIApp,
    say: Callable[[str], None],
    lost: Callable[[LairError], None],
) -> Parts:
    """Make and connect all parts.

    Args:
        settings: all of them.
        directory: whose stores and tokens are used.
        engine: of this node's NGINX.
        api_url: where all three services will answer.
        stack: gets whatever must be closed at the end.
        app: what will answer at `api_url`.
        say: told what is being waited for, for a person.
        lost: called when another control plane may have taken over the stores.
    """
    stores = await stack.enter_async_context(
        open_stores(
            settings.store or directory.path,
            ("ceryx", "servers", "auth"),
            installation=directory.installation(),
            say=say,
            lost=lost,
        )
    )
    registry = TokenRegistry(stores["auth"])
    await registry.load()
    # Tokens in files are registered at every start: a file that was deleted is made anew, with another token in it.
    await registry.adopt(directory.token("admin"), "admin", note="the first token, from admin.token")
    service_token, waker_token = directory.token("service"), directory.token("waker")
    await registry.adopt(service_token, "service", note="the services among themselves")
    await registry.adopt(waker_token, "waker", note="NGINX to Hemera")

    instance_tokens = InstanceTokens(directory.instances_key())

    def told(instance: str) -> dict[str, str]:
        return {"LAIR_API": api_url, "LAIR_TOKEN": instance_tokens.make(instance)}

    ceryx_client = await stack.enter_async_context(CeryxClient(api_url, service_token, within=app))
    servers_client = await stack.enter_async_context(ServersClient(api_url, service_token, within=app))
    driver = ProcessDriver(directory.path / "instances", directory.installation())
    stack.push_async_callback(driver.close)
    waker = f"{api_url}/waker"
    return Parts(
        registry=registry,
        instance_tokens=instance_tokens,
        service_token=service_token,
        ceryx=CeryxService(stores["ceryx"], settings),
        servers=ServersService(
            stores["servers"], settings, {driver.name: driver}, ceryx_client, waker=waker, told=told
        ),
        hemera=HemeraService(settings, servers_client, ceryx_client),
        driver=driver,
        engine=engine,
        agent=Agent(
            settings,
            ceryx_client,
            NginxControl(engine.control_socket),
            directory=directory.path / "agent",
            waker=waker,
            waker_token=waker_token,
        ),
    )
