"""A route's own settings from the API to the node's table, and back after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.ceryx.agents import alive, eventually, live, make_agent
from tests.ceryx.conftest import Ceryx
from tests.ceryx.engine import MemoryEngine
from tests.ceryx.nginx.test_settings import compiled

from sourcelair.ceryx.addresses import network_of, pattern_of
from sourcelair.ceryx.agent import agent as agents
from sourcelair.ceryx.agent import reports
from sourcelair.ceryx.agent.compiled import compile_settings
from sourcelair.ceryx.table import Flow
from sourcelair.client.ceryx import RouteSettings, RouteWrite
from sourcelair.client.policy import QuietRule
from sourcelair.errors import InvalidInput
from sourcelair.telemetry import METRICS

pytestmark = pytest.mark.anyio

ORIGINAL = {"enforce_https": False, "mode": "proxy", "certificate_path": None, "key_path": None}
OWN = {"patience": 2.0, "wake_timeout": 30.0, "streams": "flow", "buffering": "response"}


async def test_own_settings_are_shown_where_they_are_said(ceryx: Ceryx) -> None:
    """Stored, listed and watched as they were written; without them the answer is exactly the original's."""
    client = ceryx.client()
    rule = {"path": "/health", "address": "10.0.0.0/8"}
    body = {"target": "http://h:1", "settings": OWN | {"quiet": [rule]}}
    put = await client.request("PUT", "/api/routes/a.example.com/", body=body)
    shown = put.json()["settings"]
    assert shown | {"quiet": None} == ORIGINAL | OWN | {"quiet": None}
    assert [{key: value for key, value in shown["quiet"][0].items() if value}] == [rule]
    assert (await client.request("GET", "/api/routes/a.example.com/")).json() == put.json()
    assert (await client.request("GET", "/api/routes/")).json() == [put.json()]
    assert (await client.get_route("a.example.com")).settings.quiet == [QuietRule(**rule)]
    plain = await client.request("PUT", "/api/routes/a.example.com/", body={"target": "http://h:1"})
    assert plain.json()["settings"] == ORIGINAL
    assert (await client.request("GET", "/api/routes/")).json()[0]["settings"] == ORIGINAL


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([{}, {"address": "10.0.0.300"}], "settings.quiet.1.address: Value error, '10.0.0.300' is not an address"),
        ([{"address": "10.0.0.0/33"}], "settings.quiet.0.address: Value error, '10.0.0.0/33' is not an address"),
        ([{"address": "office"}], "settings.quiet.0.address: Value error, 'office' is not an address"),
        ([{"value": "x"}], "settings.quiet.0: Value error, value: name the header"),
        ([{"path": "health"}], "write a path that begins with /"),
        ([{"method": "get"}], "method"),
        ([{"speed": 1}], "speed"),
    ],
)
async def test_what_a_rule_can_not_mean_is_refused(ceryx: Ceryx, rules: list[dict[str, Any]], complaint: str) -> None:
    """The answer names the rule, and what is wrong with it."""
    client = ceryx.client()
    with pytest.raises(InvalidInput) as refused:
        await client.request("PUT", "/api/routes/a/", body={"target": "http://h:1", "settings": {"quiet": rules}})
    assert complaint in refused.value.detail


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("10.0.0.0/8", "^40a"),
        ("10.1.2.3", "^40a010203"),
        ("192.168.4.0/22", "^4c0a80[4567]"),
        ("10.1.2.3/8", "^40a"),
        ("0.0.0.0/0", "^4"),
        ("::/0", "^6"),
        ("2001:db8::/33", "^620010db8[01234567]"),
        ("::1", "^6" + "0" * 31 + "1"),
        ("::ffff:10.0.0.0/104", "^40a"),
    ],
)
def test_ranges_as_patterns(text: str, pattern: str) -> None:
    """What NGINX matches against an address in hexadecimal digits."""
    assert pattern_of(network_of(text)) == pattern


def test_what_is_compiled() -> None:
    """Nothing where nothing is said; no separator or control character gets through."""
    assert compile_settings(RouteSettings(), flows=True) is None
    assert compile_settings(RouteSettings(streams="always", quiet=[]), flows=True) is None
    assert compile_settings(RouteSettings(streams="flow"), flows=False) is None
    assert compile_settings(RouteSettings(streams="flow"), flows=True) == "||flow||"
    assert compile_settings(RouteSettings(patience=0, wake_timeout=1.5), flows=True) == "0.0|1.5|||"
    assert compile_settings(RouteSettings(strip_prefix=True), flows=True) == "|||1|"
    assert compile_settings(RouteSettings(buffering="none"), flows=True) == "||||none"
    both = RouteSettings(streams="never", buffering="request", quiet=[QuietRule(method="HEAD")])
    assert compile_settings(both, flows=True) == "||never||request|,,HEAD,,,,"
    rule = QuietRule(agent="A|b,\t\nÉ", header="X-Probe", value="a,b", wakes=True)
    assert compile_settings(RouteSettings(quiet=[rule]), flows=True) == "|||||1,,,a%7Cb%2C%09%0A%C3%89,,x_probe,a%2Cb"


