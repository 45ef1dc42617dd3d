"""Which rehearsals are planned for a recording, in which order."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Sequence
from signal import SIGHUP, SIGTERM

import pytest

from callfence.learning.rehearsal.plan import CIRCUMSTANCES, Rehearsal, Stream, effect, failures, parse_choice, plan, verb
from callfence.learning.rehearsal.surroundings import Input, Streams
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.errors import UserError
from callfence.tracer.faults import Exhaust, Fail, Shorten

APP, LOADER, CHILD = "/app", "/lib/ld-linux-x86-64.so.2+0x1", "/bin/child"
Call = tuple[str, tuple[int, ...], int, str, str]


def call(name: str, *arguments: int, times: int = 1, executable: str = APP, site: str = "/lib/libc.so.6+0x1") -> Call:
    return name, arguments, times, executable, site


def test_the_streams_of_a_run_leave_nothing_behind() -> None:
    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = left()
    streams = Streams(Input(), {0: Stream.PIPE, 1: Stream.TERMINAL, 2: Stream.BROKEN})
    streams.start()
    streams.close()
    assert left() == before


def recorded(*calls: Call, rehearsed: str = "", run: str = "a") -> Recording:
    aggregator = Aggregator()
    for name, arguments, times, executable, site in calls:
        number = table(Arch.X86_64).by_name[name].number
        padded = (*arguments, *[0] * (6 - len(arguments)))
        event = Event(Arch.X86_64.audit, number, padded)  # type: ignore[arg-type]
        for _ in range(times):
            aggregator.counter(executable, event, lambda site=site: site)[0] += 1
    made = Run(run, 0, ("./app",), 0, True, executed=(("", APP),), rehearsed=rehearsed)
    return Recording((made,), aggregator.observations())


def said(recording: Recording, only: str = "faults", caught: Sequence[int] = ()) -> list[str]:
    return [one.description for one in plan(recording, caught, parse_choice(only), is_root=True)]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], []),
        ([call("getpid")], []),
        ([call("fsync", 3)], ["fsync(fd=3) fails with EIO", "fsync(fd=3) fails with ENOSPC"]),
        ([call("fsync", 3, site=LOADER)], []),
        ([call("fsync", 3, executable="?")], []),
        ([call("brk", 0)], ["brk() finds no more memory"]),
        (
            [call("close", 3, times=2), call("getdents64", 4)],
            [
                "close(fd=3) fails with EIO",
                "getdents64(fd=4) fails with ENOENT",
                "getdents64(fd=4) fails with EIO",
                "call 2 of close(fd=3) fails with EIO",
            ],
        ),
        (
            [call("close", 3, executable=CHILD), call("flock", 3, 2)],
            [
                "flock(fd=3, cmd=LOCK_EX) fails with EWOULDBLOCK",
                "close(fd=3) fails with EIO",
                "flock(fd=3, cmd=LOCK_EX) fails with EINTR",
            ],
        ),
        (
            [call("close", 3, times=8)],
            [f"{which}close(fd=3) fails with EIO" for which in ("", "call 8 of ", "call 2 of ", "call 3 of ", "call 5 of ")],
        ),
    ],
)
def test_each_place_fails_in_turn(calls: list[Call], expected: list[str]) -> None:
    assert said(recorded(*calls)) == expected


def test_circumstances_of_one_stream_are_about_that_which_they_name() -> None:
    streams = {"stdin": {0}, "stdout": {1}, "stderr": {2}, "all": {1, 2}, "terminal": {0, 1, 2}}
    rows = [(row.name, {*row.streams}) for row in CIRCUMSTANCES if row.streams and row.name != "all-closed"]
    assert rows == [(name, streams[name.partition("-")[0]]) for name, _ in rows]


def test_what_only_a_rehearsal_did_is_not_rehearsed() -> None:
    both = merge(recorded(call("close", 3)), recorded(call("fsync", 3), rehearsed="x", run="b"))
    assert said(both) == ["close(fd=3) fails with EIO"]


def test_signals_that_are_caught_arrive_where_the_program_waits_and_writes() -> None:
    seen = recorded(call("write", 1, 0, 9), call("poll", 0, 1, 5), call("read", 0, 0, 9), call("getpid"))
    assert said(seen, "signals", caught=(SIGTERM, SIGHUP)) == [
        "SIGTERM arrives at poll()",
        "SIGTERM arrives at write(fd=1)",
        "SIGHUP arrives at poll()",
        "SIGHUP arrives at write(fd=1)",
    ]
    assert said(recorded(call("getpid")), "signals", caught=(SIGTERM,)) == ["SIGTERM arrives at getpid()"]
    assert said(seen, "signals") == []


def test_a_fault_is_for_the_calls_that_are_alike() -> None:
    (one, *_) = plan(recorded(call("write", 1, 0, 9)), (), ("faults",), is_root=False)
    number = table(Arch.X86_64).by_name["write"].number
    assert one.fault is not None and (one.fault.executable, one.fault.nth) == (APP, 1)
    found = [one.fault.matches(Event(Arch.X86_64.audit, number, (fd, 7, 7, 0, 0, 0))) for fd in (1, 2)]
    assert found == [True, False]


@pytest.mark.parametrize("is_root", [True, False])
def test_circumstances_can_be_chosen(is_root: bool) -> None:
    def names(only: str = "") -> list[str]:
        return [one.name for one in plan(Recording(), (), parse_choice(only), is_root=is_root)]

    assert names() == [one.name for one in CIRCUMSTANCES if is_root or one.name != "other-user"]
    environment = ["no-environment", "no-home", "other-locale", "empty-folder", "other-tmpdir"]
    assert names("environment,stdout-full") == ["stdout-full", *environment]
    with pytest.raises(UserError, match="unknown name to rehearse: nonsense, more; choose from"):
        names("nonsense,more")


@pytest.mark.parametrize(
    ("failure", "made", "text"),
    [
        ("EIO", Fail(errno.EIO), "fails with EIO"),
        ("EPIPE", Fail(errno.EPIPE, 13), "fails with EPIPE"),
        ("short 2", Shorten(2), "is cut short"),
        ("memory", Exhaust(9), "finds no more memory"),
        ("descriptors", Exhaust(7), "finds no more descriptors"),
    ],
)
def test_what_a_failure_is(failure: str, made: Fail | Shorten | Exhaust, text: str) -> None:
    assert (effect(failure), verb(failure)) == (made, text)


def test_the_table_names_calls_and_errors_that_there_are() -> None:
    calls = {name for arch in Arch for name in table(arch).by_name}
    assert failures().keys() <= calls
    for name, kinds in failures().items():
        assert len(set(kinds)) == len(kinds), name
        for kind in kinds:
            assert isinstance(effect(kind), Fail | Exhaust) or re.fullmatch("short [0-5]", kind), (name, kind)
            if (short := re.fullmatch("short ([0-5])", kind)) is not None:
                arguments = table(Arch.X86_64).by_name[name].arguments
                assert arguments[int(short[1])].name in ("count", "size", "len"), (name, kind)


def test_names_are_told_apart() -> None:
    rehearsal = Rehearsal("SIGTERM", "signals", "")
    assert rehearsal.is_chosen(["SIGTERM"]) and rehearsal.is_chosen(["signals"])
    assert not rehearsal.is_chosen(["SIGINT"]) and not rehearsal.is_chosen(["faults"])


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ((b"A=1",), b"C.UTF-8"),
        ((b"LANG=C",), b"C.UTF-8"),
        ((b"LANG=en_GB.UTF-8",), b"C"),
        ((b"LANG=en_GB.utf8", b"LC_ALL=C"), b"C.UTF-8"),
        ((b"LC_CTYPE=de_DE.UTF-8", b"LANG=C"), b"C"),
        ((b"LC_CTYPE=C", b"LANG=de_DE.UTF-8"), b"C.UTF-8"),
    ],
)
def test_another_locale_is_another_encoding(given: tuple[bytes, ...], other: bytes) -> None:
    """LC_ALL counts before LC_CTYPE, and that before LANG (locale(7))."""
    change = next(one.environment for one in CIRCUMSTANCES if one.name == "other-locale")
    assert change is not None
    kept = tuple(entry for entry in given if entry.partition(b"=")[0] not in (b"LC_ALL", b"LC_CTYPE", b"LANG"))
    assert change(given) == (*kept, b"LC_ALL=" + other)
