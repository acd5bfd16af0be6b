"""A server that goes from one stage of a wake to the next when it is told to, and says so in its log.

`python stages.py PORT FOLDER`: it waits until somebody writes to the FIFO `FOLDER/listen`, and then answers 503 until
somebody writes to `FOLDER/answer`. Standard library only, so that it starts fast.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
PAGE = b"<!doctype html><title>The app</title><h1>The app is here</h1>"

answers = threading.Event()


class App(BaseHTTPRequestHandler):
    """503 until it may answer."""

    def do_GET(self) -> None:
        self.send_response(200 if answers.is_set() else 503)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def say(text: str) -> None:
    print(text, flush=True)


for number in range(40):
    say(f"step {number}")
say("<b>waits</b> to listen")
(FOLDER / "listen").read_bytes()
server = ThreadingHTTPServer(("127.0.0.1", PORT), App)
threading.Thread(target=server.serve_forever).start()
say("listens, and is not ready")
(FOLDER / "answer").read_bytes()
say("is ready")
answers.set()
