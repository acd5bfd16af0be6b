"""Two proxy nodes and two of Ceryx's APIs on three etcd members, of which anything is killed, paused or cut off.

Routes change all the while. In the end every node's NGINX is compared with etcd, key by key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.etcd import EtcdCluster, running_etcd, settle
from tests.system.lair import Lair
from tests.wires import State, Wire

from sourcelair.ceryx.agent.entries import differs, entry_of
from sourcelair.ceryx.models import ROUTES, decode_route
from sourcelair.ceryx.nginx.control import NginxControl
from sourcelair.client.ceryx import CeryxClient, Route, RouteWrite
from sourcelair.errors import LairError
from sourcelair.store.etcd import EtcdStore, parse_address

HOSTS = 400
PREFIX = "/chaos"
SETTLED = 60.0
"""Seconds in which every node must have come to the newest revision, once nothing bad happens any more."""

LONGEST = 4.0
"""Seconds that something bad lasts at most."""


@dataclass
class Part:
    """A process, and the wires by which it alone reaches etcd."""

    lair: Lair
    wires: list[Wire]

    def is_running(self) -> bool:
        return self.lair.up is not None and self.lair.up.poll() is None

    def keep_running(self) -> None:
        """Start it where it has ended, as a supervisor does."""
        if not self.is_running():
            self.lair.start(wait=False)


@dataclass
class Seen:
    """What was done, and what was wrong in the end."""

    done: Counter[str] = field(default_factory=Counter)
    written: int = 0
    refused: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return all of it in a line."""
        what = ", ".join(f"{number} {action}" for action, number in sorted(self.done.items()))
        return (
            f"{self.written} writes, {self.refused} refused; {what}; {self.compared} routes compared on two nodes: "
            f"{len(self.problems)} differ"
        )


async def run(directory: Path, seconds: float, seed: int) -> Seen:
    """Do bad things for some seconds, and compare.

    Args:
        directory: empty.
        seconds: of bad things.
        seed: of all chances that are taken.
    """
    (directory / "etcd").mkdir(parents=True)
    with running_etcd(directory / "etcd", 3, wired=True) as etcd, contextlib.ExitStack() as stack:
        parts = [_part(stack, directory, etcd, f"ceryx-{n}", ("ceryx", "--role", "api")) for n in (1, 2)]
        parts += [_part(stack, directory, etcd, f"proxy-{n}", ("ceryx", "--role", "proxy")) for n in (1, 2)]
        for part in parts:
            await asyncio.to_thread(part.lair.wait_ready)
        seen, over = Seen(), asyncio.Event()
        supervising = asyncio.create_task(_supervise(parts, over))
        writing = asyncio.create_task(_write(parts[:2], seen, over, seed))
        await _disturb(etcd, parts, seen, seconds, random.Random(seed))
        over.set()
        await asyncio.gather(writing, supervising)
        async with _settled(etcd, parts) as store:
            await _compare(store, parts[2:], seen)
    (directory / "settle").mkdir()
    await settle(directory / "settle")
    return seen


def _part(stack: contextlib.ExitStack, directory: Path, etcd: EtcdCluster, name: str, command: tuple[str, ...]) -> Part:
    wires = [stack.enter_context(Wire(member.client)) for member in etcd.members]
    store = f"etcd://{','.join(f'127.0.0.1:{wire.port}' for wire in wires)}{PREFIX}"
    env = {"LAIR_STORE": store, "LAIR_NODE": name, "LAIR_TEST_LEASE": "2", "LAIR_NODE_LEASE": "2"}
    lair = Lair(directory / name, env, command=command)
    stack.callback(_close, lair)
    lair.start(wait=False)
    return Part(lair, wires)


def _close(lair: Lair) -> None:
    if lair.up is not None and lair.up.poll() is None:
        lair.up.send_signal(signal.SIGCONT)
    lair.close()


async def _supervise(parts: list[Part], over: asyncio.Event) -> None:
    while not over.is_set():
        for part in parts:
            part.keep_running()
        await asyncio.sleep(0.2)


async def _write(apis: list[Part], seen: Seen, over: asyncio.Event, seed: int) -> None:
    """Change routes at random by whatever API answers."""
    dice = random.Random(seed + 1)
    token = apis[0].lair.token
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(CeryxClient(part.lair.api, token, patience=3.0)) for part in apis]
        while not over.is_set():
            source = f"h{dice.randrange(HOSTS)}.example.com"
            route = Route(source=source, target=f"http://10.{dice.randrange(256)}.0.1:{dice.randrange(1, 60_000)}")
            writes = [RouteWrite(source=source, route=route if dice.random() < 0.7 else None)]
            try:
                await dice.choice(clients).batch(writes)
                seen.written += 1
            except LairError:
                seen.refused += 1
                await asyncio.sleep(0.05)


