"""A project server that misbehaves: `python moody.py PORT BOOKS MOOD SECONDS`. Books as those of `identity.py`.

`errors`: answers 500 for so long, and is well then. `mute`: accepts connections and says nothing for so long.
`dies`: is well, and ends with code 3 after so long. The time counts from its start.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, BOOKS, MOOD, SECONDS = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
BORN = time.monotonic()


def note(book: str, line: str) -> None:
    """Append one line at once."""
    with (BOOKS / book).open("a") as file:
        file.write(line + "\n")


class Moody(BaseHTTPRequestHandler):
    """Answers by its mood."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        left = SECONDS - (time.monotonic() - BORN)
        if MOOD == "mute" and left > 0:
            time.sleep(left)
        status = 500 if MOOD == "errors" and left > 0 else 200
        if "X-Request" in self.headers:
            note("requests", self.headers["X-Request"])
        body = b"not yet\n" if status == 500 else b"well\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing: a log line for each request is no part of any test."""


class Server(ThreadingHTTPServer):
    """With a place for whoever comes."""

    request_queue_size = 512
    daemon_threads = True


note("starts", f"{os.environ.get('LAIR_INSTANCE', '')} {os.getpid()}")
server = Server(("127.0.0.1", PORT), Moody)
if MOOD == "dies":
    threading.Timer(SECONDS, os._exit, [3]).start()
server.serve_forever()
