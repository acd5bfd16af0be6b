"""Tokens: 256 random bits, shown once, kept as a SHA-256 hash in the store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Literal

from sourcelair.errors import Conflict, Forbidden, HistoryCompacted, InvalidInput, LairError, NotFound, Unauthorized
from sourcelair.names import check_name
from sourcelair.store.base import CompareFailed, Entry, Store
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

Kind = Literal["admin", "owner", "read", "service", "waker", "instance"]

_PREFIX = "/tokens/"
_SCHEMA = 1
_ID_DIGITS = 12
_MIN_TOKEN = 20
_MAX_NOTE = 200

_PAUSE = 1.0
"""Seconds until the store is followed again after it broke off."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who makes a request. `owner` is set for tokens of the kind `owner`, and may be for `read`.

    `token_id` is the id of the instance where it is an instance's.
    """

    kind: Kind
    owner: str | None = None
    token_id: str = ""

    @property
    def actor(self) -> str:
        """Who this is where it is said who changed a server."""
        return "hemera" if self.kind == "waker" else self.kind

    def require_admin(self) -> None:
        """Raise Forbidden unless this is an administrator or a service."""
        if self.kind not in {"admin", "service"}:
            raise Forbidden("This needs an administrator's token.")

    def require_write(self, owner: str) -> None:
        """Raise Forbidden unless this may change that owner's servers."""
        if self.kind in {"admin", "service"} or (self.kind == "owner" and self.owner == owner):
            return
        raise Forbidden(f"This token may not change servers of {owner!r}.")

    def require_read(self, owner: str | None = None) -> None:
        """Raise Forbidden unless this may see that owner's servers (None: everything)."""
        if self.kind in {"admin", "service"} or (self.kind == "read" and self.owner is None):
            return
        if self.kind in {"owner", "read"} and owner is not None and self.owner == owner:
            return
        raise Forbidden("This token may not see this." if owner is None else f"This token may not see {owner!r}.")

    def require_some_reading(self) -> None:
        """Raise Forbidden unless there may be servers that this may see; a list has those, and no others."""
        if self.kind in {"waker", "instance"}:
            raise Forbidden("This token may not see this.")

    def require_instance(self) -> str:
        """Return the id of the instance whose token this is. Raises Forbidden: it is another's."""
        if self.kind != "instance":
            raise Forbidden("Only an instance says this, with the LAIR_TOKEN of its environment.")
        return self.token_id


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is listed: never the token itself. `created_at` in Unix seconds."""

    id: str
    kind: Kind
    owner: str | None
    note: str
    created_at: float


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token as hexadecimal digits.

    A token has 256 random bits: no salt is needed, and since only hashes are looked up, how long a look-up takes tells
    nothing of a token.
    """
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class TokenRegistry:
    """All tokens of an installation, kept in memory and written through to the store, which others may write to.

    A revoked token stays in the store as such: else one that lies in a file would be adopted again at the next start.

    Args:
        store: where the hashes lie, under `/tokens/`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_hash: dict[str, TokenRecord] = {}
        self._revoked: set[str] = set()
        self._ends: dict[str, asyncio.Event] = {}
        """Set when a token is revoked, by its id; only for those that were used."""
        self._writing = asyncio.Lock()
        self._revision = 0

    async def load(self) -> None:
        """Read all tokens; call once before the first request.

        Raises:
            LairError: a record is a newer version's, or damaged.
        """
        page = await self._store.list(_PREFIX)
        self._revision = page.revision
        for entry in page.entries:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        digest, record, revoked = _decode(entry)
        if revoked:
            self._end(digest, record.id)
        elif digest not in self._revoked:
            self._by_hash[digest] = record

    def _end(self, digest: str, token_id: str) -> None:
        self._by_hash.pop(digest, None)
        self._revoked.add(digest)
        self._ends.pop(token_id, asyncio.Event()).set()

    async def follow(self) -> None:
        """Take in what other processes change, for as long as the store is open."""
        while True:
            try:
                async for change in self._store.watch(_PREFIX, self._revision + 1):
                    for event in change.events:
                        if event.entry is not None:
                            self._take(event.entry)
                    self._revision = change.revision
            except HistoryCompacted:
                with contextlib.suppress(LairError):
                    await self.load()
            except LairError as error:
                _log.warning("tokens_not_followed", error=error.detail)
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def create(self, kind: Kind, *, owner: str | None = None, note: str = "") -> tuple[str, TokenRecord]:
        """Make a token and return it with its record; it is on disk when this returns.

        Raises:
            InvalidInput: an owner token without an owner, or another kind with one it can't have.
        """
        token = f"lair_{kind}_{secrets.token_urlsafe(32)}"
        return token, await self.adopt(token, kind, owner=owner, note=note)

    async def adopt(self, token: str, kind: Kind, *, owner: str | None = None, note: str = "") -> TokenRecord:
        """Register a token that exists already, such as one in a file; known ones stay as they are.

        Raises:
            Conflict: it was revoked.
            InvalidInput: as in `create`, or it is too short to be a secret.
        """
        _check(token, kind, owner, note)
        digest = hash_token(token)
        async with self._writing:
            if digest in self._revoked:
                raise Conflict(
                    f"The token {digest[:_ID_DIGITS]} was revoked: delete the file that holds it, and start again."
                )
            if known := self._by_hash.get(digest):
                return known
            record = TokenRecord(digest[:_ID_DIGITS], kind, owner, note, created_at=time.time())
            try:
                await self._store.put(_PREFIX + record.id, _encode(digest, record), expect=0)
            except CompareFailed:  # another process was first
                await self.load()
                if (known := self._by_hash.get(digest)) is None:
                    raise Conflict(f"The token {record.id} was revoked, or another has its id.") from None
                return known
            if digest in self._revoked:  # by another process, just now
                raise Conflict(f"The token {record.id} was revoked.")
            self._by_hash[digest] = record
            return record

    async def revoke(self, token_id: str) -> None:
        """Make a token worthless, at once and on disk, for ever.

        Raises:
            NotFound: no token has this id.
        """
        async with self._writing:
            found = next((item for item in self._by_hash.items() if item[1].id == token_id), None)
            if found is None:
                raise NotFound(f"No token found for {token_id[:40]!r}.")
            digest, record = found
            await self._store.put(_PREFIX + token_id, _encode(digest, record, revoked_at=time.time()))
            self._end(digest, token_id)

    def identify(self, authorization: str | None) -> Identity:
        """Return who the `Authorization` header speaks for.

        Raises:
            Unauthorized: there is no token, or nobody knows it.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("A token is required: send 'Authorization: Bearer TOKEN'.")
        record = self._by_hash.get(hash_token(token.strip()))
        if record is None:
            raise Unauthorized("This token is not known: it may have been revoked.")
        return Identity(kind=record.kind, owner=record.owner, token_id=record.id)

    def revoked(self, identity: Identity) -> asyncio.Event:
        """Return what is set once the token of somebody who was just identified is revoked."""
        return self._ends.setdefault(identity.token_id, asyncio.Event())

    # The last method, since in what follows it in this class `list` would no longer be Python's.
    def list(self) -> list[TokenRecord]:
        """Return all tokens that count, oldest first."""
        return sorted(self._by_hash.values(), key=lambda record: (record.created_at, record.id))


