"""Coming from the original Ceryx: its routes in a real Redis, as it wrote them, are taken over by a running system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.redis import RedisServer, running_redis
from tests.system.lair import Lair

from sourcelair.cli.original import Found
from sourcelair.cli.takeover import carry_out, plan
from sourcelair.client.ceryx import CeryxClient, Route, RouteWrite

pytestmark = pytest.mark.system


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def tidy(lair: Lair) -> Iterator[None]:
    """Each test begins without routes."""
    yield
    writes = [{"source": source} for source in routes(lair)]
    assert lair.call("POST", "/api/routes:batch", {"writes": writes}).status == 200


def put(redis: RedisServer, source: str, target: str, *, prefix: str = "ceryx:", **settings: str) -> None:
    """Write a route as the original does."""
    redis.client.set(f"{prefix}routes:{source}", target)
    if settings:
        redis.client.hset(f"{prefix}settings:{source}", mapping=settings)


def changes(redis: RedisServer) -> int:
    """How many writes Redis has done."""
    return int(redis.client.info("persistence")["rdb_changes_since_last_save"])


def routes(lair: Lair) -> dict[str, dict[str, object]]:
    return {route["source"]: route for route in lair.call("GET", "/api/routes/").json()}


def test_routes_are_taken_over_as_they_were(lair: Lair, redis: RedisServer) -> None:
    """With their settings; a second time changes nothing, and Redis is only read."""
    put(redis, "app.example.com", "http://10.0.0.1:3000", enforce_https="0", mode="proxy")
    put(redis, "safe.example.com", "10.0.0.2:3000", enforce_https="1", certificate_path="/c.pem", key_path="/k.pem")
    put(redis, "old.example.com", "https://new.example.com/here/", mode="redirect")
    put(redis, "$wildcard", "http://10.0.0.3/")
    put(redis, "other.example.com", "http://10.0.0.4", prefix="another:")
    redis.client.set("ceryx-routes:not.example.com", "http://10.0.0.5")
    before = changes(redis)
    done = lair.cli_json("store", "import-ceryx", redis.url)
    assert done["counts"] == {"created": 4, "changed": 0, "same": 0, "left": 0, "refused": 0}
    found = routes(lair)
    assert set(found) == {"app.example.com", "safe.example.com", "old.example.com", "$wildcard"}
    assert found["safe.example.com"] == {
        "source": "safe.example.com",
        "target": "http://10.0.0.2:3000",
        "settings": {
            "enforce_https": True,
            "mode": "proxy",
            "certificate_path": "/c.pem",
            "key_path": "/k.pem",
        },
    }
    assert lair.get("old.example.com", "/a?b").headers["location"] == "https://new.example.com/here/a?b"
    assert lair.cli("store", "import-ceryx", redis.url).stdout == "4 same.\n"
    assert changes(redis) == before
    assert lair.cli("store", "import-ceryx", redis.url, "--prefix", "another").stdout.endswith("1 created.\n")
    assert lair.cli("store", "import-ceryx", f"{redis.url}/3").stdout == "no routes found.\n"


def test_without_a_prefix_and_with_one_of_special_characters(lair: Lair, redis: RedisServer) -> None:
    """What matches everything in a pattern is a character like any other in a prefix."""
    put(redis, "none.example.com", "http://10.0.0.1", prefix="")
    put(redis, "star.example.com", "http://10.0.0.2", prefix="c*[x]:")
    put(redis, "trap.example.com", "http://10.0.0.3", prefix="caax:")
    lair.cli("store", "import-ceryx", redis.url, "--prefix", "c*[x]")
    assert set(routes(lair)) == {"star.example.com"}
    lair.cli("store", "import-ceryx", redis.url, "--prefix", "")
    assert set(routes(lair)) == {"star.example.com", "none.example.com"}


def test_a_dry_run_does_nothing(lair: Lair, redis: RedisServer) -> None:
    put(redis, "app.example.com", "http://10.0.0.1:3000")
    said = lair.cli("store", "import-ceryx", redis.url, "--dry-run").stdout
    assert said == "created  app.example.com\nNothing was done; it would be: 1 created.\n"
    assert routes(lair) == {}


def test_routes_that_differ_are_left_unless_they_are_to_be_replaced(lair: Lair, redis: RedisServer) -> None:
    """Those of servers always are."""
    put(redis, "app.example.com", "http://10.0.0.1:3000")
    lair.cli("routes", "set", "app.example.com", "http://10.9.9.9:1")
    lair.cli("create", "ann/blog", "--", "true")
    server = lair.host("ann/blog")
    put(redis, server, "http://10.0.0.1:3000")
    done = lair.cli("store", "import-ceryx", redis.url, check=False)
    assert done.returncode == 1
    assert "left     app.example.com: there is another (http://10.9.9.9:1)" in done.stdout
    assert f"left     {server}: it is managed by sourcelair-api." in done.stdout
    assert done.stdout.endswith("2 left.\n")
    done = lair.cli("store", "import-ceryx", redis.url, "--overwrite", check=False)
    assert done.returncode == 1 and done.stdout.endswith("1 changed, 1 left.\n")
    assert routes(lair)["app.example.com"]["target"] == "http://10.0.0.1:3000"
    lair.cli("rm", "ann/blog", "--yes")


def test_what_can_be_no_route_is_named_and_the_rest_is_taken(lair: Lair, redis: RedisServer) -> None:
    put(redis, "good.example.com", "http://10.0.0.1:3000")
    put(redis, "bad host", "http://10.0.0.1:3000")
    put(redis, "path.example.com", "http://10.0.0.1:3000/app")
    put(redis, "mode.example.com", "http://10.0.0.1:3000", mode="fly")
    put(redis, "truth.example.com", "http://10.0.0.1:3000", enforce_https="yes")
    put(redis, "extra.example.com", "http://10.0.0.1:3000", headers="x")
    redis.client.lpush("ceryx:routes:list.example.com", "http://10.0.0.1:3000")
    redis.client.set(b"ceryx:routes:bytes.example.com", b"\xff")
    done = lair.cli("store", "import-ceryx", redis.url, "--json", check=False)
    assert done.returncode == 1
    refused = {one["source"]: one["reason"] for one in json.loads(done.stdout)["routes"] if one["fate"] == "refused"}
    assert {source: reason.partition(":")[0] for source, reason in refused.items()} == {
        "bad host": "source",
        "path.example.com": "target",
        "mode.example.com": "settings.mode",
        "truth.example.com": "settings.enforce_https",
        "extra.example.com": "settings",
        "list.example.com": "target",
        "bytes.example.com": "it has bytes that are no UTF-8.",
    }
    assert set(routes(lair)) == {"good.example.com"}


@pytest.mark.anyio
async def test_what_somebody_changed_meanwhile_is_left(lair: Lair) -> None:
    """The rest of its batch is written; and a route that became a server's is left too."""
    theirs = [Found(host, Route(source=host, target="http://10.0.0.1:80")) for host in ("a.org", "b.org", "c.org")]
    service = (lair.data_dir / "service.token").read_text().strip()
    async with CeryxClient(lair.api, service) as client:
        decided = plan(theirs, [], overwrite=False)
        ours = Route(source="a.org", target="http://10.0.0.2:80")
        await client.batch([RouteWrite(source="a.org", route=ours)])
        await client.batch([RouteWrite(source="b.org", route=Route(source="b.org"))], managed_by="somebody")
        await carry_out(client, decided)
        assert [one.fate for one in decided] == ["left", "left", "created"]
        assert "meanwhile" in (decided[0].reason or "")
        assert {name: route["target"] for name, route in routes(lair).items()} == {
            "a.org": "http://10.0.0.2:80",
            "b.org": None,
            "c.org": "http://10.0.0.1:80",
        }
        await client.batch([RouteWrite(source="b.org")], managed_by="somebody")