async def _disturb(etcd: EtcdCluster, parts: list[Part], seen: Seen, seconds: float, dice: random.Random) -> None:
    loop = asyncio.get_running_loop()
    store = EtcdStore(parse_address(etcd.url(PREFIX)), "ceryx")
    end = loop.time() + seconds
    while loop.time() < end:
        action, lasts = dice.choice(ACTIONS), dice.uniform(0.1, LONGEST)
        seen.done[action] += 1
        part, member = dice.choice(parts), dice.choice(etcd.members)
        match action:
            case "members killed":
                member.kill()
                await asyncio.sleep(lasts)
                member.start()
            case "times all members killed":
                for each in etcd.members:
                    each.kill()
                await asyncio.sleep(lasts)
                for each in etcd.members:
                    each.start()
            case "members paused":
                member.send(signal.SIGSTOP)
                await asyncio.sleep(lasts)
                member.send(signal.SIGCONT)
            case "members cut off":
                await asyncio.to_thread(etcd.cut_off, member)
                await asyncio.sleep(lasts)
                await asyncio.to_thread(etcd.mend)
            case "compactions":
                with contextlib.suppress(LairError):
                    await store.compact(await store.revision())
            case "processes killed":
                if part.is_running():
                    part.lair.kill9()
            case "processes paused":
                if part.is_running():
                    assert part.lair.up is not None
                    part.lair.up.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(lasts)
                    part.lair.up.send_signal(signal.SIGCONT)
            case "NGINX killed":
                for process in dice.choice(parts[2:]).lair.nginx():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            case "processes cut off":
                state = dice.choice([State.SILENT, State.MUTE, State.BROKEN])
                some = part.wires if dice.random() < 0.5 else dice.sample(part.wires, 1)
                for wire in some:
                    await asyncio.to_thread(wire.set, state)
                await asyncio.sleep(lasts)
                for wire in some:
                    await asyncio.to_thread(wire.set, State.WHOLE)
        await asyncio.sleep(dice.uniform(0.0, 0.5))
    await store.close()


ACTIONS = (
    "members killed", "times all members killed", "members paused", "members cut off", "compactions", "compactions",
    "processes killed", "processes killed", "processes paused", "processes cut off", "processes cut off",
    "NGINX killed",
)  # fmt: skip


@contextlib.asynccontextmanager
async def _settled(etcd: EtcdCluster, parts: list[Part]) -> AsyncIterator[EtcdStore]:
    """Wait until one last write has come to every node; give the store."""
    await asyncio.to_thread(etcd.wait)
    for part in parts:
        part.keep_running()
    token = parts[0].lair.token
    async with asyncio.timeout(SETTLED), CeryxClient(parts[0].lair.api, token) as client:
        while True:
            try:
                last = Route(source="last.example.com", target="http://10.0.0.1:1")
                revision = (await client.batch([RouteWrite(source=last.source, route=last)])).revision
                nodes = await client.nodes()
                if len(nodes) == 2 and all(n.state == "live" and (n.applied or 0) >= revision for n in nodes):
                    break
            except LairError:
                pass
            for part in parts:
                part.keep_running()
            await asyncio.sleep(0.3)
    store = EtcdStore(parse_address(etcd.url(PREFIX)), "ceryx")
    try:
        yield store
    finally:
        await store.close()


async def _compare(store: EtcdStore, proxies: list[Part], seen: Seen) -> None:
    routes = [decode_route(entry) for entry in (await store.list(ROUTES)).entries]
    wanted = {route.source: entry_of(route)[0] for route in routes}
    sources = sorted({*wanted, *(f"h{number}.example.com" for number in range(HOSTS))})
    seen.compared = len(wanted)
    for part in proxies:
        data = part.lair.data_dir
        engine = json.loads((data / "nginx" / "engine.json").read_text())
        control = NginxControl(Path(engine["control"]) / "control.sock")
        state = await control.hello(int((data / "agent" / "session").read_text()))
        if state.routes != len(wanted):
            seen.problems.append(f"{part.lair.directory.name} holds {state.routes} routes of {len(wanted)}")
        for source, found in zip(sources, await control.read(sources), strict=True):
            entry = wanted.get(source)
            is_there = found is not None and found.state != "deleted"
            if (entry is not None) != is_there or (entry and found and differs(entry, found)):
                seen.problems.append(f"{part.lair.directory.name}: {source} is {found}, and should be {entry}")