async def test_a_change_of_settings_alone_is_applied(api: Ceryx, tmp_path: Path) -> None:
    """Through the watch; by an agent that was away; and by an NGINX that holds others, at the same revision."""
    client, engine = api.client(), MemoryEngine()
    route = live("a", instance="i1")
    await client.put_route(route)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        assert engine.table["a"].settings is None
        first = route.model_copy(update={"settings": RouteSettings(patience=1)})
        assert (await client.batch([RouteWrite(source="a", route=first)])).served
        assert engine.table["a"].settings == compiled(patience=1)
    second = route.model_copy(update={"settings": RouteSettings(patience=2)})
    await client.put_route(second)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.table["a"].settings == compiled(patience=2))
    held = engine.table["a"]
    engine.table["a"] = type(held)("a", held.revision, "live", held.address, held.port, held.instance, settings="9|||")
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.table["a"].settings == compiled(patience=2))


async def test_settings_outlive_the_api_and_nginx(api: Ceryx, tmp_path: Path) -> None:
    """A node that starts without the API fills NGINX from its file, settings too."""
    client, engine = api.client(), MemoryEngine()
    route = live("a", instance="i1").model_copy(update={"settings": RouteSettings(quiet=[QuietRule(path="/q")])})
    await client.put_route(route)
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
    engine.restart()
    async with alive(make_agent(tmp_path, "http://127.0.0.1:9", engine)):
        await engine.until(lambda it: it.loaded)
    assert engine.table["a"].settings == compiled(quiet=[QuietRule(path="/q")])


async def test_streams_of_a_node_that_sees_no_bytes_count_as_activity(
    api: Ceryx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safe way: never asleep with somebody there. `never` needs no bytes, and stays."""
    monkeypatch.setattr(agents, "are_visible", lambda: False)
    client, engine = api.client(), MemoryEngine()
    for source, streams in (("a", "flow"), ("b", "never")):
        await client.put_route(live(source).model_copy(update={"settings": RouteSettings(streams=streams)}))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
    assert [engine.table[source].settings for source in ("a", "b")] == [None, "||never||"]


async def test_idle_streams_and_held_requests_are_told(
    api: Ceryx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle stream's beginning is a visit, its being open is none; held and connected are told."""
    monkeypatch.setattr(reports, "HEARTBEAT", 0.02)
    client, engine = api.client(), MemoryEngine(held=7, connections=12)
    await client.put_route(live("a", instance="i1"))
    async with alive(make_agent(tmp_path, api.url, engine)):
        await engine.until(lambda it: it.loaded)
        engine.count("i1", in_flight=3, streams=3, idle_streams=2, total=3)
        counts = api.service.nodes.get("n1").counts
        await eventually(lambda: counts.get("i1").idle_streams == 2)
        (found,) = await client.activity(["i1"])
        assert (found.in_flight, found.streams, found.idle_streams, found.active) == (3, 3, 2, 1)
        engine.count("i1", in_flight=2, streams=2)
        await eventually(lambda: counts.get("i1").in_flight == 2)
        last = counts.get("i1").last_active
        engine.open_flows = [Flow("i1", ("127.0.0.1", 1), ("127.0.0.1", 2))]  # such a connection is not there
        revision = await client.put_route(live("a", 8001, instance="i2"))
        found_withdrawal = await client.withdrawal("i1", revision, until="quiet", wait=10)
        assert [(node.in_flight, node.idle_streams) for node in found_withdrawal.nodes] == [(2, 2)]
        assert counts.get("i1").last_active == last
        await eventually(lambda: api.service.nodes.get("n1").held == 7)
        assert [(node.held, node.connections) for node in await client.nodes()] == [(7, 12)]
        assert b'lair_held_requests{node="n1"} 7.0' in generate_latest(METRICS)
        assert b'lair_connections{node="n1"} 12.0' in generate_latest(METRICS)
        engine.held = 0
        await eventually(lambda: api.service.nodes.get("n1").held == 0)

    def is_silent() -> bool:
        api.clock.now += 11  # again and again: its last report may still have been on its way
        api.service.nodes.expire()
        shown = generate_latest(METRICS)
        return b"lair_held_requests{" not in shown and b"lair_connections{" not in shown

    await eventually(is_silent)
    assert [(node.held, node.connections) for node in await client.nodes()] == [(None, None)]
