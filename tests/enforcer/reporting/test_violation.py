"""What a report says of a call and what becomes of it, under each action, denied and audited; and when it is counted again."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from calls import event

from callfence.enforcer.files.ungranted import Ungranted
from callfence.enforcer.reporting import report
from callfence.enforcer.reporting.destination import LINES, TEXT, Destination
from callfence.enforcer.reporting.events import Log
from callfence.enforcer.reporting.output import Output
from callfence.enforcer.reporting.settings import Reporting, is_coloured
from callfence.enforcer.reporting.violation import REFUSED, Violation
from callfence.policygen.evidence.facts import Union
from callfence.policygen.model import KILL, Action, ActionKind
from callfence.tracer.abi import NATIVE

NOTIFY, TRAP, EPERM = Action(ActionKind.NOTIFY), Action(ActionKind.TRAP), Action(ActionKind.ERRNO, 1)
READ = Ungranted("a", "path /x", "read", "EACCES", "")
MOVE = Ungranted("b", "path /x", "move", "EXDEV", "because")
SOCKET = Ungranted("a", "", "", "EACCES", "no line is about it")
LOOK_UP = Ungranted("a", "udp look-up", "x.example", REFUSED, "")


def made(action: Action = KILL, audit: bool = False, *ungranted: Ungranted, **fields: Any) -> Violation:
    return Violation(event("getppid"), action, audit, 7, "/app", "app+0x1", {}, (), "", {}, ungranted, **fields)


@pytest.mark.parametrize(
    ("action", "ungranted", "denied", "audited", "field"),
    [
        (KILL, (), "the process is killed", "the process would be killed", "kill"),
        (TRAP, (), "SIGSYS is sent", "SIGSYS would be sent", "trap"),
        (NOTIFY, (), "it fails with ENOSYS", "it would fail with ENOSYS", "notify"),
        (EPERM, (), "it fails with EPERM", "it would fail with EPERM", "errno EPERM"),
        (KILL, (MOVE, READ), "it fails with EACCES", "it would fail with EACCES", "errno EACCES"),
        (KILL, (LOOK_UP,), "the look-up is refused", "the look-up would be refused", "errno REFUSED"),
    ],
)
def test_consequences(
    action: Action, ungranted: tuple[Ungranted, ...], denied: str, audited: str, field: str
) -> None:
    for audit, text in ((False, f"denied getppid(): {denied}"), (True, f"would deny getppid(): {audited}")):
        violation = made(action, audit, *ungranted)
        assert violation.text().splitlines()[0] == f"enforce: {text}"
        fields = violation.fields(1, Union())
        assert (fields["action"], fields["verdict"]) == (field, "audited" if audit else "denied")


def test_what_is_not_granted_is_named_once_with_why() -> None:
    violation = made(KILL, False, READ, MOVE, READ, SOCKET)
    fields = violation.fields(3, Union())
    assert (fields["ungranted"], fields["ungrantable"]) == (["path /x: read", "path /x: move"], ["no line is about it"])
    assert (fields["phase"], fields["count"]) == (None, 3)
    assert violation.text().splitlines()[2:] == [
        "  path /x: read: not granted", "  path /x: move: not granted: because", "  path /x: read: not granted",
        "  no line is about it",
    ]  # fmt: skip


def test_counts_come_after_twice_the_time_of_the_last_up_to_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    counts = report.Counts()
    one = report.Repeated("violation", "evidence", 1)  # type: ignore[arg-type]
    counts.add(("key",), one)
    pauses = []
    for _ in range(14):
        assert counts.again(("key",), 2) is one and counts.again(("other",), 2) is None
        pauses.append(counts.pause() or 0)
        clock[0] += pauses[-1] - 0.5
        assert ([*counts.due()], counts.pause()) == ([], 1)
        clock[0] += 0.5
        assert [*counts.due()] == [one]
        assert ([*counts.due()], [*counts.rest()], counts.pause()) == ([], [], None)
    assert pauses == [*(2**step for step in range(12)), 3600, 3600]
    assert (one.count, one.process) == (15, 2)


def test_a_complaint_is_one_short_line_and_never_waits() -> None:
    reader, writer = os.pipe()
    reporting = Reporting(Destination(writer, TEXT), list, audit=False)
    reporting.complain("x" * 5000)
    assert os.read(reader, 9999) == b"enforce: " + b"x" * 1000 + b"\n"
    os.set_blocking(writer, False)
    os.write(writer, bytes(1 << 20))
    os.set_blocking(writer, True)
    reporting.complain("x")
    os.close(reader)
    reporting.complain("x")
    reporting.give_back()
    reporting.complain("x")
    assert reporting.destination.descriptor == -1


def test_where_reports_go_to_a_log_complaints_go_to_standard_error_until_the_program_ends() -> None:
    (reader, writer), log = os.pipe(), Log(Destination(-1, LINES), [])
    os.set_blocking(reader, False)
    reporting = Reporting(log.destination, list, audit=False, log=log, stderr=writer)
    reporting.complain("one")
    for _ in range(2):
        reporting.give_back()
    reporting.complain("two")
    assert os.read(reader, 99) + os.read(reader, 99) == b"enforce: one\n"
    os.close(reader)
    assert Reporting(Destination(-1, TEXT), list, audit=False, stderr=2).stderr == -1


def test_a_call_that_failed_is_named_with_what_it_asked_for():
    tcsetsw = 0x5403  # asm-generic/ioctls.h
    assert report.selected(event("ioctl", 0, tcsetsw, 0x1000)) == "ioctl(cmd=TCSETSW)"
    assert report.selected(event("getpid")) == "getpid"
    assert report.selected(event("getpid")._replace(number=9999)) == "unknown calls"


def test_a_program_that_varies_what_it_asks_for_makes_no_long_note():
    ours, theirs = os.pipe()
    log = Log(Destination(theirs, LINES), [])
    log.start = {"command": ["app"]}
    reporting = Reporting(log.destination, list, audit=False, log=log)
    reports = report.Reports(reporting, Output(reporting))
    for option in range(1, 1001):
        reports.failed(event("prctl", -option), 22)
    reports.summarise()
    os.close(theirs)
    with open(ours) as lines:
        _, note = map(json.loads, lines)
    assert note["message"].count(" with EINVAL") == 33
    assert f"prctl ({NATIVE}) with EINVAL (968 times)" in note["message"]


@pytest.mark.parametrize(
    ("kind", "variables", "coloured"),
    [
        ("terminal", {"TERM": "xterm"}, True),
        ("terminal", {"TERM": "xterm", "NO_COLOR": ""}, True),
        ("terminal", {"TERM": "xterm", "NO_COLOR": "1"}, False),
        ("terminal", {"TERM": "dumb"}, False),
        ("terminal", {}, False),
        ("pipe", {"TERM": "xterm"}, False),
        ("none", {"TERM": "xterm"}, False),
    ],
)
def test_where_colours_are_shown(monkeypatch: pytest.MonkeyPatch, kind: str, variables: dict[str, str], coloured: bool) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    opened = os.openpty() if kind == "terminal" else os.pipe()
    try:
        assert is_coloured(-1 if kind == "none" else opened[1]) == coloured
    finally:
        for descriptor in opened:
            os.close(descriptor)
