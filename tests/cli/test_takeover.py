"""What becomes of a route of another Ceryx, by what stands here already."""

from __future__ import annotations

from pathlib import Path

import pytest

from sourcelair.cli.original import Found, parse_address, read_password
from sourcelair.cli.takeover import plan
from sourcelair.client.ceryx import Route, RouteSettings, StoredRoute
from sourcelair.errors import InvalidInput


def found(source: str, target: str = "http://10.0.0.1:80", *, as_it_stands: str | None = None) -> Found:
    return Found(as_it_stands or source, Route(source=source, target=target))


def stored(source: str, target: str | None, *, manager: str | None = None, https: bool = False) -> StoredRoute:
    settings = RouteSettings(enforce_https=https)
    return StoredRoute(source=source, target=target, settings=settings, managed_by=manager, revision=7)


def test_new_same_and_other_routes() -> None:
    ours = [stored("same.org", "http://10.0.0.1:80"), stored("https.org", "http://10.0.0.1:80", https=True)]
    ours.append(stored("asleep.org", None))
    theirs = [found(source) for source in ("new.org", "same.org", "https.org", "asleep.org")]
    assert [one.fate for one in plan(theirs, ours, overwrite=False)] == ["created", "same", "left", "left"]
    decided = plan(theirs, ours, overwrite=True)
    assert [one.fate for one in decided] == ["created", "same", "changed", "changed"]
    assert [one.write and one.write.expect for one in decided] == [0, None, 7, 7]


def test_a_servers_route_is_never_replaced() -> None:
    (one,) = plan([found("a.org")], [stored("a.org", None, manager="sourcelair-api")], overwrite=True)
    assert (one.fate, one.write) == ("left", None)
    assert "sourcelair-api" in (one.reason or "")


def test_of_two_forms_of_a_host_the_proper_one_counts() -> None:
    """The original looked hosts up in lower case only."""
    theirs = [found("a.org", "http://10.0.0.9:80", as_it_stands="A.org"), found("a.org")]
    proper, other = plan(theirs, [], overwrite=False)
    assert (proper.fate, proper.write and proper.write.route) == ("created", theirs[1].route)
    assert (other.source, other.fate) == ("A.org", "refused")


@pytest.mark.parametrize(
    "text",
    ["http://localhost:6379", "redis://", "redis://host:0", "redis://host:x/0", "redis://host/zero", "redis://h/0?a=b"],
)
def test_what_is_no_address_of_redis(text: str) -> None:
    with pytest.raises(InvalidInput, match="address of Redis"):
        parse_address(text)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="password") as error:
        parse_address("redis://:hush@localhost")
    assert "hush" not in error.value.detail


def test_addresses_of_redis() -> None:
    assert str(parse_address("redis://localhost")) == "Redis at localhost:6379"
    address = parse_address("rediss://lair@[::1]:7000/3")
    assert (address.host, address.port, address.database, address.user) == ("::1", 7000, 3, "lair")
    assert address.tls


def test_the_password_of_a_file_comes_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CERYX_REDIS_PASSWORD", "theirs")
    (tmp_path / "password").write_text("ours\nof redis\n")
    assert read_password(tmp_path / "password") == "ours"
    assert read_password(None) == "theirs"
    with pytest.raises(InvalidInput, match="can't be read"):
        read_password(tmp_path / "nothing")
