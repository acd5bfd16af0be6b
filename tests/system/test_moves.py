"""Moving a running installation from files to etcd, and back: nobody's server ends, and no visitor is turned away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.etcd import EtcdCluster, running_etcd
from tests.system.lair import Lair, running_lair
from tests.system.site import App, Site, site_of
from tests.system.visitors import traffic

from sourcelair.client.ceryx import Route, RouteSettings, RouteWrite
from sourcelair.client.policy import SleepPolicy

pytestmark = [pytest.mark.anyio, pytest.mark.system]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as cluster:
        yield cluster


@pytest.fixture
def lair(tmp_path: Path) -> Iterator[Lair]:
    with running_lair(tmp_path / "lair") as running:
        yield running


@dataclass
class Town:
    """Servers in every state of rest, and routes of nobody's server."""

    awake: App
    asleep: App
    dozing: App
    port: int

    def on(self, site: Site) -> None:
        """Go on with another run of the same installation."""
        for app in (self.awake, self.asleep, self.dozing):
            app.site = site


async def lull(app: App, mode: Literal["stop", "doze"], state: str) -> None:
    """Have it sleep as Hemera does, once the node has reported the last visit."""
    async with asyncio.timeout(20):
        while not await app.sleep(mode):
            await asyncio.sleep(0.1)
    await app.until(state)


async def build(site: Site, directory: Path) -> Town:
    policy = SleepPolicy(stop_after=3600, doze_after=1800)
    awake = await site.identity("ann", "awake", directory, policy=policy)
    asleep = await site.identity("ann", "asleep", directory, policy=policy)
    dozing = await site.identity("bob", "dozing", directory, policy=policy)
    for app in (awake, asleep, dozing):
        assert (await app.fetch("/")).status == 200
    await asleep.stop()
    await lull(dozing, "doze", "dozing")
    instance = (await awake.server()).instance
    assert instance is not None and instance.port is not None
    plain = Route(source="plain.example.com", target=f"http://127.0.0.1:{instance.port}")
    moved = Route(source="old.example.com", target="https://new.example.com", settings=RouteSettings(mode="redirect"))
    await site.ceryx.batch([RouteWrite(source=route.source, route=route) for route in (plain, moved)])
    for number in range(50):  # so that its revisions are far above those of a fresh store
        await site.ceryx.batch([RouteWrite(source=plain.source, route=plain)])
        await site.ceryx.batch(
            [
                RouteWrite(
                    source=f"r{number}.example.com", route=plain.model_copy(update={"source": f"r{number}.example.com"})
                )
            ]
        )
    return Town(awake, asleep, dozing, instance.port)


