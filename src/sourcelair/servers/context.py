"""What all workers share: the parts of the service, and the facts about this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sourcelair.client.ceryx import CeryxClient
from sourcelair.client.servers import Instance, Server
from sourcelair.names import WILDCARD, host_label
from sourcelair.servers.drivers.base import Driver, StartOrder
from sourcelair.servers.policies import Policies
from sourcelair.servers.population import Population
from sourcelair.servers.ports import Ports
from sourcelair.servers.publishing import Publisher
from sourcelair.servers.records import ServerRecord
from sourcelair.settings import Settings, split_address
from sourcelair.store.base import Store
from sourcelair.turns import Turns

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SHELL")
"""Variables of the control plane that instances get too; nothing else of its environment."""

HIDDEN = "***"
"""Stands for the value of an `env` variable in lists, events and answers; sent back, it keeps that value."""


def is_a_servers_own(host: str, domain: str) -> bool:
    """Return whether a host is made of a project's and an owner's name: it is that server's, and no other's."""
    label, _, rest = host.partition(".")
    return rest == domain and "--" in label and host != WILDCARD


@dataclass
class Context:
    """The parts that workers share.

    `removed` is told which server is forgotten, `watching` are told of each worker whose server changed. `clock` gives
    Unix seconds, `jitter` a number from -1 to 1 for each pause after a failed start. `told` returns what else an
    instance finds in its environment: where the API is, and its token for that.
    """

    store: Store
    settings: Settings
    drivers: Mapping[str, Driver]
    ceryx: CeryxClient
    policies: Policies
    publisher: Publisher
    ports: Ports
    turns: Turns
    population: Population
    spawn: Callable[..., object]
    removed: Callable[[ServerRecord], None]
    clock: Callable[[], float]
    told: Callable[[str], Mapping[str, str]]
    jitter: Callable[[], float]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    watching: list[Callable[[Any], None]] = field(default_factory=list)

    def primary_host(self, owner: str, project: str) -> str:
        """Return `{project}--{owner}.{domain}`."""
        return f"{host_label(owner, project)}.{self.settings.domain}"

    def hosts(self, record: ServerRecord) -> list[str]:
        """Return all public hosts of a server: its own, and the further ones that may be published."""
        return [self.primary_host(record.owner, record.project), *self.further_hosts(record)]

    def further_hosts(self, record: ServerRecord) -> list[str]:
        """Return the hosts that were given to it, without those that are a server's own.

        Such are refused when they are given; after a change of `domain` there may be some all the same.
        """
        return [host for host in record.hosts if not is_a_servers_own(host, self.settings.domain)]

    def url(self, record: ServerRecord) -> str:
        """Return the public URL of a server."""
        settings = self.settings
        port = settings.public_port or split_address(settings.listen)[1]
        usual = {"http": 80, "https": 443}[settings.public_scheme]
        host = self.primary_host(record.owner, record.project)
        return f"{settings.public_scheme}://{host}" + ("" if port == usual else f":{port}")

    def log(self, record: ServerRecord) -> Path:
        """Return the file that a server's instances write to."""
        return self.settings.data_dir / "logs" / "servers" / f"{record.project}--{record.owner}.log"

    def log_bytes(self, record: ServerRecord) -> int:
        """Return how long that file is by now."""
        try:
            return self.log(record).stat().st_size
        except OSError:
            return 0

    def order(self, record: ServerRecord, instance: str, port: int) -> StartOrder:
        """Return all that a driver is told to start an instance."""
        env = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env |= {"PORT": str(port), "LAIR_URL": self.url(record), **record.spec.env, **self.told(instance)}
        limits = record.policy.limits
        return StartOrder(instance, record.owner, record.project, record.spec, port, env, self.log(record), limits)

    def show(self, record: ServerRecord, revision: int) -> Server:
        """Return a server as the API answers it, without the values of its variables."""
        instance = record.instance
        spec = record.spec.model_copy(update={"env": dict.fromkeys(record.spec.env, HIDDEN)})
        return Server(
            owner=record.owner,
            project=record.project,
            url=self.url(record),
            hosts=self.hosts(record),
            spec=spec,
            enabled=record.enabled,
            always_on=record.always_on,
            desired=record.desired,
            state=record.state,
            cause=record.cause,
            actor=record.actor,
            failure=record.failure,
            failure_log=record.failure_log,
            retry_at=record.retry_at,
            given_up=record.given_up,
            usual_start=record.usual_start,
            policy=record.policy,
            instance=None
            if instance is None
            else Instance(
                id=instance.id,
                host=instance.host,
                port=instance.port,
                pid=instance.pid,
                started_at=instance.started_at,
                listening=instance.listening,
                awake_at=instance.awake_at,
                thawed_at=instance.thawed_at,
                busy_until=instance.busy_until,
                extended_until=instance.extended_until,
            ),
            last_exit=record.last_exit,
            timing=record.timing,
            route_revision=record.route_revision,
            revision=revision,
            created_at=record.created_at,
            changed_at=record.changed_at,
        )
