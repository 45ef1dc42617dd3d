"""Unix sockets, and those of other families."""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
import threading
from contextlib import suppress

from common import FOLDER, V4, WEB, check, raw_connect, sent, v4


def listener(name: str, kind: int = socket.SOCK_STREAM, queue: int = 5) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(name if name.startswith("\0") else f"{FOLDER}/{name}")
    if kind == socket.SOCK_STREAM:
        made.listen(queue)
    made.settimeout(5)
    return made


def local(kind: int = socket.SOCK_STREAM) -> socket.socket:
    return socket.socket(socket.AF_UNIX, kind)


@check
def unix_sockets() -> object:
    with listener("stream") as served, local() as s:
        result = s.connect_ex(f"{FOLDER}/stream"), s.getpeername() == f"{FOLDER}/stream"
        there = served.accept()[0]
        s.sendall(b"x")
        return result, there.recv(1)


@check
def by_a_relative_path() -> object:
    os.chdir(FOLDER)
    with listener("relative"), local() as s:
        return s.connect_ex("relative"), s.getpeername() == f"{FOLDER}/relative"


@check
def by_a_link() -> object:
    with listener("behind"), local() as s:
        os.symlink("behind", f"{FOLDER}/link")
        return s.connect_ex(f"{FOLDER}/link"), s.getpeername() == f"{FOLDER}/behind"


@check
def no_such_socket() -> object:
    with local() as a, local() as b, local() as c:
        with open(f"{FOLDER}/file", "w"):
            pass
        return a.connect_ex(f"{FOLDER}/none"), b.connect_ex(f"{FOLDER}/file"), c.connect_ex(f"{FOLDER}/file/none")


@check
def nobody_listens_any_more() -> object:
    listener("left").close()
    with local() as s:
        return s.connect_ex(f"{FOLDER}/left")


@check
def another_kind_of_socket() -> object:
    with listener("dgram", socket.SOCK_DGRAM), local() as s:
        return s.connect_ex(f"{FOLDER}/dgram")


@check
def abstract_sockets() -> object:
    name = f"\0callfence-{os.getpid()}"
    with listener(name), local() as a, local() as b:
        return a.connect_ex(name), b.connect_ex(f"{name}-none"), a.getpeername() == name.encode()


@check
def empty_addresses() -> object:
    with local() as s:
        return [raw_connect(s.fileno(), b"\1\0" + bytes(length)) for length in (0, 1, 108, 109)]


@check
def an_address_that_is_too_long() -> object:
    with listener("long"), local() as s:
        path = f"{FOLDER}/long".encode()
        return [raw_connect(s.fileno(), b"\1\0" + path.ljust(length, b"\0")) for length in (109, 126, 108)]


@check
def an_address_for_the_internet() -> object:
    with local() as s:
        return raw_connect(s.fileno(), v4(V4, WEB))


@check
def a_full_queue_without_waiting() -> object:
    with listener("full", queue=0), local() as a, local() as b:
        b.setblocking(False)
        return a.connect_ex(f"{FOLDER}/full"), b.connect_ex(f"{FOLDER}/full")


@check
def a_full_queue() -> object:
    with listener("full2", queue=0) as served, local() as a, local() as b:
        a.connect(f"{FOLDER}/full2")
        thread = threading.Timer(0.2, lambda: served.accept())
        thread.start()
        result = b.connect_ex(f"{FOLDER}/full2")
        thread.join()
        return result, b.getpeername() == f"{FOLDER}/full2"


@check
def a_full_queue_for_too_long() -> object:
    with listener("full3", queue=0), local() as a, local() as b:
        a.connect(f"{FOLDER}/full3")
        b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100000))
        return raw_connect(b.fileno(), b"\1\0" + f"{FOLDER}/full3".encode() + b"\0")


@check
def unix_datagrams() -> object:
    with listener("gram", socket.SOCK_DGRAM) as served, local(socket.SOCK_DGRAM) as s:
        results = [s.sendto(b"to", f"{FOLDER}/gram"), s.sendmsg([b"m", b"sg"], [], 0, f"{FOLDER}/gram")]
        results += [s.connect_ex(f"{FOLDER}/gram"), s.send(b"connected")]
        return results, [served.recv(100) for _ in range(3)]


