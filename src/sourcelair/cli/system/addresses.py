"""Taking the ports that `lair up` listens on, with errors that name the address, the setting, and who has it."""

from __future__ import annotations

import errno
import socket

from sourcelair.cli.session import reachable
from sourcelair.cli.system.roles import Role
from sourcelair.errors import Conflict, InvalidInput, LairError
from sourcelair.settings import Settings, split_address

UNSPECIFIED = ("0.0.0.0", "::", "*")


def advertised(settings: Settings, role: Role) -> str:
    """Return the URL at which other processes reach the APIs of this one.

    Raises:
        InvalidInput: it listens everywhere, and nobody said where that is.
    """
    host, port = split_address(settings.api_listen)
    if host in UNSPECIFIED and settings.advertise_address is not None:
        host = settings.advertise_address.strip("[]")
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if host in UNSPECIFIED and role.services and not role.is_all:
        raise InvalidInput(
            f"--api-listen {settings.api_listen}: the other services have to know where this is: say the address of "
            "this machine, or give it with LAIR_ADVERTISE_ADDRESS."
        )
    return f"http://{reachable(settings.api_listen)}"


def bind(address: str, setting: str) -> socket.socket:
    """Return a socket that is bound to an address and listens.

    Args:
        address: `host:port`.
        setting: the setting that it comes from, for the message.

    Raises:
        Conflict: the port is taken.
        InvalidInput: this machine has no such address, or the port is not for this user.
    """
    host, port = split_address(address)
    flag = f"--{setting.replace('_', '-')}"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidInput(
            f"{address}: {host!r} is not an address of this machine. Give another with {flag}."
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(2048)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _explain(error, address, flag, port) from error
    return bound


def check_free(address: str, setting: str) -> None:
    """Raise what `bind` would, and leave the port alone."""
    bind(address, setting).close()


def _explain(error: OSError, address: str, flag: str, port: int) -> LairError:
    if error.errno == errno.EADDRINUSE:
        by = _who_listens(port)
        return Conflict(f"{address} is in use{by}. Stop that program, or choose another address with {flag}.")
    if error.errno == errno.EACCES:
        return InvalidInput(f"{address}: ports below 1024 are for root. Choose a higher one with {flag}.")
    return InvalidInput(f"{address}: {error.strerror}. Choose another address with {flag}.")


def _who_listens(port: int) -> str:
    """Return ` by NAME (process N)` for the program that listens there, or nothing where it can't be seen."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""
