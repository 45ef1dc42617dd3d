"""A network of its own for attacks: `python network.py FOLDER`, as root, serves there until its standard input ends.

Its network and mount namespaces have only the loopback interface, with more addresses, and a /etc/resolv.conf and a /etc/hosts
of its own.  Everywhere a server waits at port 7000, by TCP and UDP, and appends what arrives to FOLDER/arrivals: `KIND WHERE
<WORD>` for each <WORD> in it, KIND being tcp, udp, unix, packet and a protocol (any IP packet to an address that is forbidden)
or dns (each question).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

ALLOWED, FORBIDDEN = ("10.77.0.1", "fd00:77::1"), ("10.77.0.2", "10.77.0.3", "fd00:77::2", "fd00:77::3")
NAMED, SERVER = "10.77.0.4", "10.77.0.53"
OWN = ("127.0.0.1", "::1", "fe80::77")
PORT = 7000
ZEROES = (
    (7001, socket.AF_INET, "127.0.0.1", "allowed"), (7001, socket.AF_INET, "10.77.0.2", "10.77.0.2"),
    (7002, socket.AF_INET6, "::1", "allowed"), (7002, socket.AF_INET, "127.0.0.1", "127.0.0.1"),
)  # fmt: skip
"""More servers: where 0.0.0.0 and :: may lead."""
HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h
SIOCSIFFLAGS, IFF_UP, ETH_P_ALL = 0x8914, 1, 3  # linux/sockios.h, linux/if.h, linux/if_ether.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
RTM_NEWADDR, NLM_F = 20, 0x605  # linux/rtnetlink.h; NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
A, CNAME, AAAA, INTERNET = 1, 5, 28, 1
ZONE = {
    "name.example.org": [NAMED],
    "rebind.example.org": [
        "127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::77", "::ffff:10.77.0.2", "::ffff:127.0.0.1",
    ],
    "extra.example.org": [NAMED],
    "other.example.org": [NAMED],
    "loop.example.org": [NAMED],
    "forbidden.example.net": ["10.77.0.2"],
}  # fmt: skip


def checked(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    checked(libc.unshare(CLONE_NEWNS | CLONE_NEWNET))
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    checked(libc.mount(b"none", b"/run", b"tmpfs", 0, None))
    for name, text in (("resolv.conf", f"nameserver {SERVER}\n"), ("hosts", HOSTS)):
        (folder / name).write_text(text, encoding="utf-8")
        checked(libc.mount(bytes(folder / name), f"/etc/{name}".encode(), None, MS_BIND, None))
    for name in ("sys/net/ipv4/ping_group_range", "sys/net/ipv4/tcp_fastopen"):
        Path("/proc", name).write_text("0 2147483647" if "ping" in name else "3", encoding="ascii")
    with socket.socket() as any_, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for text in (*ALLOWED, *FORBIDDEN, NAMED, SERVER, OWN[2]):
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            address = socket.inet_pton(family, text)
            bits, scope = 8 * len(address) if text != OWN[2] else 64, 253 if text == OWN[2] else 0
            body = struct.pack("BBBBI", family, bits, 2, scope, 1)  # IFA_F_NODAD, RT_SCOPE_LINK, index
            body += b"".join(struct.pack("HH", 4 + len(address), kind) + address for kind in (2, 1))  # IFA_LOCAL, IFA_ADDRESS
            netlink.send(struct.pack("IHHII", 16 + len(body), RTM_NEWADDR, NLM_F, 1, 0) + body)
            error = struct.unpack_from("i", netlink.recv(4096), 16)[0]
            if error:
                raise OSError(-error, text)


class Arrivals:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)

    def add(self, kind: str, where: str, content: bytes, *, always: bool = False) -> None:
        words = re.findall(rb"<[\w.-]+>", content) or ([b""] if always else [])
        for word in words:
            os.write(self._file, f"{kind} {where} ".encode() + word + b"\n")


def started(function: Any, *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def receive(server: socket.socket, arrivals: Arrivals, kind: str, where: str) -> None:
    while True:
        data, client = server.recvfrom(65536)
        arrivals.add(kind, where, data)
        if data.startswith(b"echo"):
            server.sendto(data, client)


def read_all(client: socket.socket, arrivals: Arrivals, kind: str, where: str) -> None:
    with client:
        try:
            while data := client.recv(65536):
                arrivals.add(kind, where, data)
                if data.startswith(b"echo"):
                    client.sendall(data)
        except OSError:
            return


def accept(server: socket.socket, arrivals: Arrivals, kind: str, where: str) -> None:
    while True:
        client, _ = server.accept()
        arrivals.add(kind, where, b"<accepted>")
        started(read_all, client, arrivals, kind, where)


def sniff(arrivals: Arrivals) -> None:
    """What is sent to any address but those of servers that are allowed, named or asked: whoever sends it, and however."""
    families = {text: socket.AF_INET6 if ":" in text else socket.AF_INET for text in (*ALLOWED, NAMED, SERVER, *OWN)}
    expected = {socket.inet_pton(family, text) for text, family in families.items()}
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as packets:
        packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        packets.bind(("lo", ETH_P_ALL))
        while True:
            packet, origin = packets.recvfrom(65536)
            if origin[2] == 4 or not packet:  # PACKET_OUTGOING: each is seen twice
                continue
            version = packet[0] >> 4
            address = packet[16:20] if version == 4 else packet[24:40]
            number = packet[9 if version == 4 else 6]
            at = (packet[0] & 15) * 4 if version == 4 else 40
            is_first = number == 6 and packet[at + 13] & 0x12 == 2  # TCP: SYN without ACK
            content = packet[at + ((packet[at + 12] >> 4) * 4 if number == 6 else 0) :]  # headers of TCP may look like a word
            if address not in expected:
                where = socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, address)
                arrivals.add(f"packet{number}", where, content + b"<syn>" * is_first)


def name_of(query: bytes) -> tuple[str, int]:
    parts, at = [], 12
    while query[at]:
        parts.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "backslashreplace"))
        at += 1 + query[at]
    return ".".join(parts), at + 1


def record(name: bytes, kind: int, data: bytes) -> bytes:
    return name + struct.pack("!HHIH", kind, INTERNET, 60, len(data)) + data


def labels(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def answer(query: bytes, arrivals: Arrivals, how: str) -> bytes:
    try:
        name, end = name_of(query)
    except IndexError:
        arrivals.add("dns", how, b"<malformed>")
        return query[:2] + bytes(10)
    kind, flags = int.from_bytes(query[end : end + 2], "big"), int.from_bytes(query[2:4], "big")
    arrivals.add("dns", how, f"<{name}-{kind}-{flags}-{query[end + 4 :].hex() or 0}>".encode(), always=True)
    question, records = query[12 : end + 4], []
    for text in ZONE.get(name, (NAMED,) if name.endswith(".wild.example.org") else ()):
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        if kind == (AAAA if ":" in text else A):
            records.append(record(b"\xc0\x0c", kind, socket.inet_pton(family, text)))
    forbidden = socket.inet_aton("10.77.0.2")
    if name.startswith("extra."):  # records about another name, and a name that it does not lead to
        records += [record(labels("elsewhere.example.net"), A, forbidden)]
        records += [record(labels("elsewhere.example.net"), CNAME, b"\xc0\x0c")]
    if name.startswith("other."):
        question, records = labels("forbidden.example.net") + question[-4:], [record(b"\xc0\x0c", A, forbidden)]
    if name.startswith("loop."):
        at = 12 + len(question)
        records = [record(bytes([0xC0 | at >> 8, at & 255]), A, forbidden), record(b"\xc0\x0c", CNAME, b"\xc0\x0c")]
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0) + question + b"".join(records)


def serve_names(server: socket.socket, arrivals: Arrivals) -> None:
    while True:
        query, client = server.recvfrom(65536)
        server.sendto(answer(query, arrivals, "udp"), client)


def serve_names_by_tcp(server: socket.socket, arrivals: Arrivals) -> None:
    while True:
        client, _ = server.accept()
        with client, client.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := stream.read(2):
                whole = answer(stream.read(int.from_bytes(head, "big")), arrivals, "tcp")
                client.sendall(len(whole).to_bytes(2, "big") + whole)


def bound(family: int, kind: int, address: Any, queue: int = 1024) -> socket.socket:
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
    server.bind(address)
    if kind == socket.SOCK_STREAM:
        server.listen(queue)
    return server


def serve(folder: Path) -> None:
    arrivals = Arrivals(folder / "arrivals")
    started(sniff, arrivals)
    for text in (*ALLOWED, *FORBIDDEN, NAMED, SERVER, *OWN):
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        address = (text, PORT, 0, 1) if text == OWN[2] else (text, PORT)
        started(receive, bound(family, socket.SOCK_DGRAM, address), arrivals, "udp", text)
        started(accept, bound(family, socket.SOCK_STREAM, address), arrivals, "tcp", text)
    started(serve_names, bound(socket.AF_INET, socket.SOCK_DGRAM, (SERVER, 53)), arrivals)
    started(serve_names_by_tcp, bound(socket.AF_INET, socket.SOCK_STREAM, (SERVER, 53)), arrivals)
    for port, family, text, where in ZEROES:
        started(receive, bound(family, socket.SOCK_DGRAM, (text, port)), arrivals, "udp", where)
        started(accept, bound(family, socket.SOCK_STREAM, (text, port)), arrivals, "tcp", where)
    started(receive, bound(socket.AF_INET, socket.SOCK_DGRAM, (FORBIDDEN[0], 53)), arrivals, "udp", FORBIDDEN[0])
    os.chdir(folder)
    for where in ("allowed", "forbidden"):
        os.mkdir(where)
        for kind, function in ((socket.SOCK_STREAM, accept), (socket.SOCK_DGRAM, receive)):
            end = "stream" if kind == socket.SOCK_STREAM else "datagram"
            for address in (f"{where}/{end}", f"\0{where}.{end}"):
                started(function, bound(socket.AF_UNIX, kind, address), arrivals, "unix", where)
    for address in ("\0allowed.stream\0x", "\0allowed.strea", "\0allowed.streamx", "\0", "\0allowed.stream" + "\0" * 93):
        started(accept, bound(socket.AF_UNIX, socket.SOCK_STREAM, address), arrivals, "unix", "forbidden")
    os.makedirs("/run/systemd/resolve")  # not that of nscd(8), which everybody asks
    for path, where in (("/run/systemd/resolve/io.systemd.Resolve", "forbidden"), ("allowed/group", "forbidden")):
        started(accept, bound(socket.AF_UNIX, socket.SOCK_STREAM, path), arrivals, "unix", where)
    os.chown("allowed/group", 65534, 4711)
    os.chmod("allowed/group", 0o660)
    busy = ((socket.AF_INET, (ALLOWED[0], 7009)), (socket.AF_UNIX, "full"))
    servers = [bound(family, socket.SOCK_STREAM, address, 0) for family, address in busy]
    started(lambda: [threading.Event().wait(), servers])  # nobody accepts there
    os.symlink("../forbidden/stream", "allowed/link")


def main() -> None:
    folder = Path(sys.argv[1])
    enter(folder)
    serve(folder)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
