"""Whether an answer has begun: what goes wrong before can still be said, and afterwards only broken off."""

from __future__ import annotations

from starlette.types import Message, Send


class Answering:
    """A `send` of ASGI that knows whether it was called.

    Args:
        send: where messages go.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        self.begun = True
        await self._send(message)
