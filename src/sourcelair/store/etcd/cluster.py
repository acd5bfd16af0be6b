"""Calls to whatever member of the cluster answers: on to the next one where one is gone, has no leader, or is slow.

What is only read is asked again. A write is sent again only where it certainly was not done; else its caller is told
that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from sourcelair.errors import LairError, Unavailable
from sourcelair.store.etcd import rpc_pb2 as rpc
from sourcelair.store.etcd.address import EtcdAddress, read
from sourcelair.store.etcd.errors import Failure, failure_of, refusal_of

ATTEMPT = 3.0
"""Seconds that one member has for an answer."""

PATIENCE = 8.0
"""Seconds in which one of them must have answered."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before members are asked once more, after all of them failed."""

NEEDS_LEADER = ("hasleader", "true")
"""Metadata: a member that is cut off from the others refuses at once, and ends its watches."""

CHANNEL = [
    ("grpc.max_receive_message_length", -1),  # what a watch catches up with has no bound
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses more than one in five seconds
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # which is also what a connection may take to stand
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class Method(Generic[Request, Answer]):
    """One of etcd's methods."""

    def __init__(self, path: str, request: type[Request], answer: type[Answer]) -> None:
        self.path = f"/etcdserverpb.{path}"
        self.encode: Callable[[Request], bytes] = request.SerializeToString
        self.decode: Callable[[bytes], Answer] = answer.FromString


RANGE = Method("KV/Range", rpc.RangeRequest, rpc.RangeResponse)
TXN = Method("KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
COMPACT = Method("KV/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
WATCH = Method("Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)
GRANT = Method("Lease/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse)
REVOKE = Method("Lease/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse)
KEEP_ALIVE = Method("Lease/LeaseKeepAlive", rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse)
AUTHENTICATE = Method("Auth/Authenticate", rpc.AuthenticateRequest, rpc.AuthenticateResponse)


def closed() -> Unavailable:
    """Return what everybody is told who comes too late."""
    return Unavailable("The store in etcd is closed.")


class Interrupted(Exception):
    """A stream broke off: another member may go on with it."""


class Cluster:
    """A connection to etcd; it belongs to the event loop that made it.

    Args:
        address: of the members, and how to speak to them.
    """

    def __init__(self, address: EtcdAddress) -> None:
        self._address = address
        self._credentials = _credentials(address)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._at = 0
        self._token: str | None = None
        self._authenticating: asyncio.Task[str] | None = None
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def close(self) -> None:
        """Wait for the calls that are under way, and close all connections. Streams end before, or break off."""
        self._closed = True
        await self._idle.wait()
        if self._authenticating is not None:
            self._authenticating.cancel()
            await asyncio.wait([self._authenticating])
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL)
            else:
                channel = grpc.aio.secure_channel(endpoint, self._credentials, options=CHANNEL)
            self._channels[endpoint] = channel
        return channel

    @property
    def endpoint(self) -> str:
        """Return the member that is asked next."""
        return self._address.endpoints[self._at % len(self._address.endpoints)]

    def leave(self, endpoint: str) -> None:
        """Go on with another member, unless somebody did so meanwhile."""
        if endpoint == self.endpoint:
            self._at += 1

    async def _metadata(self) -> Sequence[tuple[str, str]]:
        if self._address.user is None:
            return (NEEDS_LEADER,)
        token = self._token
        if token is None:
            # One attempt for all who need it now: while etcd is away they wait side by side, not one after the other.
            if self._authenticating is None:
                self._authenticating = asyncio.create_task(self._authenticate(), name="etcd authentication")
                self._authenticating.add_done_callback(self._authenticated)
            try:
                token = await asyncio.shield(self._authenticating)
            except LairError as error:
                raise error.another() from error
        return (NEEDS_LEADER, ("token", token))

    async def _authenticate(self) -> str:
        request = rpc.AuthenticateRequest(name=self._address.user, password=self._address.password())
        try:
            answer = await self._ask(AUTHENTICATE, request, repeatable=True, metadata=(NEEDS_LEADER,))
        except asyncio.CancelledError as error:  # by `close` alone
            raise closed() from error
        self._token = answer.token
        return answer.token

    def _authenticated(self, task: asyncio.Task[str]) -> None:
        self._authenticating = None
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it any more

    def forget_token(self, token: str | None = None) -> None:
        """Authenticate anew for the next call; with `token` only if that is still the one."""
        if token is None or token == self._token:
            self._token = None

    async def call(self, method: Method[Request, Answer], request: Request, *, repeatable: bool) -> Answer:
        """Ask for one answer.

        Args:
            method: what to call.
            request: with what.
            repeatable: it does no harm twice.

        Raises:
            Unavailable: no member answered; or the connection broke, and nobody knows whether it was done.
            Exception: what etcd's refusal means, see `errors`.
        """
        if self._closed:
            raise closed()
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._ask(method, request, repeatable=repeatable)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _ask(
        self,
        method: Method[Request, Answer],
        request: Request,
        *,
        repeatable: bool,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> Answer:
        loop = asyncio.get_running_loop()
        deadline, pause, failed, renewed = loop.time() + PATIENCE, FIRST_PAUSE, 0, False
        while True:
            endpoint, left = self.endpoint, deadline - loop.time()
            sent = metadata if metadata is not None else await self._metadata()
            call = self._channel(endpoint).unary_unary(
                method.path, request_serializer=method.encode, response_deserializer=method.decode
            )
            try:
                answer: Answer = await call(request, timeout=max(0.1, min(left, ATTEMPT)), metadata=sent)
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
            else:
                return answer
            failure = failure_of(code, details)
            if failure is Failure.EXPIRED and not renewed:
                self.forget_token(dict(sent).get("token"))
                renewed = True
                continue
            if failure in {Failure.REFUSED, Failure.EXPIRED}:
                raise refusal_of(code, details, self._address.user)
            self.leave(endpoint)
            if failure is Failure.UNCLEAR and not repeatable:
                raise Unavailable(
                    f"etcd broke off ({_short(details, code)}): whether it was written shows once it answers again.",
                    retry_after=1,
                )
            failed += 1
            if loop.time() >= deadline:
                members = ", ".join(self._address.endpoints)
                raise Unavailable(f"etcd does not answer ({members}): {_short(details, code)}.", retry_after=1)
            if failed % len(self._address.endpoints) == 0:
                await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
                pause = min(pause * 2, LONGEST_PAUSE)

    async def stream(self, method: Method[Request, Answer], request: Request) -> AsyncGenerator[Answer, None]:
        """Send one request, and give all answers to it.

        Raises:
            Interrupted: it broke off, or never began.
            Exception: what etcd's refusal means, see `errors`.
        """
        if self._closed:
            raise Interrupted("the store is closed")
        endpoint = self.endpoint
        try:
            call: Any = self._channel(endpoint).stream_stream(
                method.path, request_serializer=method.encode, response_deserializer=method.decode
            )(metadata=await self._metadata())
        except LairError as error:
            raise Interrupted(error.detail) from error
        try:
            await call.write(request)
            async for answer in call:
                yield answer
            raise Interrupted("it ended")
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            failure = failure_of(code, details)
            if failure is Failure.EXPIRED:
                self.forget_token()
            elif failure is Failure.REFUSED:
                raise refusal_of(code, details, self._address.user) from error
            else:
                self.leave(endpoint)
            raise Interrupted(_short(details, code)) from error
        except asyncio.InvalidStateError as error:  # grpc's own, for a stream that ended before it was written to
            self.leave(endpoint)
            raise Interrupted(str(error)) from error
        finally:
            call.cancel()


def _short(details: str, code: grpc.StatusCode) -> str:
    return (details.removeprefix("etcdserver: ") or code.name)[:200]


def _credentials(address: EtcdAddress) -> grpc.ChannelCredentials | None:
    if not address.is_tls:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=read(address.ca) if address.ca else None,
        private_key=read(address.key) if address.key else None,
        certificate_chain=read(address.cert) if address.cert else None,
    )
