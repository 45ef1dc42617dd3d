"""Calls that remove old logs, take connections, ask a name server by TCP, or read a socket's errors are allowed before a run
makes them."""

from __future__ import annotations

import pytest
from calls import event

from callfence.policygen.files.calls import UDP_CONNECT
from callfence.policygen.files.made import MADE
from callfence.policygen.learning.foreseen import foreseen
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, table

NO_RUN = Recording()
CALLS = table(Arch.X86_64)


def made(at, *names):
    return Recording((Run(f"r{at}", at, ("./app",), 0, True, files=tuple((MADE, name, "") for name in names)),), ())


def opened(at, name, flags=0o101):
    call = event("openat", 0xFFFFFF9C, 7, flags, 0o644)
    evidence = (f'filename="{name}"',)
    of = Observation(call.arch, call.number, recorded_values(CALLS, call), "/app", (1,), "?", call.arguments, evidence)
    return Recording((Run(f"r{at}", at, ("./app",), 0, True),), (of,))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (NO_RUN, opened(0, "~/.npm/_logs/2026-11-28T14_39_50_988Z-debug-0.log"), True),
        (NO_RUN, opened(0, "logs/app-20261128.log"), True),
        (opened(0, "/srv/logs/1.log"), opened(1, "/srv/logs/2.log"), True),
        (NO_RUN, opened(0, "/srv/logs/1.log"), False),
        (NO_RUN, opened(0, "/srv/2026-11-28.log", flags=0), False),
        (NO_RUN, opened(0, "2026-11-28.log"), False),
        (NO_RUN, opened(0, "/tmp/2026-11-28.log"), False),
        (opened(0, "/srv/2026-11-28.log"), opened(1, "/srv/2026-11-29.log"), False),
    ],
)
def test_when_old_files_will_be_removed(old, new, expected):
    calls = [CALLS.by_number[one.number].name for one in foreseen(old, merge(old, new))]
    assert calls == ["unlink"] * expected


def test_calls_of_an_architecture_without_a_table_bring_nothing():
    (of,) = opened(0, "/srv/logs/2026-11-28.log").observations
    run = Run("r0", 0, ("./app",), 0, True)
    assert not foreseen(NO_RUN, Recording((run,), (replace(of, arch=0x12345678),)))


def test_the_names_that_the_use_of_files_records_count_too():
    one = opened(0, "x")
    assert [*foreseen(NO_RUN, merge(one, made(1, "./logs/2026-11-28.log")))]
    assert not [*foreseen(NO_RUN, merge(one, made(1, "./logs/a.log")))]


def calls(at, *names):
    observations = []
    for name in names:
        call = event(name, 3)
        values = recorded_values(CALLS, call)
        observations.append(Observation(call.arch, call.number, values, "/app", (1,), "?", call.arguments, ()))
    return Recording((Run(f"r{at}", at, ("./app",), 0, True),), tuple(sorted(observations, key=lambda one: one.number)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (NO_RUN, calls(0, "listen"), True),
        (NO_RUN, calls(0, "socket", "bind"), False),
        (NO_RUN, calls(0, "listen", "accept4"), False),
        (NO_RUN, calls(0, "listen", "accept"), False),
        (calls(0, "socket"), calls(1, "listen"), True),
        (calls(0, "listen"), calls(1, "listen"), False),
    ],
)
def test_who_listens_will_take_connections(old, new, expected):
    names = [CALLS.by_number[one.number].name for one in foreseen(old, merge(old, new))]
    assert names == ["accept4"] * expected


def sockets(at, *made, asks=True):
    observations = []
    for family, kind in made:
        call = event("socket", family, kind | 0o2000000, 0)
        values = recorded_values(CALLS, call)
        observations.append(Observation(call.arch, call.number, values, "/app", (1,), "?", call.arguments, ()))
    files = ((UDP_CONNECT, "53", "/app"),) * asks
    return Recording((Run(f"r{at}", at, ("./app",), 0, True, files=files),), tuple(observations))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (NO_RUN, sockets(0, (2, 2)), [2]),
        (NO_RUN, sockets(0, (2, 2), (10, 2)), [2, 10]),
        (NO_RUN, sockets(0, (2, 1), (2, 2), (10, 2)), [10]),
        (NO_RUN, sockets(0, (2, 2), asks=False), []),
        (NO_RUN, sockets(0, (1, 2)), []),
        (sockets(0, (2, 2), asks=False), sockets(1, (2, 2)), [2]),
        (sockets(0, (2, 2)), sockets(1, (2, 2)), []),
    ],
)
def test_who_asks_a_name_server_by_udp_will_ask_it_by_tcp(old, new, expected):
    made = [(CALLS.by_number[one.number].name, *one.example[:2]) for one in foreseen(old, merge(old, new))]
    assert made == [("socket", family, 0o2000001) for family in expected]


def received(at, *made):
    observations = []
    for name, *arguments in made:
        call = event(name, 3, *arguments)
        values = recorded_values(CALLS, call)
        observations.append(Observation(call.arch, call.number, values, "/app", (1,), "?", call.arguments, ()))
    return Recording((Run(f"r{at}", at, ("./app",), 0, True),), tuple(sorted(observations, key=lambda one: one.order)))


WOKEN = ("setsockopt", 1, 45)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (NO_RUN, received(0, WOKEN), [("recvmsg", 2)]),
        (NO_RUN, received(0, WOKEN, ("recvmsg", 7, 0x40)), [("recvmsg", 2)]),
        (NO_RUN, received(0, WOKEN, ("recvmmsg", 7, 16, 0x40)), [("recvmmsg", 3)]),
        (NO_RUN, received(0, WOKEN, ("recvmsg", 7, 0x40), ("recvmmsg", 7, 16, 0x2040)), []),
        (NO_RUN, received(0, ("setsockopt", 1, 37), ("recvmsg", 7, 0x40)), []),
        (received(0, WOKEN), received(1, WOKEN), []),
    ],
)
def test_who_asks_to_be_woken_by_errors_will_read_them(old, new, expected):
    found = foreseen(old, merge(old, new))
    assert [(CALLS.by_number[one.number].name, one.example.index(0x2000)) for one in found] == expected
