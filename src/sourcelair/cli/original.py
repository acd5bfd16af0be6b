"""The routes of the original Ceryx, as it kept them in Redis.

`PREFIX:routes:HOST` is the target, `PREFIX:settings:HOST` a hash of settings, of which `enforce_https` is `1` or `0`;
without a prefix the keys begin with `routes:` and `settings:`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from sourcelair.ceryx.validation import clean_route
from sourcelair.client.ceryx import Route, RouteSettings
from sourcelair.errors import Forbidden, InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

PASSWORD = "CERYX_REDIS_PASSWORD"  # noqa: S105 - the name of the variable in which the original takes it
PORT = 6379

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 5.0, 30.0
"""Seconds in which Redis must take a connection, and give an answer."""

AT_ONCE = 500
"""Routes that are read together."""

_TRUTH = {"1": True, "0": False, "": False}


@dataclass(frozen=True, slots=True)
class Found:
    """One route of Redis: its host as it stands there, and the route, or why it can't be one."""

    source: str
    route: Route | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is. A password is no part of it: it is read when it is needed."""

    host: str
    port: int
    database: int
    user: str | None
    tls: bool

    def __str__(self) -> str:
        return f"Redis at {self.host}:{self.port}"


def parse_address(text: str) -> RedisAddress:
    """Return what `redis://HOST:PORT/DB` says; `rediss://` is TLS, and `USER@` may stand before the host.

    Raises:
        InvalidInput: something in it can't be right; the message never repeats what may be a secret.
    """
    parts = urlsplit(text)
    if parts.scheme not in {"redis", "rediss"}:
        raise InvalidInput("The address of Redis is redis://HOST:PORT/DB, or rediss:// for TLS.")
    if parts.password is not None:
        raise InvalidInput(
            f"No password in the address, which others can read: put it into {PASSWORD}, or name --password-file."
        )
    database = parts.path.strip("/") or "0"
    try:
        port = PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not parts.hostname or not port or not database.isdecimal() or parts.query:
        raise InvalidInput("The address of Redis is redis://HOST:PORT/DB, with numbers for the port and the database.")
    return RedisAddress(parts.hostname, port, int(database), parts.username or None, parts.scheme == "rediss")


def read_password(file: Path | None) -> str | None:
    """Return the password: the first line of a file, else what the environment says, else None.

    Raises:
        InvalidInput: the file can't be read.
    """
    if file is None:
        return os.environ.get(PASSWORD) or None
    try:
        return file.read_text(errors="replace").partition("\n")[0].strip() or None
    except OSError as error:
        raise InvalidInput(f"--password-file: {file} can't be read: {error.strerror}.") from error


async def read_routes(address: RedisAddress, password: str | None, prefix: str) -> list[Found]:
    """Return all routes, in the order of their hosts. Redis goes on serving others meanwhile.

    Raises:
        Unavailable: Redis does not answer.
        Forbidden: it refuses whoever this is.
    """
    from redis.asyncio import Redis

    client = Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        username=address.user,
        password=password,
        ssl=address.tls,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=ANSWER_TIMEOUT,
    )
    begin = f"{prefix}:" if prefix else ""
    found = dict[str, Found]()
    with _failures(address):
        try:
            async for hosts in _hosts(client, f"{begin}routes:".encode()):
                for one in await _read(client, begin, hosts):
                    found[one.source] = one
        finally:
            await client.aclose()
    return [found[source] for source in sorted(found)]


async def _hosts(client: Redis, begin: bytes) -> AsyncIterator[list[bytes]]:
    """Give hosts, some at a time; SCAN may give one twice."""
    pattern, some = re.sub(rb"([][*?\\])", rb"\\\1", begin) + b"*", list[bytes]()
    async for key in client.scan_iter(match=pattern, count=1000):
        some.append(key[len(begin) :])
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


async def _read(client: Redis, begin: str, hosts: Sequence[bytes]) -> list[Found]:
    pipeline = client.pipeline(transaction=False)
    for host in hosts:
        pipeline.get(f"{begin}routes:".encode() + host)
        pipeline.hgetall(f"{begin}settings:".encode() + host)
    answers = await pipeline.execute(raise_on_error=False)
    pairs = zip(hosts, answers[::2], answers[1::2], strict=True)
    return [_found(*one) for one in pairs if one[1] is not None]  # None: it was deleted meanwhile


def _found(host: bytes, target: Any, settings: Any) -> Found:
    source = host.decode(errors="backslashreplace")
    try:
        for what, answer in (("target", target), ("settings", settings)):
            if isinstance(answer, Exception):
                raise InvalidInput(f"{what}: {answer}.")  # noqa: TRY301 - a value of another type
        texts = {name.decode(): value.decode() for name, value in settings.items()}
        route = Route(source=host.decode(), target=target.decode(), settings=_settings(texts))
        return Found(source, clean_route(route))
    except UnicodeDecodeError:
        return Found(source, None, "it has bytes that are no UTF-8.")
    except ValidationError as error:
        first = error.errors()[0]
        return Found(source, None, f"settings.{'.'.join(map(str, first['loc']))}: {first['msg']}.")
    except InvalidInput as error:
        return Found(source, None, error.detail)


def _settings(texts: Mapping[str, str]) -> RouteSettings:
    """Return settings as we have them. Raises InvalidInput, or pydantic's ValidationError: one is unknown or wrong."""
    values: dict[str, Any] = dict(texts)
    if (text := texts.get("enforce_https")) is not None:
        if text not in _TRUTH:
            raise InvalidInput(f"settings.enforce_https: {text[:80]!r} is neither 0 nor 1.")
        values["enforce_https"] = _TRUTH[text]
    if unknown := sorted(values.keys() - {"enforce_https", "mode", "certificate_path", "key_path"}):
        raise InvalidInput(f"settings: {', '.join(unknown)[:200]} is nothing that the original Ceryx knows.")
    return RouteSettings(**values)


@contextmanager
def _failures(address: RedisAddress) -> Iterator[None]:
    import redis

    try:
        yield
    except redis.AuthenticationError as error:
        raise Forbidden(f"{address} wants another password: see {PASSWORD} and --password-file.") from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise Unavailable(f"{address} does not answer: {error}.") from error
    except redis.RedisError as error:
        raise Forbidden(f"{address} refuses this: {error}.") from error
