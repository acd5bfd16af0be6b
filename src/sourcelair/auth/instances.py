"""Tokens of instances: what a project server finds in its environment, to say of itself that it is busy.

A token is `lair-i.ID.MAC`: MAC is the HMAC-SHA256 (RFC 2104) of the instance's id under a key of this installation, as
hexadecimal digits. So none is stored or listed, and starting a server writes nothing for it. An id is never used again:
a token is worth nothing once its instance has ended, which the API sees to.
"""

from __future__ import annotations

import hashlib
import hmac

from sourcelair.auth.tokens import Identity

PREFIX = "lair-i."


class InstanceTokens:
    """Makes and recognises them.

    Args:
        key: the secret of this installation.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def make(self, instance: str) -> str:
        """Return the token of an instance."""
        return f"{PREFIX}{instance}.{self._mac(instance)}"

    def identify(self, authorization: str | None) -> Identity | None:
        """Return the instance that an `Authorization` header speaks for; None where it is no such token."""
        scheme, _, token = (authorization or "").partition(" ")
        instance, _, mac = token.strip().removeprefix(PREFIX).rpartition(".")
        if scheme.lower() != "bearer" or not token.strip().startswith(PREFIX):
            return None
        if not hmac.compare_digest(mac.encode(errors="replace"), self._mac(instance).encode()):
            return None
        return Identity(kind="instance", token_id=instance)

    def _mac(self, instance: str) -> str:
        return hmac.new(self._key, instance.encode(errors="replace"), hashlib.sha256).hexdigest()
