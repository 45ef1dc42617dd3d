"""Makes calls that reach other sockets, and prints what each returned: run plainly and under `enforce`, the lines are equal.

`python compared.py FOLDER`: FOLDER is empty, for unix sockets.  The network is that of tests/support/networks/network.py, with
the addresses 192.0.2.3 and 2001:db8::3.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
V4, V6 = "192.0.2.3", "2001:db8::3"
WEB, ECHO, CLOSED = 8080, 9000, 9999
FOLDER = sys.argv[1]
CHECKS: list[Callable[[], object]] = []


def check(function: Callable[[], object]) -> Callable[[], object]:
    CHECKS.append(function)
    return function


def tcp(family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM)


def udp(family: int = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    return made


def v4(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def v6(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)


def raw_connect(fd: int, address: bytes | None, length: int | None = None) -> str:
    result = LIBC.connect(fd, address, len(address or b"") if length is None else length)
    return "0" if result == 0 else errno.errorcode[ctypes.get_errno()]


# Connecting by TCP


@check
def connects() -> object:
    with tcp() as s:
        return s.connect_ex((V4, WEB)), s.getpeername(), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@check
def is_refused() -> object:
    with tcp() as s:
        return s.connect_ex((V4, CLOSED)), s.connect_ex((V4, CLOSED))


@check
def connects_twice() -> object:
    with tcp() as s:
        return s.connect_ex((V4, WEB)), s.connect_ex((V4, WEB)), s.connect_ex((V4, CLOSED))


@check
def talks() -> object:
    with socket.create_connection((V4, WEB), 5) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return s.makefile("rb").read()[-6:]


@check
def connects_without_waiting() -> object:
    with tcp() as s:
        s.setblocking(False)
        first = s.connect_ex((V4, WEB))
        ready = select.select([], [s], [], 5)[1] == [s]
        return first in (0, errno.EINPROGRESS), ready, s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getpeername()


@check
def is_refused_without_waiting() -> object:
    with tcp() as s:
        s.setblocking(False)
        first = s.connect_ex((V4, CLOSED))
        poll = select.poll()
        poll.register(s, select.POLLOUT)
        events = poll.poll(5000)[0][1]
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return first in (errno.EINPROGRESS, errno.ECONNREFUSED), events & select.POLLERR or first, error or first


@check
def polls_by_epoll() -> object:
    with tcp() as s, select.epoll() as epoll:
        s.setblocking(False)
        s.connect_ex((V4, WEB))
        epoll.register(s, select.EPOLLOUT)
        return epoll.poll(5)[0][1]


@check
def with_a_timeout() -> object:
    with tcp() as s:
        s.settimeout(3)
        return s.connect_ex((V4, WEB)), s.gettimeout(), s.getblocking()


@check
def stays_blocking() -> object:
    with tcp() as s:
        s.connect((V4, WEB))
        return os.get_blocking(s.fileno())


@check
def disconnects() -> object:
    with tcp() as s:
        s.connect((V4, WEB))
        first = raw_connect(s.fileno(), bytes(16))
        with suppress(OSError):
            return first, s.getpeername()
        return first, "not connected", s.connect_ex((V4, WEB))


@check
def wrong_descriptors() -> object:
    with open("/dev/null", "rb") as file:
        return raw_connect(999, v4(V4, WEB)), raw_connect(-1, v4(V4, WEB)), raw_connect(file.fileno(), v4(V4, WEB))


@check
def wrong_lengths() -> object:
    address = v4(V4, WEB)
    results = []
    for length in (0, 1, 2, 8, 15, 16, 17, 127, 128, 129, 1000, -1):
        with tcp() as s:
            results.append(raw_connect(s.fileno(), address + bytes(1000), length))
    return results


@check
def wrong_addresses() -> object:
    with tcp() as s:
        places = [ctypes.c_void_p(at) for at in (1, 0xFFFF000000000000)]
        results = [errno.errorcode[ctypes.get_errno()] for place in places if LIBC.connect(s.fileno(), place, 16)]
        return results, raw_connect(s.fileno(), None, 16)


@check
def wrong_families() -> object:
    results = []
    for family in (3, 9, 16, 17, 40, 99):
        with tcp() as s:
            results.append(raw_connect(s.fileno(), struct.pack("=H", family) + v4(V4, WEB)[2:]))
    return results


@check
def an_address_of_the_other_family() -> object:
    with tcp() as a, tcp(socket.AF_INET6) as b:
        return raw_connect(a.fileno(), v6(V6, WEB)), raw_connect(b.fileno(), v4(V4, WEB))


@check
def by_ipv6() -> object:
    with tcp(socket.AF_INET6) as s:
        return s.connect_ex((V6, WEB)), s.getpeername()


@check
def a_mapped_address() -> object:
    with tcp(socket.AF_INET6) as s:
        return s.connect_ex((f"::ffff:{V4}", WEB)), s.getpeername()


@check
def a_mapped_address_where_only_ipv6_is_wanted() -> object:
    with tcp(socket.AF_INET6) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return s.connect_ex((f"::ffff:{V4}", WEB))


@check
def this_host() -> object:
    with tcp() as a, tcp(socket.AF_INET6) as b:
        return a.connect_ex(("0.0.0.0", CLOSED)), b.connect_ex(("::", CLOSED))


@check
def where_no_route_leads() -> object:
    with tcp() as a, tcp(socket.AF_INET6) as b:
        return a.connect_ex(("203.0.113.1", WEB)), b.connect_ex(("2001:db8:1::1", WEB))


@check
def a_multicast_address() -> object:
    with tcp() as s:
        return s.connect_ex(("224.0.0.1", WEB))


@check
def port_0() -> object:
    with tcp() as s:
        return s.connect_ex((V4, 0))


@check
def a_link_local_address_without_a_scope() -> object:
    with tcp(socket.AF_INET6) as s:
        return s.connect_ex(("fe80::1", WEB))


@check
def from_a_bound_port() -> object:
    with tcp() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        return s.connect_ex(("127.0.0.1", WEB)), s.getsockname()[1] == port


@check
def a_listening_socket() -> object:
    with tcp() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        return s.connect_ex((V4, WEB))


@check
def after_a_shutdown() -> object:
    with tcp() as s:
        s.connect((V4, WEB))
        s.shutdown(socket.SHUT_RDWR)
        return s.connect_ex((V4, WEB))


@check
def fast_open_connect() -> object:
    with tcp() as s:
        s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
        first = s.connect_ex((V4, WEB))
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return first, s.makefile("rb").read()[-6:]


def full() -> tuple[socket.socket, list[socket.socket]]:
    """A TCP listener whose queue is full: connections wait."""
    listener, waiting = tcp(), []
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(3):
        s = tcp()
        s.setblocking(False)
        s.connect_ex(listener.getsockname())
        waiting.append(s)
    return listener, waiting


@check
def waits_for_its_turn() -> object:
    listener, waiting = full()
    with listener, tcp() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200000))
        begin = time.monotonic()
        result = raw_connect(s.fileno(), v4("127.0.0.1", listener.getsockname()[1]))
        for one in waiting:
            one.close()
        return result, 0.1 < time.monotonic() - begin < 3


@check
def is_interrupted() -> object:
    listener, waiting = full()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    with listener, tcp() as s:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.monotonic()
        result = raw_connect(s.fileno(), v4("127.0.0.1", listener.getsockname()[1]))
        for one in waiting:
            one.close()
        return result, time.monotonic() - begin < 3


@check
def another_thread_connects_meanwhile() -> object:
    listener, waiting = full()
    with listener, tcp() as slow, tcp() as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
        address = v4("127.0.0.1", listener.getsockname()[1])
        thread = threading.Thread(target=raw_connect, args=(slow.fileno(), address))
        thread.start()
        time.sleep(0.1)
        begin = time.monotonic()
        result = quick.connect_ex((V4, WEB))
        took = time.monotonic() - begin
        thread.join()
        for one in waiting:
            one.close()
        return result, took < 0.5


@check
def a_child_connects() -> object:
    with tcp() as s:
        child = os.fork()
        if not child:
            os._exit(s.connect_ex((V4, WEB)))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, s.getpeername(), s.connect_ex((V4, WEB))


@check
def many_threads() -> object:
    results: list[int] = []

    def one() -> None:
        for _ in range(20):
            with tcp() as s:
                results.append(s.connect_ex((V4, WEB)))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(results), set(results)


# Datagrams


@check
def echoes() -> object:
    with udp() as s:
        return s.sendto(b"hello", (V4, ECHO)), s.recvfrom(100)


@check
def echoes_by_ipv6() -> object:
    with udp(socket.AF_INET6) as s:
        return s.sendto(b"hello", (V6, ECHO)), s.recvfrom(100)


@check
def echoes_by_a_mapped_address() -> object:
    with udp(socket.AF_INET6) as s:
        return s.sendto(b"hello", (f"::ffff:{V4}", ECHO)), s.recvfrom(100)


@check
def connected_datagrams() -> object:
    with udp() as s:
        return s.connect_ex((V4, ECHO)), s.send(b"one"), s.recv(100), s.getpeername()


@check
def connected_elsewhere() -> object:
    with udp() as s:
        s.connect((V4, CLOSED))
        return s.sendto(b"two", (V4, ECHO))


@check
def connected_anew() -> object:
    with udp() as s:
        results = [s.connect_ex((V4, CLOSED)), raw_connect(s.fileno(), bytes(16)), s.connect_ex((V4, ECHO)), s.send(b"x")]
        return results, s.recv(100)


@check
def nobody_listens() -> object:
    with udp() as s:
        s.connect((V4, CLOSED))
        s.send(b"x")
        time.sleep(0.05)
        try:
            return s.send(b"x")
        except OSError as error:
            return error.errno


def sent(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@check
def sizes() -> object:
    with udp() as s:
        return [sent(lambda size=size: s.sendto(bytes(size), (V4, ECHO))) for size in (0, 1, 1472, 9000, 65507, 65508, 200000)]


@check
def without_an_address() -> object:
    with udp() as s:
        return sent(lambda: s.send(b"x")), sent(lambda: s.sendmsg([b"x"]))


@check
def to_port_0() -> object:
    with udp() as s:
        return sent(lambda: s.sendto(b"x", (V4, 0)))


@check
def to_a_broadcast_address() -> object:
    with udp() as s:
        return sent(lambda: s.sendto(b"x", ("255.255.255.255", ECHO)))


@check
def where_no_route_leads_datagrams() -> object:
    with udp() as s:
        return sent(lambda: s.sendto(b"x", ("203.0.113.1", ECHO)))


@check
def messages() -> object:
    with udp() as s:
        count = s.sendmsg([b"he", b"", b"llo"], [], 0, (V4, ECHO))
        return count, s.recvmsg(100)[0]


@check
def messages_with_control_data() -> object:
    with udp() as s:
        info = struct.pack("=I4s4s", 0, socket.inet_aton("127.0.0.1"), bytes(4))  # IP_PKTINFO, struct in_pktinfo
        count = s.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, info)], 0, ("127.0.0.1", ECHO))
        return count, s.recvfrom(100)


@check
def messages_without_address() -> object:
    with udp() as s:
        s.connect((V4, ECHO))
        return s.sendmsg([b"he", b"llo"]), s.recv(100)


@check
def messages_with_wrong_control_data() -> object:
    with udp() as s:
        return sent(lambda: s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\xff\xff\xff\x7f")], 0, (V4, ECHO)))


class Head(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("length", ctypes.c_uint32), ("parts", ctypes.c_void_p), ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_int),
    )  # fmt: skip


class Mmsg(ctypes.Structure):
    _fields_ = (("head", Head), ("sent", ctypes.c_uint32))


def head(address: bytes, contents: list[bytes], kept: list[object]) -> Head:
    name = ctypes.create_string_buffer(address, len(address))
    parts = (ctypes.c_size_t * (2 * len(contents)))()
    for index, content in enumerate(contents):
        body = ctypes.create_string_buffer(content, len(content) or 1)
        parts[2 * index : 2 * index + 2] = ctypes.addressof(body), len(content)
        kept.append(body)
    kept += [name, parts]
    return Head(ctypes.addressof(name) if address else None, len(address), ctypes.addressof(parts), len(contents), None, 0, 0)


@check
def several_messages() -> object:
    kept: list[object] = []
    heads = [head(v4(V4, ECHO), [b"a" * size], kept) for size in (1, 20, 300)]
    several = (Mmsg * 3)(*(Mmsg(one, 0) for one in heads))
    with udp() as s:
        count = LIBC.sendmmsg(s.fileno(), several, 3, 0)
        return count, [one.sent for one in several], sorted(len(s.recv(1000)) for _ in range(3))


@check
def several_messages_the_second_of_which_fails() -> object:
    kept: list[object] = []
    heads = [head(address, [b"a"], kept) for address in (v4(V4, ECHO), v4(V4, 0), v4(V4, ECHO))]
    several = (Mmsg * 3)(*(Mmsg(one, 0) for one in heads))
    with udp() as s:
        return LIBC.sendmmsg(s.fileno(), several, 3, 0), [one.sent for one in several]


@check
def no_messages() -> object:
    with udp() as s:
        return LIBC.sendmmsg(s.fileno(), None, 0, 0)


@check
def wrong_messages() -> object:
    kept: list[object] = []
    with udp() as s:
        results = []
        for change in ({"count": 2000}, {"parts": 1}, {"name": 1}, {"length": 3}, {"control": 1, "control_length": 16}):
            one = head(v4(V4, ECHO), [b"a"], kept)
            for name, value in change.items():
                setattr(one, name, value)
            results.append(LIBC.sendmsg(s.fileno(), ctypes.byref(one), 0) >= 0 or errno.errorcode[ctypes.get_errno()])
        results.append(LIBC.sendmsg(s.fileno(), ctypes.c_void_p(8), 0) >= 0 or errno.errorcode[ctypes.get_errno()])
        return results


@check
def answers_from_elsewhere_are_told_apart() -> object:
    with udp() as s, udp() as other:
        s.bind(("127.0.0.1", 0))
        s.connect(("127.0.0.1", ECHO))
        other.sendto(b"other", s.getsockname())
        s.send(b"mine")
        return s.recvfrom(100)


# Unix sockets


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
        return [raw_connect(s.fileno(), b"\1\0" + bytes(length)) for length in (0, 1, 108)]


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
def a_long_message_by_a_stream() -> object:
    a, b = socket.socketpair()
    received: list[int] = []

    def drain() -> None:
        while part := b.recv(1 << 20):
            received.append(len(part))

    thread = threading.Thread(target=drain)
    thread.start()
    count = a.sendmsg([bytes(300000), bytes(300000)])
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
def families_and_kinds() -> object:
    kinds = ((1, 1), (1, 2), (1, 5), (2, 1), (2, 2), (10, 1), (10, 2), (16, 3, 0))
    return [sent(lambda kind=kind: socket.socket(*kind).close()) for kind in kinds]


def main() -> None:
    for function in CHECKS:
        try:
            result = function()
        except OSError as error:
            result = f"{type(error).__name__} {error}"
        print(f"{function.__name__}: {result}", flush=True)


if __name__ == "__main__":
    main()
