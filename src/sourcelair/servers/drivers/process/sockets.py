"""Who listens where: one dump of the kernel's listening sockets, shared by all who ask within a millisecond.

The dump comes from the socket monitoring interface, sock_diag(7), which lists listening sockets only (0.1 ms, however
many connections there are) and knows their backlog and whether `::` takes IPv4 too. Where the kernel lacks it,
`/proc/net/tcp` and `tcp6` are read, see proc(5).

While a server starts, nobody listens: a dump every millisecond takes away from it what it starts with. So the kernel is
asked first who would answer at the port on this machine, which costs a tenth of a dump.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sourcelair.servers.drivers.process.identity import tasks

FRESH = 0.001
"""Seconds for which a dump is shared."""

SELDOM = 0.02
"""Seconds between dumps while nobody answers at loopback addresses: some listen at another one only."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST, _DUMP_REQUEST = 0x001, 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 10
_V6ONLY = 11
_MESSAGE = struct.Struct("=IHHII")
_BODY = 72  # struct inet_diag_msg
_WILDCARDS = {"0.0.0.0", "::"}
_ANY_COOKIE = b"\xff" * 8
_LOOPBACKS = (
    (socket.AF_INET, socket.inet_pton(socket.AF_INET, "127.0.0.1").ljust(16, b"\0")),
    (socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "::1")),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A listening socket. `backlog` is the length of its accept queue, None where unknown."""

    address: str
    port: int
    inode: int
    dual: bool
    backlog: int | None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses by which this machine reaches it, the best first."""
        if self.address == "0.0.0.0":
            return ("127.0.0.1",)
        if self.address == "::":
            return ("127.0.0.1", "::1") if self.dual else ("::1",)
        mapped = ipaddress.ip_address(self.address)
        if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped:
            return ("127.0.0.1" if mapped.ipv4_mapped.is_unspecified else str(mapped.ipv4_mapped),)
        return (self.address,)

    @property
    def local(self) -> bool:
        """Whether no other machine reaches it."""
        address = ipaddress.ip_address(self.address)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


class Table:
    """The machine's listening sockets, read again when older than a millisecond."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._read_at = -1.0
        self._loopback: Loopback | None = None
        with contextlib.suppress(OSError):
            self._loopback = Loopback()
        self._looks: dict[int, float] = {}
        """When each port was last looked for in a dump that it was not in."""

    def rows_of(self, port: int) -> list[Row]:
        """Return the listening sockets of one port.

        Where nobody answers by a loopback address a dump is made once in a while only: those that listen elsewhere are
        found a little later for the first time, and at once from then on.
        """
        if not self._may_listen(port):
            return []
        rows = [row for row in self.rows() if row.port == port]
        if rows:
            self._looks.pop(port, None)
        return rows

    def _may_listen(self, port: int) -> bool:
        now = time.monotonic()
        if self._loopback is None or self._loopback.is_answered(port):
            self._looks.pop(port, None)
            return True
        self._looks = {port: at for port, at in self._looks.items() if now - at < SELDOM}
        if port in self._looks:
            return False
        self._looks[port] = now
        return True

    def close(self) -> None:
        """Close its socket."""
        if self._loopback is not None:
            self._loopback.close()

    def rows(self) -> list[Row]:
        """Return all listening sockets of this network namespace."""
        now = time.monotonic()
        if now - self._read_at > FRESH:
            self._rows = read_rows()
            self._read_at = time.monotonic()
        return self._rows


def read_rows() -> list[Row]:
    """Read the kernel's table now."""
    try:
        return [*_dump(socket.AF_INET), *_dump(socket.AF_INET6)]
    except OSError:
        return [*_parse("tcp", socket.AF_INET), *_parse("tcp6", socket.AF_INET6)]


