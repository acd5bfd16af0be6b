"""The servers that are woken, what they are asked, and how long they take to start by themselves."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).parent / "apps"

TRY_AGAIN = 0.0002
"""Seconds between two tries to reach a server that is just starting: without a pause they take its processor away."""

LONGEST_START = 60.0
"""Seconds that a server may take to start and answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a visitor asks. With a body it is a POST, and must be answered with that body."""

    body: bytes = b""
    path: str = "/"

    def sent(self, host: str) -> bytes:
        """Return it as bytes. It ends the connection, so that an answer is complete when it closes."""
        head = f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\n"
        if self.body:
            head += f"Content-Length: {len(self.body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + self.body

    def check(self, answer: bytes) -> None:
        """Raise ConnectionError where nothing came, and RuntimeError where it is no 200, or another body."""
        if not answer.startswith(b"HTTP/1."):
            raise ConnectionError("no answer")
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split()[1] != b"200" or (self.body and body != self.body):
            raise RuntimeError(answer[:300].decode(errors="replace"))


GET = Question()
POST = Question(random.Random(1).randbytes(10_000))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of server: what it is called in tables, how it is started, and what it is asked."""

    name: str
    command: Sequence[str]
    """With `{port}` for its port."""
    question: Question = GET


def http_server() -> list[str]:
    """Return the command of Python's own server, the one that JupyterHub starts here, too."""
    return [sys.executable, "-S", "-m", "http.server", "-b", "127.0.0.1", "{port}"]


def kinds(folder: Path) -> list[Kind]:
    """Return all kinds, built in this folder. C is linked statically: linking at the start costs more than the rest."""
    echo = folder / "echo"
    source = str(APPS / "echo.c")
    subprocess.run(["cc", "-O1", "-static", "-D_GNU_SOURCE", "-o", str(echo), source], check=True)
    (folder / "index.html").write_text("hello")
    return [
        Kind("tiny C server, GET", [str(echo), "{port}"]),
        Kind("tiny C server, POST of 10 kB", [str(echo), "{port}"], POST),
        Kind("python -m http.server, GET", http_server()),
        Kind("python echo.py, POST of 10 kB", [sys.executable, "-S", str(APPS / "echo.py"), "{port}"], POST),
    ]


def ask(port: int, question: Question, host: str = "bench") -> None:
    """Connect, ask, and read to the end of the answer.

    Raises:
        OSError: nobody listens there yet, or it broke off.
        RuntimeError: the answer is not the right one.
    """
    with socket.create_connection(("127.0.0.1", port), LONGEST_START) as visitor:
        visitor.sendall(question.sent(host))
        answer = bytearray()
        while part := visitor.recv(65536):
            answer += part
    question.check(bytes(answer))


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server by itself, without us, and end it."""
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def own_start(kind: Kind, folder: Path, port: int) -> float:
    """Return the milliseconds from the spawn of a server to the end of its first answer, and end it."""
    began = time.perf_counter()
    with started(kind.command, folder, port) as process:
        while True:
            with contextlib.suppress(OSError):
                ask(port, kind.question)
                return (time.perf_counter() - began) * 1000
            if process.poll() is not None:
                raise RuntimeError(f"{kind.command[0]} ended with {process.returncode}")
            if time.perf_counter() - began > LONGEST_START:
                raise RuntimeError(f"{kind.command[0]} does not answer after {LONGEST_START:g} s")
            time.sleep(TRY_AGAIN)
