"""Visitors who notice everything: checksummed bodies, connections at the beat of keep-alive, WebSockets that count."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import websockets
from tests.system.site import App
from tests.system.visitors import Traffic, Visitor

_dice = random.Random(20151124)

SIZES = {0: 2, 1: 2, 1_999: 8, 16_385: 4, 70_000: 4, 1_048_577: 1, 4_000_000: 0.25}
"""Bytes of bodies, and how often: around the sizes at which a proxy does something else with a body."""

BODIES = {size: _dice.randbytes(size) for size in SIZES}
DIGESTS = {size: hashlib.sha256(body).hexdigest() for size, body in BODIES.items()}

MESSAGES = 4
"""Messages of one WebSocket."""

OPENING = 60.0
"""Seconds that a handshake may be held."""

JITTER = 0.004
"""Seconds before and after the moment at which the app closes an idle connection, in which a request is sent."""


@dataclass
class Visits(Traffic):
    """What these visitors saw. `closed` counts WebSockets that the app itself ended, with a close frame."""

    said: list[str] = field(default_factory=list)
    echoed: list[str] = field(default_factory=list)
    handshakes: int = 0
    closed: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    async def one(self, visitor: Visitor, method: str) -> None:
        """Send one numbered request, and compare what arrived with what was sent."""
        number = f"{self.prefix}-{len(self.sent)}"
        size = self.dice.choices(list(SIZES), list(SIZES.values()))[0] if method == "POST" else 0
        self.sent.append(number)
        try:
            body = BODIES[size] if method == "POST" else None
            answer = await visitor.ask(method, f"/?{number}", body, {"X-Request": number})
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append(f"{number} {method} of {size} bytes: {error!r}")
            await visitor.close()
            return
        if answer.status != 200 or "server-name" not in answer.headers:
            self.failures.append(f"{number} {method} of {size} bytes: {answer.status} {answer.body[:200]!r}")
        elif (seen := answer.json())["sha256"] != DIGESTS[size] or seen["target"] != f"/?{number}":
            self.failures.append(f"{number} {method} of {size} bytes: the app saw {seen['target']}, {seen['size']}")
        else:
            self.answered.append(number)
            self.names[answer.headers["server-name"]] += 1

    async def talk(self, app: App, *, may_be_closed: bool) -> None:
        """Open a WebSocket, say something a few times, and leave.

        Args:
            app: who answers.
            may_be_closed: an explicit stop may end it, by the app's own close frame; else that is a failure.
        """
        address, port = app.site.address
        first = len(self.said)
        self.handshakes += 1
        try:
            async with websockets.connect(
                f"ws://{app.host}:{port}/ws", host=address, port=port, proxy=None, open_timeout=OPENING
            ) as socket:
                for _ in range(MESSAGES):
                    said = f"#{self.prefix}-{len(self.said)}"
                    self.said.append(said)
                    await socket.send(said)
                    if (heard := await socket.recv()) != f"{app.name}: {said}":
                        self.failures.append(f"{said} over a WebSocket: the app said {heard!r}")
                    self.echoed.append(said)
        except websockets.ConnectionClosed as closed:
            if may_be_closed and closed.rcvd is not None and closed.rcvd.code == 1001:
                self.closed += 1
            else:
                self.failures.append(f"a WebSocket, after {len(self.said) - first} messages: {closed!r}")
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self.failures.append(f"a WebSocket's handshake: {error!r}")

    async def keep_talking(self, app: App, gap: float, *, may_be_closed: bool) -> None:
        """Talk again and again, `gap` seconds apart, until stopped."""
        while not self.stopping.is_set():
            await self.talk(app, may_be_closed=may_be_closed)
            await self._pause(gap)

    async def keep_the_beat(self, app: App, beat: float) -> None:
        """Send the next request on the same connection just as the app closes its own end of the proxy's."""
        visitor = Visitor(app.site.address, app.host)
        while not self.stopping.is_set():
            await self.one(visitor, self.dice.choice(["GET", "POST"]))
            await self._pause(beat + self.dice.uniform(-JITTER, JITTER))
        await visitor.close()

    async def _pause(self, gap: float) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), gap)
        except TimeoutError:
            return

    def add(self, other: Visits) -> None:
        """Take over what another one saw."""
        for mine, theirs in (
            (self.sent, other.sent),
            (self.answered, other.answered),
            (self.failures, other.failures),
            (self.said, other.said),
            (self.echoed, other.echoed),
        ):
            mine.extend(theirs)
        self.names += other.names
        self.handshakes += other.handshakes
        self.closed += other.closed


@dataclass(frozen=True)
class Books:
    """What visitors saw, compared with what an app wrote down; requests and messages of WebSockets alike."""

    doubled: list[str]
    lost: list[str]

    @classmethod
    def of(cls, app: App, seen: Visits) -> Books:
        """Compare. What failed is no loss on top of that; what no one answered may have arrived, once at most."""
        arrived = app.requests() + Counter(app.messages())
        return cls(
            doubled=[number for number in [*seen.sent, *seen.said] if arrived[number] > 1],
            lost=[number for number in [*seen.answered, *seen.echoed] if arrived[number] == 0],
        )


@asynccontextmanager
async def visits(
    app: App, *, visitors: int, gap: float, prefix: str, talkers: int = 0, may_be_closed: bool = False
) -> AsyncIterator[Visits]:
    """Constant visitors for as long as the block runs; they finish what they began.

    Args:
        app: whom they visit.
        visitors: how many send GET and POST in turn.
        gap: seconds between two requests of one.
        prefix: of the numbers of their requests.
        talkers: how many open one WebSocket after the other.
        may_be_closed: whether the app may end these.
    """
    seen = Visits(prefix, dice=random.Random(f"{app.name} {prefix}"))
    async with asyncio.TaskGroup() as group:
        for _ in range(visitors):
            group.create_task(seen.keep_going(app.site.address, app.host, gap))
        for _ in range(talkers):
            group.create_task(seen.keep_talking(app, gap * 4, may_be_closed=may_be_closed))
        try:
            yield seen
        finally:
            seen.stopping.set()


@asynccontextmanager
async def beats(app: App, *, visitors: int, beat: float, prefix: str) -> AsyncIterator[Visits]:
    """Visitors who come at the beat at which the app closes idle connections (seconds), and nobody else."""
    seen = Visits(prefix, dice=random.Random(f"{app.name} {prefix}"))
    async with asyncio.TaskGroup() as group:
        for _ in range(visitors):
            group.create_task(seen.keep_the_beat(app, beat))
        try:
            yield seen
        finally:
            seen.stopping.set()
