"""Connecting by TCP."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from contextlib import suppress

from common import CLOSED, LIBC, V4, V6, WEB, check, raw_connect, tcp, v4, v6


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
        return result, 0.1 < time.monotonic() - begin < 30


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
        return result, time.monotonic() - begin < 30


@check
def another_thread_connects_meanwhile() -> object:
    listener, waiting = full()
    with listener, tcp() as slow, tcp() as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 8, 0))
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
        return result, took < 5


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
