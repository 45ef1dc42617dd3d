"""A server of one thread that reads, writes and removes the files of its folder `data`: small.py PORT."""

import http.server
import os
import signal
import sys
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            content = Path(f"data{self.path}").read_bytes()
        except FileNotFoundError:
            self.send_error(404)
            return
        self._answer(200, content)

    def do_PUT(self) -> None:
        Path(f"data{self.path}").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(201)

    def do_DELETE(self) -> None:
        Path(f"data{self.path}").unlink()
        self._answer(204)

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
