"""Who listens where: one dump of the kernel's listening sockets, shared by all who ask within a millisecond.

The dump comes from the socket monitoring interface, sock_diag(7), which lists listening sockets only (0.1 ms, however
many connections there are) and knows their backlog and whether `::` takes IPv4 too. Where the kernel lacks it,
`/proc/net/tcp` and `tcp6` are read, see proc(5).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sourcelair.servers.drivers.process.identity import tasks

FRESH = 0.001
"""Seconds for which a dump is shared."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DUMP_REQUEST = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 10
_V6ONLY = 11
_MESSAGE = struct.Struct("=IHHII")
_BODY = 72  # struct inet_diag_msg
_WILDCARDS = {"0.0.0.0", "::"}


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


class Table:
    """The machine's listening sockets, read again when older than a millisecond."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._read_at = -1.0

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


def _dump(family: socket.AddressFamily) -> Iterator[Row]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        # struct inet_diag_req_v2: family, protocol, extensions, padding, mask of states, no socket in particular
        request = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
        netlink.send(_MESSAGE.pack(_MESSAGE.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 1, 0) + request)
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


def inodes(pid: int) -> Iterator[int]:
    """Give the inodes of the sockets that a process has open."""
    targets = list(_open_files(f"/proc/{pid}/fd"))
    if not targets:  # its main thread has ended, and the others go on
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
