"""Make calls to this program itself, and print the seconds that they took: `program.py WHAT COUNT`."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

WHAT, COUNT = sys.argv[1], int(sys.argv[2])


def main() -> None:
    served = socket.socket()
    served.bind(("127.0.0.1", 0))
    served.listen(128)
    if WHAT.endswith("wait"):
        others_wait()
    begin = time.perf_counter()
    if WHAT.startswith("connect"):
        for _ in range(COUNT):
            for one in connected(served):
                one.close()
    elif WHAT in ("send", "sendmsg"):
        a, b = connected(served)
        for _ in range(COUNT):
            if WHAT == "send":
                a.send(b"x")
            else:
                a.sendmsg([b"x"])
            b.recv(1)
    else:
        a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        b.bind(("127.0.0.1", 0))
        for _ in range(COUNT):
            a.sendto(b"x", b.getsockname())
            b.recv(1)
    print(time.perf_counter() - begin)
    sys.stdout.flush()
    os._exit(0)  # threads may wait


def others_wait() -> None:
    """Have 1,000 threads wait in connect(2) for a server that accepts nobody."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    threading.stack_size(1 << 16)
    for _ in range(1000):
        threading.Thread(target=lambda: socket.socket().connect(full.getsockname()), daemon=True).start()
    time.sleep(2)


def connected(served: socket.socket) -> tuple[socket.socket, socket.socket]:
    made = socket.socket()
    made.connect(served.getsockname())
    return made, served.accept()[0]


if __name__ == "__main__":
    main()