@check
def unix_datagrams_to_nobody() -> object:
    with local(socket.SOCK_DGRAM) as s:
        long = bytes(1 << 21)
        results = [sent(lambda: s.sendto(b"x", f"{FOLDER}/none")), sent(lambda: s.send(b"x"))]
        return results, sent(lambda: s.sendto(long, f"{FOLDER}/none"))


@check
def a_full_datagram_queue() -> object:
    with listener("gram2", socket.SOCK_DGRAM) as served, local(socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while count < 10000:
                s.sendto(b"x", f"{FOLDER}/gram2")
                count += 1
        s.setblocking(True)
        thread = threading.Timer(0.2, lambda: [served.recv(10) for _ in range(5)])
        thread.start()
        result = s.sendto(b"late", f"{FOLDER}/gram2")
        thread.join()
        return count, result


@check
def descriptors_are_passed() -> object:
    with listener("pass", socket.SOCK_DGRAM) as served, local(socket.SOCK_DGRAM) as s:
        read, write = os.pipe()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write, read]))]
        count = s.sendmsg([b"x"], rights, 0, f"{FOLDER}/pass")
        _, control, _, _ = served.recvmsg(10, 200)
        passed = array.array("i")
        passed.frombytes(control[0][2])
        os.write(passed[0], b"through")
        return count, len(control), os.read(read, 100)


@check
def descriptors_are_passed_by_a_stream() -> object:
    a, b = socket.socketpair()
    read, write = os.pipe()
    count = a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))])
    _, control, _, _ = b.recvmsg(10, 200)
    passed = array.array("i")
    passed.frombytes(control[0][2])
    os.write(passed[0], b"through")
    return count, os.read(read, 100)


@check
def a_long_message_that_is_not_cut() -> object:
    """By a socket that keeps the boundaries of messages."""
    a, b = socket.socketpair(type=socket.SOCK_SEQPACKET)
    results = [sent(lambda size=size: a.sendmsg([bytes(size)])) for size in (1, 100000, 3 << 20)]
    return results, len(b.recv(10)), len(b.recv(1 << 20))


@check
def long_messages_by_a_stream() -> object:
    return [_by_a_stream([bytes(300000), bytes(300000)]), _by_a_stream([b"", bytes(1 << 21), b"x", bytes(1 << 20)])]


def _by_a_stream(parts: list[bytes]) -> object:
    a, b = socket.socketpair()
    received: list[int] = []

    def drain() -> None:
        while part := b.recv(1 << 20):
            received.append(len(part))

    thread = threading.Thread(target=drain)
    thread.start()
    count = a.sendmsg(parts)
    a.close()
    thread.join()
    return count, sum(received)


@check
def a_message_to_a_closed_stream() -> object:
    a, b = socket.socketpair()
    b.close()
    got: list[int] = []
    signal.signal(signal.SIGPIPE, lambda number, _: got.append(number))
    results = sent(lambda: a.sendmsg([b"x"])), sent(lambda: a.sendmsg([b"x"], [], socket.MSG_NOSIGNAL))
    return results, got


@check
def messages_by_tcp() -> object:
    with socket.create_connection((V4, WEB), 5) as s:
        count = s.sendmsg([b"GET / ", b"HTTP/1.0\r\n\r\n"])
        return count, s.makefile("rb").read()[-6:]


@check
def netlink() -> object:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.bind((0, 0))
        request = struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0)  # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
        return s.sendto(request, (0, 0)), len(s.recv(65536)) > 100


@check
def a_netlink_message_that_takes_a_capability() -> object:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        nothing = struct.pack("=IHHIIBxHiII", 32, 19, 5, 1, 0, 0, 0, 1, 0, 0)  # RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK; of lo
        return s.sendto(nothing, (0, 0)), struct.unpack_from("=i", s.recv(65536), 16)


@check
def families_and_kinds() -> object:
    kinds = ((1, 1), (1, 2), (1, 5), (2, 1), (2, 2), (10, 1), (10, 2), (16, 3, 0))
    return [sent(lambda kind=kind: socket.socket(*kind).close()) for kind in kinds]
