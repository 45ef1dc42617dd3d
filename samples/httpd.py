#!/usr/bin/env python3
"""A threaded HTTP server on the loopback that answers three clients of its own, each in a thread, and stops."""

import http.client
import http.server
import threading

CLIENTS = 3


class Handler(http.server.BaseHTTPRequestHandler):
    everyone = threading.Barrier(CLIENTS)

    def do_GET(self):
        self.everyone.wait()  # all handlers are alive at once, so every run waits on a futex
        body = f"you asked for {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def fetch(port, path, replies):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    replies[path] = connection.getresponse().read().decode()
    connection.close()


def main():
    replies = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        clients = [
            threading.Thread(target=fetch, args=(server.server_port, f"/{number}", replies))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        server.shutdown()
        serving.join()
    for path in sorted(replies):
        print(replies[path], end="")
    print("learn must find: socket: family == AF_INET")
    print("learn must find: setsockopt: level == SOL_SOCKET && optname == SO_REUSEADDR")
    print("learn must find: listen: allow")
    print("learn must refuse: socket(family=AF_INET, type=SOCK_RAW)")
    print("learn must refuse: socket(family=AF_INET, type=SOCK_DGRAM|SOCK_CLOEXEC)")
    print("learn must refuse: execve()")


if __name__ == "__main__":
    main()
