"""Who listens: what the kernel says of one port is what its dump says."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from sourcelair.servers.drivers.process import sockets


@contextlib.contextmanager
def bound(family: socket.AddressFamily, address: str) -> Iterator[socket.socket]:
    with socket.socket(family) as one:
        try:
            one.bind((address, 0))
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                pytest.skip(f"{address} is not here")
            raise
        yield one


@pytest.fixture
def loopback() -> Iterator[sockets.Loopback]:
    asking = sockets.Loopback()
    yield asking
    asking.close()


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_it_is_answered_while_somebody_listens(
    loopback: sockets.Loopback, family: socket.AddressFamily, address: str
) -> None:
    """Bound is not enough, and a connection that is left is nobody who listens."""
    with bound(family, address) as one:
        port = one.getsockname()[1]
        assert not loopback.is_answered(port)
        one.listen()
        assert loopback.is_answered(port)
        with socket.create_connection(("::1" if family == socket.AF_INET6 else "127.0.0.1", port)) as visitor:
            answer, _ = one.accept()
            one.close()
            with answer:
                assert not loopback.is_answered(port)
                visitor.sendall(b"x")
    assert not loopback.is_answered(port)


def test_one_that_listens_elsewhere_only_is_looked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is none of the two is in a dump, which is made again after a while; then it is known."""
    clock = 100.0
    monkeypatch.setattr(sockets.time, "monotonic", lambda: clock)
    table = sockets.Table()
    with bound(socket.AF_INET, "127.0.0.2") as one:
        port = one.getsockname()[1]
        assert [table.rows_of(port) for _ in range(2)] == [[], []]
        one.listen()
        assert table.rows_of(port) == []
        clock += 2 * sockets.SELDOM
        for _ in range(3):
            assert [row.address for row in table.rows_of(port)] == ["127.0.0.2"]
    table.close()


def test_a_kernel_that_does_not_say_is_no_answer(loopback: sockets.Loopback) -> None:
    """Then every look is a dump, as if there were no such question."""
    loopback.close()
    assert loopback.is_answered(1)


def test_a_table_of_a_kernel_without_that_looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "no sock_diag here")

    monkeypatch.setattr(sockets, "_open", refused)
    table = sockets.Table()
    with bound(socket.AF_INET, "127.0.0.2") as one:
        one.listen()
        for _ in range(3):
            assert [row.address for row in table.rows_of(one.getsockname()[1])] == ["127.0.0.2"]
    table.close()
