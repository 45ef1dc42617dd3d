"""A network of its own for a command: `python network.py NAMES COMMAND [ARGUMENT ...]`, as root.

The command runs in a network namespace that has only the loopback interface, and with a /etc/resolv.conf and a /etc/hosts of
its own, and an empty /run.  NAMES is a JSON object: name -> its addresses, which this machine gets; `HOSTS` is the text of
/etc/hosts.  A name server at 127.0.0.53 answers for them, by UDP and TCP: for a name that begins with `big` by TCP alone, for
`alias.NAME` by a CNAME of NAME; with `LINK` in NAMES, one at fe80::53, too.  At each address and port 8080 a server says
`hello`, and at port 9000 one answers datagrams.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER, LINK = "127.0.0.53", "fe80::53"
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1  # linux/sockios.h, linux/if.h
A, CNAME, AAAA = 1, 5, 28


def checked(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter(hosts: str, addresses: Sequence[str], folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.unshare(CLONE_NEWNS | CLONE_NEWNET))
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    checked(libc.mount(b"none", b"/run", b"tmpfs", 0, None))
    with socket.socket() as any_:
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for number, address in enumerate(addresses):
            if ":" in address and address != "::1":
                with socket.socket(socket.AF_INET6) as other:  # struct in6_ifreq, linux/ipv6.h; lo is the first interface
                    own = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, address), 128, 1)
                    fcntl.ioctl(other, SIOCSIFADDR, own)
            elif ":" not in address and not address.startswith("127."):
                own = struct.pack("16sHH4s8x", b"lo:%d" % number, socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(any_, SIOCSIFADDR, own)
        for name, text in (("resolv.conf", f"nameserver {SERVER}\noptions timeout:2 attempts:2\n"), ("hosts", hosts)):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            checked(libc.mount(path.encode(), f"/etc/{name}".encode(), None, MS_BIND, None))


def labels(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def answer(query: bytes, names: dict[str, list[str]], *, by_tcp: bool) -> bytes:
    parts, at = [], 12
    while query[at]:
        parts.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    name, kind = ".".join(parts), int.from_bytes(query[at + 1 : at + 3], "big")
    question, records = query[12 : at + 5], []
    target = name
    if name.startswith("alias.") and name not in names:
        target = name.removeprefix("alias.")
        records.append(b"\xc0\x0c" + struct.pack("!HHIH", CNAME, 1, 60, len(labels(target))) + labels(target))
    for text in names.get(target, ()):
        address = ipaddress.ip_address(text)
        if kind == (A if address.version == 4 else AAAA):
            records.append(labels(target) + struct.pack("!HHIH", kind, 1, 60, len(address.packed)) + address.packed)
    flags = 0x8180 if target in names else 0x8183
    if name.startswith("big") and not by_tcp:
        flags, records = flags | 0x200, []
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)


def serve_udp(server: socket.socket, names: dict[str, list[str]]) -> None:
    while True:
        query, client = server.recvfrom(4096)
        server.sendto(answer(query, names, by_tcp=False), client)


def serve_tcp(server: socket.socket, reply: Any) -> None:
    while True:
        client, _ = server.accept()
        threading.Thread(target=reply, args=(client,), daemon=True).start()


def reply_tcp(client: socket.socket, names: dict[str, list[str]]) -> None:
    with client, client.makefile("rb") as stream:
        while head := stream.read(2):
            whole = answer(stream.read(int.from_bytes(head, "big")), names, by_tcp=True)
            client.sendall(len(whole).to_bytes(2, "big") + whole[:5])  # in parts
            client.sendall(whole[5:])


def reply_http(client: socket.socket) -> None:
    with client:
        client.recv(65536)
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")


def echo(server: socket.socket) -> None:
    while True:
        data, client = server.recvfrom(4096)
        server.sendto(data, client)


def bound(server: socket.socket, *address: str | int) -> None:
    """Bind to an address that may have been added a moment ago."""
    for _ in range(100):
        try:
            return server.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            time.sleep(0.05)
    return server.bind(address)


def started(function: Any, *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:  # a removed file has no name that could be granted
        return run(json.loads(sys.argv[1]), folder)


def run(names: Any, folder: str) -> int:
    hosts = names.pop("HOSTS", "127.0.0.1 localhost\n::1 localhost\n")
    link = [LINK] * (names.pop("LINK", None) is not None)
    every = sorted({address for addresses in names.values() for address in addresses} | {"127.0.0.1", "::1"})
    enter(hosts, every + link, folder)
    for address, kind in itertools.product((SERVER, *link), (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
        server = socket.socket(socket.AF_INET6 if address == LINK else socket.AF_INET, kind)
        bound(server, address, 53, *((0, 1) if address == LINK else ()))  # the scope is lo
        if kind == socket.SOCK_STREAM:
            server.listen(16)
            started(serve_tcp, server, lambda client: reply_tcp(client, names))
        else:
            started(serve_udp, server, names)
    for address in every:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream, datagrams = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
        bound(stream, address, 8080)
        stream.listen(16)
        bound(datagrams, address, 9000)
        started(serve_tcp, stream, reply_http)
        started(echo, datagrams)
    return subprocess.call(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
