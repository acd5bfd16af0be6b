"""Starts a command as an order says, with its limits. All of it blocks."""

from __future__ import annotations

import os
import subprocess

from sourcelair.servers.drivers.base import Found, StartFailed, StartOrder, StartVoided
from sourcelair.servers.drivers.process import abilities, commands, limits, logs, members
from sourcelair.servers.drivers.process.finding import Finder
from sourcelair.servers.drivers.process.groups import Groups
from sourcelair.servers.drivers.process.groups.groups import Limited
from sourcelair.servers.drivers.process.identity import Identity, this_boot
from sourcelair.servers.drivers.process.launcher import UNJOINED, Claims, Word, launch
from sourcelair.telemetry import get_logger

log = get_logger(__name__)


class Starter:
    """Starts the instances of one installation."""

    def __init__(self, installation: str, claims: Claims, groups: Groups, finder: Finder) -> None:
        self._installation = installation
        self._claims = claims
        self._groups = groups
        self._finder = finder

    def start(self, order: StartOrder, word: Word) -> tuple[subprocess.Popen[bytes], Found]:
        """Start a command, and return the child with the instance as soon as the launcher becomes it.

        Args:
            order: what to start.
            word: what the launcher waits for.

        Raises:
            StartFailed: it can't run, or not within its limits.
            StartVoided: the instance was voided, or started, before.
        """
        try:
            return self._start(order, word)
        except OSError as error:
            raise StartFailed(f"it can't be started: {error.strerror or error}") from error
        finally:
            word.close_reader()

    def _start(self, order: StartOrder, word: Word) -> tuple[subprocess.Popen[bytes], Found]:
        directory = commands.check_directory(order.spec.directory)
        env = {**order.env, members.INSTANCE: order.instance, members.INSTALLATION: self._installation}
        command = commands.with_port(order.spec.command, order.port)
        command[0] = commands.find_program(command[0], directory, env)
        output, unlogged = logs.open_log(order.log)
        if unlogged:
            log.warning("instance without a log", instance=order.instance, error=unlogged)
        start = None
        try:
            limited = self._limit(order)
            child, start = launch(
                self._claims,
                order.instance,
                [*limits.prefix(order.limits, limited.enforced), *command],
                env=env,
                cwd=directory,
                log=output,
                port=order.port,
                groups=limited.groups,
                word=word,
            )
            if start is None:
                raise self._not_launched(order.instance, child.returncode)
        finally:
            os.close(output)
            if start is None:
                self._groups.remove(order.instance)
        identity = Identity(child.pid, start, this_boot())
        return child, self._finder.describe(order.instance, identity, order.port, order.log)

    def _limit(self, order: StartOrder) -> Limited:
        """Make the groups that limit it.

        Raises:
            StartFailed: its spec wants a limit for which there is nothing else.
        """
        limited = self._groups.limit(order.instance, order.limits)
        if order.limits.cpus is not None and "cpu" not in limited.enforced:
            if order.spec.limits.cpus is not None:
                raise StartFailed(f"limits.cpus can't be enforced: {abilities.NO_CPU}")
            log.warning("limit of its owner not enforced", instance=order.instance, why=abilities.NO_CPU)
        return limited

    def _not_launched(self, instance: str, code: int) -> Exception:
        if code == UNJOINED:
            return StartFailed("it can't be started: its limits can't be enforced, since its cgroup can't be joined")
        if self._groups.killed_for_memory(instance):
            return StartFailed("it can't be started: limits.memory_bytes is too little for any program")
        claim = self._claims.read(instance)
        if claim is not None and (claim.void or claim.identity is not None):
            return StartVoided(f"{instance} was claimed before")
        return StartFailed("it can't be started: its claim can't be written (is the disk full?)")
