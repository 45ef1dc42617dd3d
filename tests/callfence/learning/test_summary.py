"""What `learn` ends with: the table, how sure, and what is new."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from callfence.learning.store import Learned
from callfence.learning.summary import has_names_only, news, print_check, print_summary, sureness
from callfence.policygen.completeness import estimate
from callfence.policygen.files.algebra import Difference
from callfence.policygen.language.document import parse
from callfence.policygen.learning.generate import Generated, New
from callfence.policygen.model import alternatives
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.abi.waits import bits

NAMES = table(Arch.X86_64).by_name
Call = tuple[str, int]


def said(*runs: list[Call]) -> str:
    parts = []
    for index, calls in enumerate(runs):
        aggregator = Aggregator()
        for name, first in calls:
            aggregator.counter("/app", Event(Arch.X86_64.audit, NAMES[name].number, (first, 0, 0, 0, 0, 0)), str)[0] += 1
        run = Run(f"r{index}", index, ("./app",), 0, True)
        parts.append(Recording((run,), aggregator.observations()))
    seen = merge(*parts)
    return sureness(estimate(seen))


READ, WRITE, KEEP, DUMP = ("read", 0), ("write", 0), ("prctl", 8), ("prctl", 4)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[READ]], "one run says nothing about the next one: record more runs"),
        (
            [[READ], [READ, WRITE]],
            "2 runs; about 50% that one more run needs something new; seen in one run only: write",
        ),
        (
            [[READ, KEEP], [READ, KEEP, DUMP]],
            "2 runs; about 50% that one more run needs something new; seen in one run only: prctl",
        ),
        (
            [[READ]] * 3,
            "3 runs; each needed only rules that others needed, too; but so few runs say little about the next"
            " one: record more runs",
        ),
        (
            [[READ]] * 10,
            "10 runs; each needed only rules that others needed, too; at least 74 of 100 further runs need"
            " nothing new (95% confidence)",
        ),
    ],
)
def test_what_is_said(runs: list[list[Call]], expected: str) -> None:
    assert said(*runs) == expected


@pytest.mark.parametrize(("text", "names"), [("read: allow\n", True), ("read: allow\nwrite: fd == 1\n", False)])
def test_a_policy_of_names(text: str, names: bool) -> None:
    assert has_names_only(parse(text).policy) is names


RUN = Run("a", 1, ("./app",), 0, True)


def learned(text: str, before: str | None = None, *, runs: tuple[Run, ...] = (RUN,), **more: Any) -> Learned:
    """What the last of the runs has added to a policy; `more`: fields of `Generated` and `Learned`."""
    fields = {"new": (), "widenings": {}, "refused": (), "gaps": ()}
    fields |= {name: value for name, value in more.items() if name in Generated._fields}
    others = {name: value for name, value in more.items() if name in Learned._fields}
    existing = None if before is None else parse(before)
    observations = others.pop("recording", ())
    generated = Generated(parse(text), **fields)
    return Learned(Path("app.policy"), Recording(runs, observations), runs[-1], existing, generated, **others)


def new(text: str, *, first: bool, phase: str = "") -> New:
    """A call whose rules, written as an entry, are all new."""
    ((arch, section),) = parse(f"arch x86_64\n{text}\n").policy.entries.items()
    ((number, entry),) = section.items()
    return New(arch, number, entry, alternatives(entry.expression), first, phase)


def observed(name: str, *counts: int) -> Observation:
    return Observation(Arch.X86_64.audit, NAMES[name].number, (0,) * 6, "/app", counts, "?", (0,) * 6)


def table_of(learned: Learned) -> dict[str, list[str]]:
    text = StringIO()
    print_summary(learned, (), text)
    first, *lines = text.getvalue().splitlines()
    assert first == "learned app.policy"
    width = max(len(line[2:].partition("  ")[0]) for line in lines if not line.startswith("  + "))
    rows: dict[str, list[str]] = {}
    for line in lines:
        rows.setdefault(line[2 : 2 + width].strip(), []).append(line[4 + width :])
    return rows


def test_the_whole_text() -> None:
    more = new("write: fd == 1", first=True)
    runs = (RUN._replace(id="b", started=0, command=("./app", "x"), status=3), RUN)
    seen = (observed("read", 1000, 1234), observed("write", 0, 1))
    text = "arch x86_64\nread: allow\nwrite: fd == 1 || fd == 2\n"
    of_file = learned(text, "read: allow\n", runs=runs, new=(more,), widenings={("x",): 1, ("y",): 1}, recording=seen)
    printed = StringIO()
    print_summary(of_file, ("learn", "--rehearse", "./a b"), printed)
    *lines, last = printed.getvalue().splitlines()
    assert lines == [
        "learned app.policy",
        "  this run     1,235 calls looked at, exit status 0",
        "  policy       2 syscalls, 3 rules, 1 syscall with conditions on arguments",
        "  new          1 syscall",
        "  widened      rules allow more than was seen in 2 places (callfence why POLICY)",
        "  how sure     2 runs; about 50% that one more run needs something new; seen in one run only: write",
        "  run it next  with signals that it handles",
        "  + write: fd == 1",
    ]
    assert last.startswith("  not rehearsed: ") and last.endswith(" other circumstances; to try them: learn --rehearse './a b'")


FILES = "path /: read, write\npath /etc: read\ntcp connect: 443\ntcp bind: none\nread: allow\n"
HOSTS = "".join(f"tcp connect h{n}.example: 44{n}\n" for n in range(1, 9))
PHASED = "phase serving after epoll_wait\ntcp bind: none\nepoll_wait: allow\nbind: allow until serving\n"
OF_PHASED = {
    "TCP ports": ["bind none"],
    "policy": ["2 syscalls, 2 rules, 0 syscalls with conditions on arguments"],
}
WAITS, ACCEPTS = bits(("epoll_wait",)), bits(("accept",))
WAS_THERE = "was there before: the policy does not let the program make it, as it must after"
IN_RUN = "it may write, create everything in /run"
TO_HOST = "to confine it to hosts, learn it anew with --fresh --hosts"
ROWS: dict[str, tuple[Learned, dict[str, list[str]]]] = {
    "nothing new": (learned("read: allow\n", "read: allow\n"), {"new": ["nothing"]}),
    "signal": (
        learned("read: allow\n", runs=(RUN._replace(status=-9),)),
        {"this run": ["0 calls looked at, ended by signal 9"]},
    ),
    "running": (
        learned("read: allow\n", runs=(RUN._replace(status=None),)),
        {"this run": ["0 calls looked at, let go of while running"]},
    ),
    "default": (learned("default trap\nread: allow\n", "read: allow\n"), {"default": ["trap, was kill"], "new": ["nothing"]}),
    "scope": (
        learned("scope none\nread: allow\n", "read: allow\n"),
        {"signals": ["whom its signals reach is not known: `scope none`"], "new": ["nothing"]},
    ),
    "others": (
        learned("scope none\nread: allow\n", runs=(RUN._replace(signals="others"),)),
        {"signals": ["it signals other processes, or looks into them: `scope none`"]},
    ),
    "sockets": (
        learned("scope signals, abstract sockets\nread: allow\n", "read: allow\n"),
        {
            "sockets": ["only to its own processes, and enforce keeps them there (`scope signals, abstract sockets`)"],
            "new": ["nothing"],
        },
    ),
    "files": (
        learned(FILES, runs=(RUN._replace(files=(("/etc/hosts", "read", "/app"), ("tcp connect", "443", "/app"))),)),
        {
            "leaves open": ["it may read, write any file"],
            "TCP ports": ["connect 443; bind none"],
            "files": ["2 lines; this run used 1 file or folder"],
        },
    ),
    "hosts": (
        learned(f"{HOSTS}tcp connect: 80\ntcp bind: 22\nudp send 10.0.0.2: 53\nunix connect /run/x\nread: allow\n"),
        {
            "TCP ports": ["bind 22"],
            "hosts": [f"any host 80, {', '.join(f'h{n}.example 44{n}' for n in range(1, 8))} and 2 more"],
            "unix sockets": ["/run/x"],
        },
    ),
    "eight hosts": (
        learned(f"{HOSTS}tcp bind: any\nudp send: any\nconnect: allow\n"),
        {
            "leaves open": ["it may serve on any TCP port; it may send to any UDP port"],
            "TCP ports": ["bind any"],
            "hosts": [f"by UDP any host any, {', '.join(f'h{n}.example 44{n}' for n in range(1, 8))} and 1 more"],
        },
    ),
    "names": (
        learned("tcp connect 10.0.0.1: any\ntcp bind: none\nudp send 10.0.0.1: 53\ndns query: any\nunix connect: none\n"),
        {
            "leaves open": ["it may look up any name"],
            "TCP ports": ["bind none"],
            "hosts": ["10.0.0.1 any, by UDP 10.0.0.1 53"],
            "unix sockets": ["none"],
            "other look-ups": ["any"],
            "policy": ["0 syscalls, 0 rules, 0 syscalls with conditions on arguments"],
        },
    ),
    "gaps": (
        learned("read: allow\n", runs=(RUN._replace(gaps=tuple(f"gap {number:02}" for number in range(41))),)),
        {"not observed": [*(f"gap {number:02}" for number in range(40)), "... and 1 more"]},
    ),
    "forty gaps": (
        learned("read: allow\n", runs=(RUN._replace(gaps=tuple(f"gap {number:02}" for number in range(39))),), gaps=("x\ny",)),
        {"not observed": [*(f"gap {number:02}" for number in range(39)), "x\\x0ay"]},
    ),
    "refused": (
        learned("read: deny\n", "read: deny\n", refused=(observed("read", 1), observed("read", 2))),
        {"new": ["nothing"], "refused": ["read: the policy denies it explicitly; unchanged"]},
    ),
    "any value": (
        learned("read: allow\n", given_up={(Arch.X86_64, NAMES["ioctl"].number): ("request", "arg")}),
        {"any value": ["ioctl: any request and arg, for too many values were seen to list them; review it"]},
    ),
    "exact": (
        learned("read: allow\n", exact_within="base.policy", widenings={("x",): 1}),
        {
            "implied": ["nothing: base.policy allows too little of it; the policy is exact"],
            "widened": ["rules allow more than was seen in 1 place (callfence why POLICY)"],
        },
    ),
    "phases": (learned("read: allow\n", phases="none: it waits for nothing"), {"phases": ["none: it waits for nothing"]}),
    "implied": (
        learned("implied 1\nread: allow\n", implied=2),
        {"implied": ["2 kinds of call that grant nothing beyond the policy's lines (callfence show --implied)"]},
    ),
    "phases, all entered": (learned(PHASED, runs=(RUN._replace(waits=(0, WAITS, WAITS | ACCEPTS)),)), OF_PHASED),
    "phases, not followed": (learned(PHASED), OF_PHASED),
    "phases, no end": (
        learned(PHASED, runs=(RUN._replace(waits=(0, WAITS), status=-9),)),
        OF_PHASED
        | {
            "this run": ["0 calls looked at, ended by signal 9"],
            "phases": ["no run ended by itself: what its end needs may be denied by then"],
        },
    ),
    "phases, not entered": (
        learned(PHASED, runs=(RUN._replace(waits=(0, ACCEPTS)),)),
        OF_PHASED | {"phases": ["no process of this run has entered serving"]},
    ),
    "phases, one not entered": (
        learned(PHASED, runs=(RUN._replace(waits=(0, WAITS, ACCEPTS)),)),
        OF_PHASED
        | {
            "phases": [
                "a process that accepts connections never entered serving, and keeps its start-up permissions: "
                "choose another trigger"
            ]
        },
    ),
    "phases, filters of its own": (
        learned(f"{PHASED}seccomp: allow\n", runs=(RUN._replace(waits=(0, WAITS)),)),
        OF_PHASED
        | {
            "policy": ["3 syscalls, 3 rules, 0 syscalls with conditions on arguments"],
            "phases": [
                "it may install filters, and is killed if one denies the calls by which `enforce` puts it into a phase: "
                "then learn it again with --fresh, without --phases"
            ],
        },
    ),
    "left": (
        learned(
            "path /var/log: read, write\npath /run: read\nread: allow\n",
            runs=(RUN._replace(files=(("left", "/run/x", "/app"), ("left", "/var/log/x.log", "/app"))),),
        ),
        {
            "files": ["2 lines; this run used 0 files or folders"],
            "not learned": [
                f"/run/x {WAS_THERE} the machine's next start: remove it, learn a start",
                f"/var/log/x.log {WAS_THERE} a rotation of logs: remove it, learn a start",
            ],
        },
    ),
    "made": (
        learned(
            "path /run: read, write, create\npath /srv: read, write, create, remove\nread: allow\n",
            runs=(RUN._replace(files=(("made", "/run/x/", ""), ("made", "/run/x.pid", ""), ("made", "/srv/y", ""))),),
        ),
        {
            "files": ["2 lines; this run used 0 files or folders"],
            "to narrow": [
                f"let it make x.pid in a folder of its own, such as /run/x: {IN_RUN}",
                f"learn it again with --fresh, now that x/ is there: {IN_RUN}",
            ],
        },
    ),
    "made, two folders": (
        learned(
            "path /run: read, write, create\nread: allow\n",
            runs=(RUN._replace(files=(("made", "/run/x/", ""), ("made", "/run/y/", ""))),),
        ),
        {
            "files": ["1 line; this run used 0 files or folders"],
            "to narrow": [f"learn it again with --fresh, now that x/, y/ are there: {IN_RUN}"],
        },
    ),
    "hosts, not recorded": (
        learned(
            "path /etc: read\ntcp connect: 443\ntcp connect a.b: 80\nread: allow\n",
            runs=(RUN._replace(files=(("tcp connect", "443", "/app"),)),),
        ),
        {
            "files": ["1 line; this run used 0 files or folders"],
            "hosts": [
                "any host 443, by UDP any host any, a.b 80",
                f"`tcp connect: 443` stays, since hosts were not recorded in run 1: {TO_HOST}",
            ],
        },
    ),
    "hosts, not recorded in many": (
        learned(
            "tcp connect: 443\ntcp connect a.b: 80\nread: allow\n",
            runs=tuple(RUN._replace(id=str(number), files=(("tcp connect", "443", "/app"),)) for number in range(5)),
        ),
        {
            "hosts": [
                "any host 443, by UDP any host any, a.b 80",
                f"`tcp connect: 443` stays, since hosts were not recorded in runs 1, 2, 3, 4 ...: {TO_HOST}",
            ],
            "how sure": [
                "5 runs; each needed only rules that others needed, too; at least 55 of 100 further runs need nothing new "
                "(95% confidence)"
            ],
        },
    ),
    "nothing confined": (
        learned("openat: allow\nconnect: allow\nbind: allow\n"),
        {
            "leaves open": [
                "it may open any file that its user may (learn --files confines them); it may connect to any TCP port; "
                "it may serve on any TCP port"
            ],
            "policy": ["3 syscalls, 3 rules, 0 syscalls with conditions on arguments"],
        },
    ),
}
STANDARD = {
    "this run": ["0 calls looked at, exit status 0"],
    "policy": ["1 syscall, 1 rule, 0 syscalls with conditions on arguments"],
    "new": ["everything: there was no policy before"],
    "how sure": ["one run says nothing about the next one: record more runs"],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str) -> None:
    of_run, rows = ROWS[name]
    found = table_of(of_run)
    del found["run it next"]
    assert found == STANDARD | rows


@pytest.mark.parametrize(
    ("processors", "call", "is_said"),
    [({0}, "sched_getaffinity", True), ({0, 1}, "sched_getaffinity", False), ({3}, "sched_setaffinity", False)],
)
def test_a_program_that_asks_for_processors_where_there_is_one_may_do_more_with_several(
    processors: set[int], call: str, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: processors)
    (row,) = table_of(learned("read: allow\n", recording=(observed(call, 1),)))["run it next"]
    assert row.endswith("; with more processors") is is_said


WRITES = new("write: fd == 1", first=True)
READS = new("read: fd == 0", first=False, phase="later")
LINE = Difference("path /etc", "read", "")


@pytest.mark.parametrize(
    ("calls", "files", "said"),
    [
        ((), (), "nothing"),
        ((), (LINE,), "1 line about files and ports"),
        ((WRITES,), (), "1 syscall"),
        ((WRITES, READS), (LINE, LINE), "1 syscall, and more of 1 that was allowed in part, and 2 lines about files and ports"),
        ((READS, READS), (), "more of 2 that were allowed in part"),
    ],
)
def test_what_is_new(calls: tuple[New, ...], files: tuple[Difference, ...], said: str) -> None:
    of_run = learned("read: allow\n", "read: allow\n", new=calls, files=files)
    assert table_of(of_run)["new"] == [said]
    lines = {WRITES: "+ write: fd == 1", READS: "+ read: fd == 0  (in later as well)"}
    assert news(of_run) == [*(lines[call] for call in calls), *("+ path /etc: read" for _ in files)]
    assert news(of_run._replace(existing=None)) == []


@pytest.mark.parametrize(
    ("count", "last"), [(40, "+ path /etc: read"), (41, "... and 1 line more"), (43, "... and 3 lines more")]
)
def test_forty_new_lines_are_shown(count: int, last: str) -> None:
    lines = news(learned("read: allow\n", "read: allow\n", files=(LINE,) * count))
    assert (len(lines), lines[39], lines[-1]) == (min(count, 41), "+ path /etc: read", last)


@pytest.mark.parametrize(
    ("of_run", "failed", "said"),
    [
        (learned("read: allow\n", "read: allow\n"), False, ["app.policy: nothing new"]),
        (
            learned("read: allow\n", "read: allow\n", runs=(RUN._replace(status=3),)),
            True,
            ["app.policy: nothing new", "the program failed, exit status 3: the exit status is its own"],
        ),
        (
            learned(
                "scope none\nread: deny\n", "read: deny\n", new=(WRITES,), gaps=("a gap",), refused=(observed("read", 1),),
                given_up={(Arch.X86_64, NAMES["ioctl"].number): ("request",)},
            ),
            False,
            [
                "app.policy: new behaviour, 1 syscall",
                "  signals whom its signals reach is not known: `scope none`",
                "  + write: fd == 1",
                "  not observed: a gap",
                "  refused: read: the policy denies it explicitly; unchanged",
                "  any value: ioctl: any request, for too many values were seen to list them; review it",
                "to accept it, run this, and commit app.policy:",
                "  learn './a b'",
                "the program succeeded: exit status 1 says that there is new behaviour",
            ],
        ),
        (
            learned("read: allow\n", "read: allow\n", files=(LINE,), runs=(RUN._replace(status=-6),)),
            True,
            [
                "app.policy: new behaviour, 1 line about files and ports",
                "  + path /etc: read",
                "to accept it, run this, and commit app.policy:",
                "  learn './a b'",
                "the program failed, ended by signal 6: the exit status is its own",
            ],
        ),
    ],
)  # fmt: skip
def test_what_a_check_prints(of_run: Learned, failed: bool, said: list[str]) -> None:
    printed = StringIO()
    print_check(of_run, ("learn", "./a b"), failed, printed)
    assert printed.getvalue().splitlines() == said
