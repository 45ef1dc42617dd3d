"""A client of memcached: memcached.py PORT one|all|rude|large, or many CLIENTS REQUESTS.  Ends with 1 if an answer is wrong."""

from __future__ import annotations

import socket
import sys


def main(port: str, what: str, *numbers: str) -> int:
    address = ("127.0.0.1", int(port))
    if what == "many":
        clients, requests = map(int, numbers)
        connections = [socket.create_connection(address) for _ in range(clients)]
        for number in range(requests):
            for connection in connections:
                connection.sendall(b"set key%d 0 0 5\r\nvalue\r\n" % number)
            for connection in connections:
                if connection.recv(100) != b"STORED\r\n":
                    return 1
        return 0
    with socket.create_connection(address) as connection, connection.makefile("rwb") as file:
        if what == "rude":
            connection.sendall(b"get key\r\nnonsense\r\nset key 0 0 99999999\r\nset key 0 0 100\r\nhalf")
            return 0
        sizes = (5,) if what == "one" else (0, 5, 100_000, 900_000)
        for size in sizes if what != "large" else (500_000,) * 200:  # more than it keeps
            file.write(b"set key%d 0 0 %d\r\n%b\r\nget key%d\r\n" % (size, size, b"x" * size, size))
            file.flush()
            if file.readline() != b"STORED\r\n" or not file.readline().startswith(b"VALUE"):
                return 1
            if file.read(size + 7) != b"x" * size + b"\r\nEND\r\n":
                return 1
        if what != "all":
            return 0
        for request, answer in (
            (b"set number 0 1 1\r\n1\r\n", b"STORED"), (b"incr number 5\r\n", b"6"), (b"touch number 100\r\n", b"TOUCHED"),
            (b"delete number\r\n", b"DELETED"), (b"get none\r\n", b"END"), (b"version\r\n", b"VERSION"),
            (b"verbosity 1\r\n", b"OK"), (b"cache_memlimit 32\r\n", b"OK"), (b"flush_all\r\n", b"OK"),
        ):  # fmt: skip
            file.write(request)
            file.flush()
            if not file.readline().startswith(answer):
                return 1
        for kind in (b"", b" items", b" slabs", b" settings", b" conns"):
            file.write(b"stats%b\r\n" % kind)
            file.flush()
            while (line := file.readline()) != b"END\r\n":
                if not line.startswith(b"STAT"):
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
