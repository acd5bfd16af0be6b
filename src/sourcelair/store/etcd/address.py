"""Where etcd is: `etcd://HOST:PORT,HOST:PORT/PREFIX?OPTIONS`.

Options name files, never secrets: `ca`, `cert` and `key` (PEM; with `ca` or `cert` connections are TLS), `user`, and
`password_file`, whose first line is the password.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from sourcelair.errors import InvalidInput

PORT = 2379
"""Where etcd listens unless told otherwise."""

FILES = ("ca", "cert", "key", "password_file")
OPTIONS = (*FILES, "user")


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """A cluster, and the part of its keys that is ours. `endpoints` are `HOST:PORT`; `prefix` has no last slash."""

    endpoints: tuple[str, ...]
    prefix: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    @property
    def is_tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.ca is not None or self.cert is not None

    def password(self) -> str:
        """Return the user's password. Raises InvalidInput: its file can't be read."""
        if self.password_file is None:
            raise InvalidInput(f"etcd: the user {self.user} needs a password_file.")
        return read(self.password_file).decode(errors="replace").partition("\n")[0].strip()


def read(path: Path) -> bytes:
    """Return a file's content. Raises InvalidInput: it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"etcd: {path} can't be read: {error.strerror}.") from error


def parse_address(text: str) -> EtcdAddress:
    """Return what an `etcd://` URL says.

    Raises:
        InvalidInput: something in it can't be right; the message never repeats what may be a secret.
    """
    parts = urlsplit(text)
    if parts.scheme != "etcd":
        raise InvalidInput("store: an address of etcd begins with etcd://.")
    if "@" in parts.netloc:
        raise InvalidInput(
            "store: no user or password in the address, which others can read: say ?user=NAME&password_file=PATH."
        )
    endpoints = tuple(_endpoint(one) for one in parts.netloc.split(","))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in OPTIONS:
            raise InvalidInput(f"store: {name[:40]!r} is no option of etcd://; there are {', '.join(OPTIONS)}.")
        if not value:
            raise InvalidInput(f"store: the option {name} is empty.")
    if ("cert" in options) != ("key" in options):
        raise InvalidInput("store: the options cert and key belong together.")
    if ("user" in options) != ("password_file" in options):
        raise InvalidInput("store: the options user and password_file belong together.")
    prefix = unquote(parts.path).rstrip("/")
    if not prefix.startswith("/"):
        raise InvalidInput("store: an address of etcd ends with a prefix of its keys, such as etcd://HOST:2379/lair.")
    files = {name: Path(options[name]).expanduser() for name in FILES if name in options}
    return EtcdAddress(endpoints, prefix, user=options.get("user"), **files)


def _endpoint(text: str) -> str:
    parts = urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise InvalidInput(f"store: {text[:80]!r} is no HOST:PORT of etcd.")
    return f"[{host}]:{port or PORT}" if ":" in host else f"{host}:{port or PORT}"
