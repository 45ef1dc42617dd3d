"""Which known calls stop in a warm run, of a policy that confines files, ports and signals, and where the tracer must act."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.filter import bpf
from callfence.policygen.learning.warm import recording_filter
from callfence.tracer.abi import Arch, Event, table

RECORD, WATCH = 0x7FF00001, 0x7FF00002
TEXT = "openat: allow\nread: allow\nconnect: allow\nsendto: allow\nsendmsg: allow\nsocket: allow\nchroot: allow\n"
FILES, FAST = "path /: read\ntcp connect: none\n", 0x20000000
CASES = (
    # settings and lines, call, arguments, whether it stops
    ("", "openat", (), False),
    (FILES, "openat", (), True),
    (FILES, "read", (), False),
    ("tcp bind: none\n", "connect", (), True),
    ("tcp bind: none\n", "openat", (), False),
    ("path /: read\n", "sendto", (3, 0, 1, FAST), False),
    (FILES, "sendto", (3, 0, 1, 0x4000), False),
    (FILES, "sendto", (3, 0, 1, FAST), True),
    (FILES, "sendmsg", (3, 0, FAST | 1), True),
    (FILES, "socket", (2, 1, 6), False),
    (FILES, "socket", (2, 1, 262), True),
    (FILES, "chroot", (), True),
    (f"scope abstract sockets\n{FILES}", "sendto", (3, 0, 1, 0), True),
    ("scope abstract sockets\n", "sendto", (3, 0, 1, 0), False),
)


@pytest.mark.parametrize(("lines", "name", "arguments", "stops"), CASES)
def test_what_stops(lines: str, name: str, arguments: tuple[int, ...], stops: bool) -> None:
    program = recording_filter(parse(lines + TEXT).policy, RECORD, WATCH)
    number = table(Arch.X86_64).by_name[name].number
    a, b, c, d, e, f = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    answer = bpf.run(program, Event(Arch.X86_64.audit, number, (a, b, c, d, e, f)))
    assert (answer in (RECORD, WATCH)) == stops
    assert (answer == WATCH) == (stops and (lines == "tcp bind: none\n" or "scope" in lines))


KILLS = ("kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


@pytest.mark.parametrize(
    ("lines", "name", "arguments", "watched"),
    [
        ("", "clone", (0x11, 0x800000), False),
        ("", "clone", (0x800000,), True),  # CLONE_UNTRACED
        ("", "clone3", (), True),
        ("", "prctl", (22,), True),  # PR_SET_SECCOMP
        ("", "prctl", (21,), True),  # PR_GET_SECCOMP
        ("", "prctl", (20, 21, 22), False),
        ("", "ptrace", (), True),
        ("", "seccomp", (), True),
        *(("scope none\n", name, (), False) for name in KILLS),
        *((lines, name, (), True) for name in KILLS for lines in ("", "scope signals\n")),
        ("scope abstract sockets\n", "kill", (), False),
    ],
)
def test_where_the_tracer_acts_known_calls_stop(lines: str, name: str, arguments: tuple[int, ...], watched: bool) -> None:
    policy = parse(f"{lines}{name}: allow\n").policy
    event = Event(Arch.X86_64.audit, table(Arch.X86_64).by_name[name].number, (*arguments, 0, 0, 0, 0, 0, 0)[:6])
    assert (bpf.run(recording_filter(policy, RECORD, WATCH), event) in (RECORD, WATCH)) is watched


def test_what_the_policy_does_not_allow_is_recorded() -> None:
    program = recording_filter(parse("tcp connect: none\nconnect: fd == 3\n").policy, RECORD, WATCH)
    number = table(Arch.X86_64).by_name["connect"].number
    events = [Event(Arch.X86_64.audit, number, (descriptor, 0, 0, 0, 0, 0)) for descriptor in (3, 4)]
    assert [bpf.run(program, event) for event in events] == [WATCH, RECORD]
