"""Make calls to this program itself, and print the seconds that they took: `program.py connect|send|sendmsg|sendto COUNT`."""

from __future__ import annotations

import socket
import sys
import time

WHAT, COUNT = sys.argv[1], int(sys.argv[2])


def main() -> None:
    served = socket.socket()
    served.bind(("127.0.0.1", 0))
    served.listen(128)
    begin = time.perf_counter()
    if WHAT == "connect":
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


def connected(served: socket.socket) -> tuple[socket.socket, socket.socket]:
    made = socket.socket()
    made.connect(served.getsockname())
    return made, served.accept()[0]


if __name__ == "__main__":
    main()
