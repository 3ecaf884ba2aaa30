# SPDX-License-Identifier: Apache-2.0
"""A web server that tells its name; with a file SICK in its folder it answers 500. Run as: web_server.py NAME PORT"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if Path(f"{sys.argv[1]}.sick").exists() else 200)
        self.send_header("X-Server", sys.argv[1])
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Page).serve_forever()
