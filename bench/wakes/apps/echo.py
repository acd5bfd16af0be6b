"""`python echo.py PORT`: as `python -m http.server`, and it answers a POST with the body that it was sent."""

from __future__ import annotations

import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Echo(SimpleHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        """Answer with the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