def _check(token: str, kind: Kind, owner: str | None, note: str) -> None:
    if len(token) < _MIN_TOKEN:
        raise InvalidInput(f"A token must have {_MIN_TOKEN} characters or more: this one could be guessed.")
    if kind == "owner" and owner is None:
        raise InvalidInput("owner: an owner's token needs the owner's name.")
    if kind == "instance":
        raise InvalidInput("kind: instances get tokens of their own; nobody else has one.")
    if owner is not None:
        check_name("owner", owner)
        if kind not in {"owner", "read"}:
            raise InvalidInput(f"owner: a token of the kind {kind!r} is for all owners.")
    if len(note) > _MAX_NOTE or not (note.isprintable() or not note):
        raise InvalidInput(f"note: one line of at most {_MAX_NOTE} characters.")


def _encode(digest: str, record: TokenRecord, *, revoked_at: float | None = None) -> bytes:
    return json.dumps({"schema": _SCHEMA, "hash": digest, "revoked_at": revoked_at, **asdict(record)}).encode()


def _decode(entry: Entry) -> tuple[str, TokenRecord, bool]:
    """Return the hash, the record, and whether it was revoked."""
    try:
        value = json.loads(entry.value)
        schema = value["schema"]
        if schema > _SCHEMA:
            raise LairError(
                f"The token {entry.key} was written by a newer SourceLair (schema {schema}; this one knows {_SCHEMA})."
            )
        fields = {name: value[name] for name in ("id", "kind", "owner", "note", "created_at")}
        return value["hash"], TokenRecord(**fields), value.get("revoked_at") is not None
    except (ValueError, KeyError, TypeError) as error:
        raise LairError(f"The token {entry.key} in the store is damaged. Restore the store from a backup.") from error
