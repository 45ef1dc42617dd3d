"""Datagrams by UDP."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time

from common import CLOSED, ECHO, LIBC, V4, V6, check, raw_connect, sent, udp, v4


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


def returned(result: int) -> object:
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


@check
def no_messages() -> object:
    with udp() as s, open("/dev/null") as file:
        return [returned(LIBC.sendmmsg(number, None, 0, 0)) for number in (s.fileno(), file.fileno(), -1)]


@check
def addresses_of_odd_lengths() -> object:
    kept: list[object] = []
    address = v4(V4, ECHO) + bytes(240)
    with udp() as s:
        results = [returned(LIBC.sendto(s.fileno(), b"a", 1, 0, address, length)) for length in (0, 16, 128, 129)]
        for length in (0, 16, 128, 129, 256, 1 << 31):
            one = head(address, [b"a"], kept)
            one.length = length
            results.append(returned(LIBC.sendmsg(s.fileno(), ctypes.byref(one), 0)))
        return results


@check
def wrong_messages() -> object:
    kept: list[object] = []
    with udp() as s:
        results = []
        controls = ({"control": 1, "control_length": 16}, {"control_length": 16})
        for change in ({"count": 2000}, {"parts": 1}, {"name": 1}, {"length": 3}, *controls):
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