async def move(lair: Lair, source: str, target: str, env: dict[str, str], site: Site, town: Town) -> dict[str, Any]:
    """Copy while the system runs, stop it, and start on the copy, as the how-to says."""
    with subprocess.Popen(
        [sys.executable, "-m", "sourcelair.cli", "store", "copy", source, target, "--follow"],
        env=lair.env,
        cwd=lair.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as following:
        assert following.stdout is not None
        said = await asyncio.to_thread(following.stdout.readline)
        assert "Following the system" in said, said
        late = Route(source=f"late-{len(source)}.example.com", target=f"http://127.0.0.1:{town.port}")
        await site.ceryx.batch([RouteWrite(source=late.source, route=late)])
        await asyncio.to_thread(lair.terminate)
        rest = await asyncio.to_thread(following.stdout.read)
        assert await asyncio.to_thread(following.wait, 30) == 0, rest
        assert "Nothing differs" in rest
    lair.env.pop("LAIR_STORE", None)
    lair.env.update(env)
    await asyncio.to_thread(lair.start)
    return {"late": late.source}


async def check(site: Site, town: Town, *, late: str) -> None:
    """It is the same installation: what ran runs, what slept sleeps, and all of it can be changed."""
    for source in ("plain.example.com", "r49.example.com", late):
        answer = await site.fetch(source)
        assert (answer.status, answer.headers["server-name"]) == (200, town.awake.name), source
    redirected = await site.fetch("old.example.com", "/a?b=c")
    assert (redirected.status, redirected.headers["location"]) == (301, "https://new.example.com/a?b=c")
    assert (await town.asleep.server()).state == "asleep"
    assert (await town.dozing.server()).state == "dozing"
    starts = {app.name: len(app.starts()) for app in (town.awake, town.asleep, town.dozing)}
    assert (await town.asleep.fetch("/")).status == 200
    assert (await town.dozing.fetch("/")).status == 200
    assert len(town.asleep.starts()) == starts[town.asleep.name] + 1
    assert len(town.dozing.starts()) == starts[town.dozing.name], "it was thawed"
    # NGINX takes newer routes only, and nodes prove withdrawals by revisions: both have to go on.
    await lull(town.dozing, "doze", "dozing")
    await town.asleep.stop()
    await town.asleep.until("asleep")
    await lull(town.awake, "stop", "asleep")
    assert (await town.awake.fetch("/")).status == 200
    instance = (await town.awake.server()).instance
    assert instance is not None and instance.port is not None
    town.port = instance.port
    sources = ["plain.example.com", "r49.example.com", *({late} if late else ())]
    for source in sources:
        route = Route(source=source, target=f"http://127.0.0.1:{town.port}")
        assert (await site.ceryx.batch([RouteWrite(source=source, route=route)])).served
        assert (await site.fetch(source)).status == 200
    (node,) = await site.ceryx.nodes()
    assert (node.state, node.lag) == ("live", 0)
    assert "store_went_back" not in site.lair.output


async def test_from_files_to_etcd_and_back(lair: Lair, etcd: EtcdCluster, tmp_path: Path) -> None:
    """A server under constant traffic keeps its instance; who sleeps and who dozes still does; routes are served."""
    files, url = str(lair.data_dir), etcd.url("/lair")
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(site_of(lair))
        town = await build(site, tmp_path)
        for source, target, env in ((files, url, {"LAIR_STORE": url}), (url, files, {})):
            before = (await town.awake.server()).instance
            revision = (await site.ceryx.list_routes())[1]
            async with traffic(site.address, town.awake.host, prefix=f"t{len(source)}") as seen:
                found = await move(lair, source, target, env, site, town)
                site = await stack.enter_async_context(site_of(lair))
                town.on(site)
                after = (await town.awake.until("awake")).instance
            town.awake.check_books(seen)
            assert len(seen.answered) > 100
            assert before is not None and after is not None and before.id == after.id
            assert (await site.ceryx.list_routes())[1] > revision
            await check(site, town, late=found["late"])
        # What was left behind is no place to start at by mistake.
        stale = lair.cli("store", "copy", url, files, check=False)
        assert stale.returncode == 4 and "in use" in stale.stderr


async def test_nothing_starts_on_a_copy_of_a_running_system(lair: Lair, etcd: EtcdCluster) -> None:
    """It says what to do; and the copy says so too."""
    url = etcd.url("/early")
    done = lair.cli_json("store", "copy", str(lair.data_dir), url)
    assert not done["whole"] and done["stores"]["auth"]["keys"] == 3
    await asyncio.to_thread(lair.terminate)
    lair.env["LAIR_STORE"] = url
    ended = await asyncio.to_thread(lair.cli, "up", check=False)
    assert ended.returncode == 4
    assert "went on in the original" in ended.stderr and f"lair store copy {lair.data_dir} {url}" in ended.stderr
    text = lair.cli("store", "copy", str(lair.data_dir), url).stdout
    assert "Nothing differs" in text and f"lair up --store {url}" in text
    await asyncio.to_thread(lair.start)
    assert json.loads(lair.call("GET", "/api/tokens/").body)