def test_thousands_of_routes(lair: Lair, redis: RedisServer) -> None:
    pipeline = redis.client.pipeline(transaction=False)
    for number in range(5000):
        pipeline.set(f"ceryx:routes:r{number}.example.com", f"http://10.0.{number // 250}.{number % 250 + 1}:80")
        pipeline.hset(f"ceryx:settings:r{number}.example.com", mapping={"enforce_https": "1"})
    pipeline.execute()
    done = lair.cli_json("store", "import-ceryx", redis.url)
    assert done["counts"]["created"] == 5000
    assert len(routes(lair)) == 5000
    lair.cli_json("store", "import-ceryx", redis.url, "--overwrite")


def test_a_password(lair: Lair, tmp_path: Path) -> None:
    """From a file or from the variable that the original reads; no message repeats one."""
    (tmp_path / "password").write_text("hush-hush\n")
    with running_redis(tmp_path, "hush-hush") as redis:
        put(redis, "app.example.com", "http://10.0.0.1:3000")
        refused = lair.cli("store", "import-ceryx", redis.url, check=False)
        assert refused.returncode == 1 and "CERYX_REDIS_PASSWORD" in refused.stderr
        (tmp_path / "wrong").write_text("wrong-one\n")
        refused = lair.cli("store", "import-ceryx", redis.url, "--password-file", str(tmp_path / "wrong"), check=False)
        assert refused.returncode == 1 and "wrong-one" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        file = ("--password-file", str(tmp_path / "password"))
        assert lair.cli("store", "import-ceryx", redis.url, *file).stdout.endswith("1 created.\n")
        lair.env["CERYX_REDIS_PASSWORD"] = "hush-hush"
        try:
            assert lair.cli("store", "import-ceryx", redis.url).stdout == "1 same.\n"
        finally:
            del lair.env["CERYX_REDIS_PASSWORD"]
        in_address = lair.cli("store", "import-ceryx", f"redis://:hush-hush@127.0.0.1:{redis.port}", check=False)
        assert in_address.returncode == 2 and "hush" not in in_address.stderr


def test_redis_is_not_there(lair: Lair) -> None:
    """One line, which says so; and nothing of a traceback."""
    done = lair.cli("store", "import-ceryx", "redis://127.0.0.1:1", check=False)
    assert done.returncode == 6
    assert done.stderr.startswith("lair: Redis at 127.0.0.1:1 does not answer")
    assert len(done.stderr.splitlines()) == 1
