"""Whether bytes flow on open streams: the kernel's own counts of each visitor's socket, read between two heartbeats.

They come from the socket monitoring interface, sock_diag(7), one exact question a socket: a dump of all connections
would cost more the busier a node is. `tcpi_bytes_acked` and `tcpi_bytes_received` (RFC 4898) count what the visitor has
got and sent; TCP's own keep-alive probes are not among it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence

from sourcelair.ceryx.table import Flow
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

AT_ONCE = 32
"""Questions that are asked before their answers are read: these fit into a socket's buffer."""

ANSWER_TIMEOUT = 1.0
"""Seconds to wait for an answer; the kernel has it ready before the question is sent."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_NLMSG_ERROR = 2
_INFO = 2  # INET_DIAG_INFO
_ANY_COOKIE = 0xFFFFFFFF
_MESSAGE = struct.Struct("=IHHII")
_NOT_OPEN = {6, 10}  # TCP_TIME_WAIT, TCP_LISTEN
_BODY = 72  # struct inet_diag_msg
_BYTES = 120  # offset of tcpi_bytes_acked in struct tcp_info; tcpi_bytes_received comes next


def _question(flow: Flow, number: int) -> bytes:
    """Return the request for one socket: struct inet_diag_req_v2 after its header."""
    server = ipaddress.ip_address(flow.server[0].strip("[]"))
    client = ipaddress.ip_address(flow.client[0].strip("[]"))
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 0xFFFFFFFF)
    body += struct.pack(">HH", flow.server[1], flow.client[1])
    body += server.packed.ljust(16, b"\0") + client.packed.ljust(16, b"\0")
    body += struct.pack("=III", 0, _ANY_COOKIE, _ANY_COOKIE)
    return _MESSAGE.pack(_MESSAGE.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, number, 0) + body


def _bytes_of(body: bytes) -> int | None:
    """Return how many bytes passed, of a struct inet_diag_msg and what follows it; None where that is not told."""
    offset = _BODY
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _INFO and length >= 4 + _BYTES + 16:
            acked, received = struct.unpack_from("=QQ", body, offset + 4 + _BYTES)
            return int(acked + received)
        offset += (max(length, 4) + 3) & ~3
    return None


def read_bytes(flows: Sequence[Flow]) -> dict[Flow, int]:
    """Return how many bytes have passed on these sockets; those that are closed are left out. Blocks.

    Raises:
        OSError: this kernel does not tell.
    """
    found = dict[Flow, int]()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(ANSWER_TIMEOUT)
        for at in range(0, len(flows), AT_ONCE):
            chunk = flows[at : at + AT_ONCE]
            for number, flow in enumerate(chunk):
                netlink.send(_question(flow, number))
            for _ in chunk:
                answer = netlink.recv(1 << 16)
                length, kind, _flags, number, _pid = _MESSAGE.unpack_from(answer)
                body = answer[_MESSAGE.size : length]
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code != errno.ENOENT:
                        raise OSError(code, "sock_diag")
                elif body[1] in _NOT_OPEN:
                    continue  # for a connection that is gone, the listening socket of its port is found
                elif (passed := _bytes_of(body)) is None:
                    raise OSError(errno.EOPNOTSUPP, "sock_diag tells no bytes")
                else:
                    found[chunk[number]] = passed
    return found


def are_visible() -> bool:
    """Return whether this kernel tells how many bytes passed on a socket: one of our own is asked for."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as end,
        ):
            accepted, client = listener.accept()
            with accepted:
                end.sendall(b"x")
                accepted.recv(1)
                flow = Flow("", client, accepted.getsockname())
                return read_bytes([flow]).get(flow, 0) > 0
    except OSError:
        return False


class Flows:
    """The streams of one node that keep their instance awake while bytes flow, from one reading to the next."""

    def __init__(self) -> None:
        self._passed: dict[Flow, int] = {}
        self._failed = False

    async def moved(self, flows: Sequence[Flow], *, keep: bool = False) -> set[str]:
        """Return the instances on whose streams bytes have passed since the last reading; all where nobody can tell.

        Args:
            flows: all that are open. Of one without an earlier reading nobody knows: it counts as one that moved.
            keep: the last reading stays the last: this one is only a look.
        """
        try:
            passed = await asyncio.to_thread(read_bytes, flows) if flows else {}
        except OSError as error:
            if not self._failed:
                _log.error("flows_not_seen", error=str(error), effect="open streams count as activity")
            self._failed = True
            return {flow.instance for flow in flows}
        self._failed = False
        before = self._passed
        if not keep:
            self._passed = passed
        return {flow.instance for flow, count in passed.items() if before.get(flow) != count}
