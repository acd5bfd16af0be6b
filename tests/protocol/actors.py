"""The scheduler of the model: every actor is a generator, and what it does between two `yield`s is one atomic step.

An actor yields `WAIT` where there is nothing for it to do right now. Any actor can be frozen (it is paused: SIGSTOP, a
slow disk, a slow network) or killed (it crashes) between any two steps; a message on its way is an actor too, so it
may arrive late, after others, or after its sender is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

WAIT = object()
Steps = Generator[Any, None, Any]

MAX_STEPS = 5000
"""Steps in which a world without new input must come to rest; far above what any example needs."""


class ProtocolViolation(AssertionError):
    """The world reached a state that the protocol rules out."""


class Refused(Exception):
    """An expected refusal: a compare that failed, a session that is over, an engine that is gone."""


class Actor:
    """One thread of the model. `frozen`: it takes no step, and nobody can tell it from a slow one."""

    def __init__(self, name: str, body: Steps) -> None:
        self.name = name
        self.frozen = False
        self.done = False
        self._body = body

    def step(self) -> bool:
        """Take one step; return whether anything happened."""
        if self.done:
            return False
        try:
            return next(self._body) is not WAIT
        except StopIteration:
            self.done = True
            return True

    def kill(self) -> None:
        """Crash: whatever it held in memory is gone."""
        self.done = True
        self._body.close()

    def __repr__(self) -> str:
        return f"<{self.name}{' frozen' if self.frozen else ''}>"


class Message(Actor):
    """A request on its way; it is carried out when it takes its step, whether or not anybody still waits for it."""

    def __init__(self, name: str, action: Callable[[], Any], reachable: Callable[[], bool]) -> None:
        self.result: Any = None
        self.error: Refused | None = None
        super().__init__(name, self._carry(action, reachable))

    def _carry(self, action: Callable[[], Any], reachable: Callable[[], bool]) -> Steps:
        while not reachable():
            yield WAIT
        try:
            self.result = action()
        except Refused as error:
            self.error = error


class Scheduler:
    """Runs actors one step at a time, in whatever order it is told."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.holding: set[str] = set()

    def spawn(self, name: str, body: Steps) -> Actor:
        """Add an actor."""
        actor = Actor(name, body)
        self.actors.append(actor)
        return actor

    def send(self, name: str, action: Callable[[], Any], reachable: Callable[[], bool] = lambda: True) -> Message:
        """Put a message on its way; one of a kind in `holding` is stuck there until somebody thaws it.

        Args:
            name: its kind, then what it is about.
            action: what its receiver does.
            reachable: whether its receiver is up.
        """
        message = Message(name, action, reachable)
        kind = name.split(maxsplit=1)[0]
        if kind in self.holding:
            message.frozen = True
            self.holding.discard(kind)
        self.actors.append(message)
        return message

    def call(self, name: str, action: Callable[[], Any], reachable: Callable[[], bool] = lambda: True) -> Steps:
        """Send a message and wait for its answer. Raises Refused."""
        message = self.send(name, action, reachable)
        yield
        while not message.done:
            yield WAIT
        if message.error is not None:
            raise message.error
        return message.result

    def step(self, index: int, steps: int) -> None:
        """Let one actor, chosen by number, take some steps."""
        runnable = [actor for actor in self.actors if not actor.frozen]
        if not runnable:
            return
        actor = runnable[index % len(runnable)]
        for _ in range(steps):
            if not actor.step():
                break
        self._sweep()

    def settle(self) -> None:
        """Run all that is not frozen until nothing moves any more.

        Raises:
            ProtocolViolation: it never comes to rest.
        """
        quiet = 0
        for _ in range(MAX_STEPS):
            moved = [actor.step() for actor in list(self.actors) if not actor.frozen]
            self._sweep()
            quiet = 0 if any(moved) else quiet + 1
            if quiet == 2:  # one may have begun to wait for what an earlier one in the list looks at
                return
        raise ProtocolViolation(f"never comes to rest: {self.actors}")

    def _sweep(self) -> None:
        self.actors = [actor for actor in self.actors if not actor.done]
