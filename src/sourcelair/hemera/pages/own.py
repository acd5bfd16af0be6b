"""Pages of the operator's own: Jinja2 templates in a folder, for one server, for one owner, or for all.

They are made by people, so they may be wrong: one that breaks, goes on for ever or grows without end is put aside
until it changes, and our own page takes its place. The sandbox keeps mistakes small; who writes templates is trusted.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sourcelair.hemera import metrics
from sourcelair.hemera.pages import facts
from sourcelair.hemera.pages.builtin import variables
from sourcelair.hemera.pages.facts import Facts
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

LONGEST_RENDER = 0.5
"""Seconds that a template may take."""

MOST_BYTES = 512 << 10
"""Characters that a template, or what it makes, may have."""

AGAIN = 10.0
"""Seconds after which a template that broke is tried again, though it did not change: what it includes may have."""

DEFAULT = "default.html"


@dataclass(frozen=True)
class Broken:
    """A template that can't be used: where, and why."""

    file: str
    line: int | None
    error: str

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{where}: {self.error}"


class TooMuch(Exception):
    """A template takes too long, or makes too much."""


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, without the operators that make huge values of small ones."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(value, int | float) and abs(value) < 1e9 for value in (left, right)):
            raise jinja2.exceptions.SecurityError(f"{operator} is for numbers below 1000000000")
        if operator == "**" and abs(right) > 64:
            raise jinja2.exceptions.SecurityError("** is for exponents up to 64")
        return super().call_binop(context, operator, left, right)


class _Loader(jinja2.FileSystemLoader):
    """Reads templates that are not too large."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source = super().get_source(environment, template)
        if len(source[0]) > MOST_BYTES:
            raise TooMuch(f"{template} has more than {MOST_BYTES} characters")
        return source


def environment(folder: Path) -> jinja2.Environment:
    """Return the environment for the templates of a folder, which are read anew when they change."""
    return _Environment(
        loader=_Loader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(templates: jinja2.Environment, name: str, told: Facts) -> str:
    """Return the page that a template makes. Blocks, `LONGEST_RENDER` seconds at most: call it in a thread.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
        Exception: any, where the template is wrong.
    """
    deadline = time.monotonic() + LONGEST_RENDER

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise TooMuch(f"it takes more than {LONGEST_RENDER} s")
        return trace

    before = sys.gettrace()
    pieces, size = [], 0
    try:
        sys.settrace(trace)  # of this thread only; a template is Python code by now
        for piece in templates.get_template(name).generate(variables(told)):
            size += len(piece)
            if size > MOST_BYTES:
                raise TooMuch(f"it makes more than {MOST_BYTES} characters")
            pieces.append(piece)
    finally:
        sys.settrace(before)
    return "".join(pieces)


def why(folder: Path, name: str, error: BaseException) -> Broken:
    """Return what is wrong with a template, for whoever wrote it."""
    text = " ".join((str(error) or type(error).__name__).split())[:300]
    if isinstance(error, jinja2.TemplateSyntaxError):
        return Broken(error.name or name, error.lineno, text)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(folder):
            return Broken(str(Path(frame.filename).relative_to(folder)), frame.lineno, text)
    return Broken(name, None, text)


class OwnPages:
    """The operator's pages.

    Args:
        folder: that they lie in; None for no such pages.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._templates = environment(folder) if folder else None
        self._aside: dict[str, tuple[int, float]] = {}
        """Templates that broke: when they were changed, and when that was."""
        self._reported: dict[str, tuple[int, Broken]] = {}

    async def render(self, told: Facts) -> str | None:
        """Return the page for these facts; None where ours is to be taken."""
        if self._folder is None or self._templates is None:
            return None
        return await asyncio.to_thread(self._render, self._folder, self._templates, told)

    def _render(self, folder: Path, templates: jinja2.Environment, told: Facts) -> str | None:
        own = [f"{told.project}--{told.owner}.html", f"{told.owner}.html"] if told.owner else []
        for name in (*own, DEFAULT):
            try:
                stat = (folder / name).stat()
            except OSError:
                self._forget(name)
                continue
            if self._is_aside(name, stat.st_mtime_ns):
                return None
            try:
                page = render(templates, name, told)
            except Exception as error:
                self._put_aside(name, stat.st_mtime_ns, why(folder, name, error))
                return None
            self._forget(name)
            return page
        return None

    def _is_aside(self, name: str, changed: int) -> bool:
        known = self._aside.get(name)
        return known is not None and known[0] == changed and self._clock() - known[1] < AGAIN

    def _put_aside(self, name: str, changed: int, broken: Broken) -> None:
        self._aside[name] = (changed, self._clock())
        if self._reported.get(name) != (changed, broken):  # once for each change
            self._reported[name] = (changed, broken)
            _log.warning("page_template_broken", file=broken.file, line=broken.line, error=broken.error)
        metrics.BROKEN_TEMPLATES.set(len(self._aside))

    def _forget(self, name: str) -> None:
        self._reported.pop(name, None)
        if self._aside.pop(name, None) is not None:
            metrics.BROKEN_TEMPLATES.set(len(self._aside))


def check(folder: Path) -> list[Broken]:
    """Try all templates of a folder with every kind of page, and return what is wrong. Blocks.

    Raises:
        OSError: the folder can't be read.
    """
    templates, found = environment(folder), []
    for path in sorted(folder.iterdir()):
        if path.suffix != ".html":
            continue
        for told in _samples():
            try:
                render(templates, path.name, told)
            except Exception as error:
                found.append(why(folder, path.name, error))
                break
    return found


def _samples() -> list[Facts]:
    """Return one of each kind of page."""
    own = Facts("starting", "blog--demo.localhost", owner="demo", project="blog", said="Starting.")
    failure = replace(own, state="failed", said="It exited with code 1.", failed_at="2026-01-01T00:00:00Z")
    return [
        replace(own, stage="starting", elapsed=3.0, usual=5.0),
        replace(own, place=2, elapsed=0.0),
        replace(failure, log=["its last line"], retry=9),
        replace(failure, retry=None, given_up=True),
        replace(own, state="disabled"),
        facts.down(None, own.host, "/"),
        facts.rate_limited(None, own.host, "/", 5),
    ]
