"""Tokens: 256 random bits, shown once, kept as a SHA-256 hash in the store."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from sourcelair.errors import Forbidden, InvalidInput, NotFound, Unauthorized
from sourcelair.names import check_name
from sourcelair.store.base import Store

Kind = Literal["admin", "owner", "read", "service", "waker"]

_PREFIX = "/tokens/"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Who makes a request. `owner` is set for tokens of the kind `owner`, and may be for `read`."""

    kind: Kind
    owner: str | None = None
    token_id: str = ""

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


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is listed: never the token itself. `created_at` in Unix seconds."""

    id: str
    kind: Kind
    owner: str | None
    note: str
    created_at: float


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token as hexadecimal digits. A token has 256 random bits: no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenRegistry:
    """All tokens of an installation, kept in memory and written through to the store.

    Args:
        store: where the hashes lie, under `/tokens/`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_hash: dict[str, TokenRecord] = {}

    async def load(self) -> None:
        """Read all tokens; call once before the first request."""
        page = await self._store.list(_PREFIX)
        self._by_hash = {}
        for entry in page.entries:
            record = json.loads(entry.value)
            self._by_hash[record.pop("hash")] = TokenRecord(
                id=record["id"],
                kind=record["kind"],
                owner=record["owner"],
                note=record["note"],
                created_at=record["created_at"],
            )

    async def create(self, kind: Kind, *, owner: str | None = None, note: str = "") -> tuple[str, TokenRecord]:
        """Make a token and return it with its record; it is on disk when this returns.

        Raises:
            InvalidInput: an owner token without an owner, or another kind with one it can't have.
        """
        if kind == "owner" and owner is None:
            raise InvalidInput("owner: an owner's token needs the owner's name.")
        if owner is not None:
            check_name("owner", owner)
            if kind not in {"owner", "read"}:
                raise InvalidInput(f"owner: a token of the kind {kind!r} is for all owners.")
        if len(note) > 200:
            raise InvalidInput("note: at most 200 characters.")
        token = f"lair_{kind}_{secrets.token_urlsafe(32)}"
        record = await self.adopt(token, kind, owner=owner, note=note)
        return token, record

    async def adopt(self, token: str, kind: Kind, *, owner: str | None = None, note: str = "") -> TokenRecord:
        """Register a token that exists already, such as one in a file; known ones stay as they are."""
        digest = hash_token(token)
        if known := self._by_hash.get(digest):
            return known
        record = TokenRecord(id=digest[:12], kind=kind, owner=owner, note=note, created_at=time.time())
        value = {
            "schema": _SCHEMA,
            "hash": digest,
            "id": record.id,
            "kind": kind,
            "owner": owner,
            "note": note,
            "created_at": record.created_at,
        }
        await self._store.put(_PREFIX + record.id, json.dumps(value).encode())
        self._by_hash[digest] = record
        return record

    async def revoke(self, token_id: str) -> None:
        """Make a token worthless, at once and on disk.

        Raises:
            NotFound: no token has this id.
        """
        for digest, record in self._by_hash.items():
            if record.id == token_id:
                await self._store.delete(_PREFIX + token_id)
                self._by_hash.pop(digest, None)
                return
        raise NotFound(f"No token found for {token_id[:40]}.")

    def list(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        return sorted(self._by_hash.values(), key=lambda record: record.created_at)

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