class Loopback:
    """Asks the kernel who would answer on this machine, without a dump; to be closed.

    Raises:
        OSError: the kernel has no sock_diag(7).
    """

    def __init__(self) -> None:
        self._netlink = _open()

    def is_answered(self, port: int) -> bool:
        """Return whether somebody listens on a port by a loopback address; True too where the kernel does not say."""
        try:
            return any(self._ask(family, address, port) for family, address in _LOOPBACKS)
        except OSError:
            return True

    def _ask(self, family: socket.AddressFamily, address: bytes, port: int) -> bool:
        # With an inet_diag_sockid: ports, own address, peer's, interface, cookie.
        asked = struct.pack(">HH", port, 0) + address + bytes(16) + bytes(4) + _ANY_COOKIE
        self._netlink.send(_request(family, _REQUEST, asked))
        answer = self._netlink.recv(1 << 12)
        _, kind, *_ = _MESSAGE.unpack_from(answer)
        return bool(kind != _NLMSG_ERROR or struct.unpack_from("=i", answer, _MESSAGE.size)[0] != -errno.ENOENT)

    def close(self) -> None:
        """Close its socket."""
        self._netlink.close()


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


def _request(family: socket.AddressFamily, flags: int, which: bytes) -> bytes:
    """Return a request about listening sockets; `which` is a struct inet_diag_sockid."""
    # struct inet_diag_req_v2: family, protocol, extensions, padding, mask of states
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN) + which
    return _MESSAGE.pack(_MESSAGE.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body


def _dump(family: socket.AddressFamily) -> Iterator[Row]:
    with _open() as netlink:
        netlink.send(_request(family, _DUMP_REQUEST, bytes(48)))
        while True:
            answer = netlink.recv(1 << 16)
            offset = 0
            while offset < len(answer):
                length, kind, *_ = _MESSAGE.unpack_from(answer, offset)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, offset + _MESSAGE.size)[0], "sock_diag")
                yield _row(family, answer[offset + _MESSAGE.size : offset + length])
                offset += (length + 3) & ~3


def _row(family: socket.AddressFamily, body: bytes) -> Row:
    (port,) = struct.unpack_from(">H", body, 4)
    size = 4 if family == socket.AF_INET else 16
    address = socket.inet_ntop(family, body[8 : 8 + size])
    _queued, backlog, _uid, inode = struct.unpack_from("=IIII", body, 56)
    v6only = False
    offset = _BODY
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _V6ONLY:
            v6only = bool(body[offset + 4])
        offset += (max(length, 4) + 3) & ~3
    return Row(address, port, inode, dual=family == socket.AF_INET6 and not v6only, backlog=backlog)


def _parse(name: str, family: socket.AddressFamily) -> Iterator[Row]:
    try:
        lines = Path("/proc/net", name).read_text().splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
        if int(state, 16) == _LISTEN:
            words, _, port = local.partition(":")
            # Each 32 bits of the address are printed as one number in the machine's own order.
            packed = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
            # Whether `::` takes IPv4 is not told here; it does unless it was asked not to.
            yield Row(socket.inet_ntop(family, packed), int(port, 16), int(inode), family == socket.AF_INET6, None)


def inodes(pid: int, most: int | None = None) -> Iterator[int]:
    """Give the inodes of the sockets that a process has open; with `most`, of those among so many of its files."""
    targets = list(islice(_open_files(f"/proc/{pid}/fd"), most))
    if not targets and most is None:  # its main thread has ended, and the others go on
        targets = [target for task in tasks(pid) for target in _open_files(f"/proc/{pid}/task/{task}/fd")]
    for target in targets:
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _open_files(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield os.readlink(entry.path)  # noqa: PTH115 - many of them, and no Path is needed


def dial(rows: Iterable[Row], own: set[int]) -> tuple[str, Row] | None:
    """Choose how to reach an instance among the rows of one port.

    An address counts only if nobody else could take a connection to it: two may share one with SO_REUSEPORT.

    Args:
        rows: all listening sockets of that port.
        own: the inodes that are the instance's.
    """
    rows = list(rows)
    taken = {host for row in rows if row.inode not in own for host in row.hosts}
    choices = [(host, row) for row in rows if row.inode in own for host in row.hosts if host not in taken]
    return min(choices, key=lambda choice: (":" in choice[0], choice[1].address in _WILDCARDS), default=None)
