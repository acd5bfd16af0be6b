"""Ours and Traefik with their routes in a cluster of etcd."""

from __future__ import annotations

from collections.abc import Iterator

from bench.asking import Call
from bench.etcd import Etcd, put
from bench.install import program
from bench.peers.base import Routes, Running, process_family
from bench.peers.lair import Lair
from bench.stage import Stage, until_accepts


class LairOnEtcd(Lair):
    """`lair up --store etcd://…`.

    Args:
        etcd: the cluster.
    """

    name = "SourceLair, etcd"

    def __init__(self, etcd: Etcd) -> None:
        super().__init__()
        self.etcd = etcd

    def start(self, stage: Stage, routes: Routes, **settings: str) -> Running:
        """See `Lair.start`; each has a prefix of its own."""
        folder = stage.folder("store").name
        return super().start(stage, routes, LAIR_STORE=self.etcd.url(f"/{folder}"), **settings)

    def changing(self) -> list[int]:
        """See `Lair.changing`; etcd's members take part."""
        return super().changing() + self.etcd.pids()


class TraefikOnEtcd:
    """Traefik's etcd provider: three keys for a route, and one is written to change it, over etcd's JSON gateway.

    Args:
        etcd: the cluster.
        throttle: how long it takes no new change after one, such as `100ms`; by default 2 seconds.
    """

    program = "traefik"
    most_routes = 10_000
    api_connections = 32

    def __init__(self, etcd: Etcd, throttle: str = "") -> None:
        self.name = "Traefik, etcd" + (f", {throttle} between changes" if throttle else "")
        self.etcd = etcd
        self.api_port = etcd.ports[0]
        self._throttle = [f"--providers.providersthrottleduration={throttle}"] if throttle else []
        self._numbers: dict[str, int] = {}
        self._root = ""

    def start(self, stage: Stage, routes: Routes) -> Running:
        """Write all routes, and start it with them."""
        folder = stage.folder("traefik")
        self._root = folder.name
        self._numbers = {host: number for number, host in enumerate(routes)}
        self.etcd.write(self._keys(routes))
        return self.up(stage)

    def up(self, stage: Stage) -> Running:
        """Start it, the first time or again."""
        port = stage.free_port()
        command = [
            program("traefik"),
            f"--entrypoints.public.address=127.0.0.1:{port}",
            f"--providers.etcd.endpoints={','.join(f'127.0.0.1:{member}' for member in self.etcd.ports)}",
            f"--providers.etcd.rootkey={self._root}",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
            *self._throttle,
        ]
        process = stage.spawn(command, env={"GOMAXPROCS": "1"}, cwd=stage.folder("traefik"))
        until_accepts(port, process)
        return Running(port, process_family(process.pid))

    def change(self, host: str, target: int) -> Call:
        """Return what sets one route."""
        return put(dict([self._service(host, target)]))

    def changes(self, routes: Routes) -> Call:
        """Return what sets many routes, all or none."""
        return put(dict(self._service(host, target) for host, target in routes.items()), len(routes))

    def _keys(self, routes: Routes) -> Iterator[tuple[str, str]]:
        for target in dict.fromkeys(routes.values()):
            yield (
                f"{self._root}/http/services/t{target}/loadBalancer/servers/0/url",
                f"http://127.0.0.1:{target}",
            )
        for host, target in routes.items():
            yield f"{self._root}/http/routers/r{self._numbers[host]}/rule", f"Host(`{host}`)"
            yield self._service(host, target)

    def _service(self, host: str, target: int) -> tuple[str, str]:
        return f"{self._root}/http/routers/r{self._numbers[host]}/service", f"t{target}"
