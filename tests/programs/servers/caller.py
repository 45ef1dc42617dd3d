"""A server that looks up its user, and calls another server if a request asks it to: `caller.py PORT`."""

from __future__ import annotations

import http.server
import os
import pwd
import sys
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/stop":
            os._exit(0)
        try:
            if self.path.startswith("/call/"):
                urllib.request.urlopen(f"http://127.0.0.1:{self.path.rpartition('/')[2]}/", timeout=5)
            text = pwd.getpwuid(os.getuid()).pw_name
        except OSError as error:
            text = str(error)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
