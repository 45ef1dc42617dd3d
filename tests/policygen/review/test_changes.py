"""The changes of a policy that must be judged, and the policy that remains."""

from __future__ import annotations

import re

import pytest
from calls import parse
from hypothesis import given, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import Change, Verdict, compare
from callfence.policygen.language.naming import format_entry
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.findings import lint
from callfence.policygen.review.changes import EntryChange, SettingChange, changes
from callfence.policygen.review.decisions import Answer, Decision, reasons_needed, resolve
from callfence.tracer.abi import table

OLD = """\
callfence 1
arch x86_64
table 6.18
arm exec
default kill
unknown errno ENOSYS

close: allow
# reads
openat: flags in O_CLOEXEC  # plainly
     || flags == O_WRONLY
read: fd == 0
"""


def names(old: str, new: str) -> list[str]:
    """The changes in their order: the call's line, or the setting's word."""
    return [
        one.word if isinstance(one, SettingChange)
        else format_entry(one.arch, one.number, one.after) if one.after
        else f"no {table(one.arch).by_number[one.number].name}"
        for one in changes(parse(old).policy, parse(new).policy)
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("read: allow", "read: allow", []),
        ("read: fd == 1 || fd == 2", "read: fd in {1, 2}", []),
        ("read: allow", "read: fd == 1", []),
        ("read: allow\nwrite: allow", "read: allow", []),
        ("read: fd == 1", "read: fd == 1 || fd == 2", ["read: fd == 2"]),
        ("read: fd == 1", "read: fd in {1, 2}", ["read: fd in {1, 2}"]),
        ("read: allow", "read: allow\nexecve: allow\nptrace: allow", ["ptrace: allow", "execve: allow"]),
        ("read: allow", "read: allow\nclone3: errno ENOSYS", ["clone3: errno ENOSYS"]),
        ("read: fd == 1", "read: fd == 1 else errno EPERM", ["read: fd == 1 else errno EPERM"]),
        ("ioctl: kill if cmd == TIOCSTI else allow", "ioctl: allow", ["ioctl: allow"]),
        ("default allow\nread: kill", "default allow\nclose: allow", ["no read"]),
        ("read: allow", "default allow\nread: allow", ["default"]),
        ("read: allow", "arm entry\nread: allow", ["arm"]),
        ("arm entry\nread: allow", "arm now\nread: allow", []),
        ("table 6.1\nread: allow", "read: allow", ["table"]),
        ("default allow\nread: kill", "default allow\nread: kill\narch i386\n", ["arch i386"]),
        ("read: allow", "read: allow\narch i386\nread: allow", ["read: allow"]),
        ("read: allow", "read: allow\narch i386\n", ["arch i386"]),
        ("implied 1\nread: allow", "implied 1\nread: allow\narch i386\nopen: allow", ["arch i386", "open: allow"]),
        ("unknown allow\nread: allow", "unknown allow\nread: allow\narch i386\n", ["arch i386"]),
        ("default allow\nread: kill", "default kill\nread: kill\narch i386\nopen: allow", ["open: allow"]),
        ("implied 1\nopen: flags == O_RDONLY\nopenat: deny", "implied 1\nopen: flags == O_RDONLY", ["no openat"]),
        ("default allow", "default kill\nread: allow", []),
        ("default notify\nread: kill", "default notify\nread: kill\narch i386\n", ["arch i386"]),
        ("read: notify if fd == 1", "read: notify if fd == 1 || fd == 2", ["read: notify if fd == 2"]),
        ("", "read: fd == 1 || fd == 2 else notify", ["read: fd == 1\n   || fd == 2\n  else notify"]),
    ],
)
def test_what_is_a_change(old: str, new: str, expected: list[str]) -> None:
    assert names(old, new) == expected


def test_a_change_of_one_alternative_has_the_differences_of_that_alone() -> None:
    (change,) = changes(parse("read: fd == 1").policy, parse("read: fd == 1 || fd == 2").policy)
    assert [each.difference.change for each in change.differences] == [Change.MORE]


def decided(old: str, new: str, *answers: tuple[str, Decision]) -> str:
    """Return the text that remains; a decision is for the changes with its key in their line, all others are rejected."""
    a, b = parse(old), parse(new)
    decisions = {}
    for change, name in zip(changes(a.policy, b.policy), names(old, new), strict=True):
        given_ = [decision for part, decision in answers if part in name]
        decisions[change] = given_[0] if given_ else Decision(Answer.REJECT)
    return resolve(a, b, decisions).text()


ACCEPT = Decision(Answer.ACCEPT)


def test_a_rejected_change_is_removed_and_what_it_replaced_is_restored_with_comments() -> None:
    new = OLD.replace("openat: flags in O_CLOEXEC  # plainly\n", "# plainly\nopenat: flags in O_CLOEXEC|O_NONBLOCK\n")
    new = new.replace("read: fd == 0", "read: fd == 0\n    || fd == 7\nptrace: allow")
    assert parse(new).policy != parse(OLD).policy
    assert decided(OLD, new) == parse(OLD).text()


def test_each_alternative_is_judged_by_itself() -> None:
    new = OLD.replace("read: fd == 0", "read: fd == 0\n    || fd == 3\n    || fd == 4  # the log\nexecve: allow")
    text = decided(OLD, new, ("fd == 4", ACCEPT))
    assert text == parse(OLD.replace("read: fd == 0", "read: fd == 0\n    || fd == 4  # the log")).text()


def test_undecided_changes_stay() -> None:
    new = OLD + "execve: allow\nptrace: allow\n"
    assert resolve(parse(OLD), parse(new), {}).text() == parse(new).text()
    assert decided(OLD, new, ("execve", Decision(Answer.SKIP))) == parse(OLD + "execve: allow\n").text()


def test_rules_removed_by_hand_do_not_come_back() -> None:
    assert "read" not in decided("close: allow\nread: fd == 0", "close: allow\nread: fd == 2")
    assert "read: fd == 5\n" in decided("read: fd == 0 || fd == 5", "read: fd == 2 || fd == 5")
    assert "read: errno EIO\n" in decided("read: fd == 0 else errno EIO", "read: fd == 2 else errno EIO")


def test_an_edited_alternative_takes_the_place_of_the_other() -> None:
    new = OLD.replace("read: fd == 0", "read: fd == 0\n    || fd in {3, 4}")
    instead = next(iter(parse("read: fd == 3").policy.entries.values()))[0]
    text = decided(OLD, new, ("fd in", Decision(Answer.ACCEPT, instead)))
    assert text == parse(OLD.replace("read: fd == 0", "read: fd == 0\n    || fd == 3")).text()


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("execve: allow", "execve: allow                  # why: write-then-run: it starts sh"),
        ("execve: allow  # floor: x", "# floor: x\nexecve: allow                  # why: write-then-run: it starts sh"),
        ("socket: family == AF_INET || family == AF_UNIX", "     || family == AF_INET      # why: it starts sh"),
        ("arm entry", "arm entry                      # why: it starts sh"),
    ],
)
def test_the_reason_is_on_the_line_that_it_is_for(line: str, written: str) -> None:
    old = OLD.replace("read: fd", "socket: family == AF_UNIX\nread: fd")
    new = f"{old}{line}\n".replace("socket: family == AF_UNIX\n", "", line.startswith("socket"))
    if line.startswith("arm"):
        new = old.replace("arm exec", line)
    text = decided(old, new, ("", Decision(Answer.ACCEPT, why="it starts sh")))
    assert f"{written}\n" in text or written.replace("     || ", "socket: ") in text, text
    assert parse(text).text() == text


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("arm now\nread: allow", "arm entry\nread: allow", "arm now"),
        ("default errno EPERM", "default allow", "default errno EPERM"),
        ("table 6.1", "", "table 6.1"),
        ("default allow", "default allow\narch i386\n", "default allow"),
        ("default allow\nclose: kill", "default allow\nclose: kill\narch i386\n", "close: kill"),
        ("read: allow", "read: allow\narch i386\nread: allow", "read: allow"),
        ("default notify", "default notify\narch i386\n", "default notify"),
        ("read: notify if fd == 1", "read: notify if fd == 1 || fd == 2", "read: notify if fd == 1"),
    ],
)
def test_rejected_settings_and_sections(old: str, new: str, left: str) -> None:
    text = decided(old, new)
    assert left in text and "i386" not in text
    assert parse(text).policy == parse(old).policy


def test_a_table_stays_as_far_as_an_entry_needs_it() -> None:
    old, new = "table 5.4\nread: allow", "table 6.18\nread: allow\nmseal: allow"
    assert "table 6.18" in decided(old, new, ("mseal", ACCEPT))
    assert "table 5.4" in decided(old, new)


CONDITIONS = st.sampled_from(
    ["fd == 0", "fd in {0, 1}", "fd == 2", "count == 1", "fd == 1 && count == 1", "fd < 3", "count in {1, 2} && fd != 0"]
)
BODIES = st.lists(CONDITIONS, max_size=4, unique=True).map(lambda parts: " || ".join(parts) or "deny")
ANSWERS = st.lists(st.sampled_from([*Answer]), min_size=8, max_size=8)


@given(BODIES, BODIES, ANSWERS)
@settings(max_examples=EXAMPLES)
def test_the_result_is_between_the_two_policies(old: str, new: str, answers: list[Answer]) -> None:
    a, b = parse(f"read: {old}"), parse(f"read: {new}")
    found = changes(a.policy, b.policy)
    assert all(isinstance(change, EntryChange) for change in found)
    left = resolve(a, b, {change: Decision(answer) for change, answer in zip(found, answers, strict=False)}).policy
    assert compare(b.policy, left).verdict not in (Verdict.WIDER, Verdict.INCOMPARABLE)
    rejected = resolve(a, b, {change: Decision(Answer.REJECT) for change in found}).policy
    assert compare(a.policy, rejected).verdict not in (Verdict.WIDER, Verdict.INCOMPARABLE)
    assert compare(left, rejected).verdict not in (Verdict.WIDER, Verdict.INCOMPARABLE)
    assert not changes(a.policy, rejected)


ALLOWED = """\
phase serving after epoll_wait
path ./data: read
tcp connect: 443
epoll_wait: allow
execve: allow until serving
openat: flags in O_CLOEXEC
"""
WIDENED = """\
scope none
phases optional
phase serving after epoll_wait
connect: allow
dup2: allow
epoll_wait: allow
execve: allow
openat: flags in O_CLOEXEC || flags == O_WRONLY
socket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_TCP
umask: allow until serving
"""


def test_one_decision_settles_each_finding_of_a_line() -> None:
    old, new = parse(ALLOWED), parse(WIDENED)
    found = changes(old.policy, new.policy)
    accepted = resolve(old, new, {change: Decision(Answer.ACCEPT, why="it is so") for change in found})
    assert accepted.policy.files.lines() == {"path /": "any", "tcp connect": "any"}
    assert re.search(r"^path /: any +# why: it is so$", accepted.text(), re.MULTILINE)
    open_ones = [(one.name, one.rule) for one in lint(accepted) if not one.accepted and one.level is not Level.NOTE]
    assert open_ones == []
    assert parse(accepted.text()).policy == accepted.policy


def test_a_reason_is_asked_for_only_where_lint_warns() -> None:
    old, new = parse(ALLOWED), parse(f"{WIDENED}fsync: allow\n")
    findings = lint(new)
    needed = {}
    for one in changes(old.policy, new.policy):
        name = one.word if isinstance(one, SettingChange) else table(one.arch).by_number[one.number].name
        needed[name] = reasons_needed(new, findings, one)
    assert needed.pop("fsync") == needed.pop("umask") == ()
    assert needed.pop("path /") == ("root",)
    assert "reverse-shell" in needed["dup2"] and "reverse-shell" in needed["connect"]
    assert needed["phases"] and needed["scope"] == ("signals-outside",)


@pytest.mark.parametrize(
    "new",
    [
        ALLOWED.replace(" until serving", "", 1).replace("phase serving after epoll_wait", ""),
        ALLOWED.replace("execve: allow until serving", "execve: allow\numask: allow until serving"),
        ALLOWED.replace("phase", "phases optional\nphase"),
        ALLOWED.replace("after epoll_wait", "after poll") + "poll: allow\n",
        ALLOWED.replace("after epoll_wait", "after poll").replace("epoll_wait: allow\n", "") + "poll: allow\n",
        WIDENED,
    ],
    ids=["no phase", "no until", "optional", "another trigger", "the trigger is gone", "all"],
)
def test_what_is_rejected_of_phases_is_as_before(new: str) -> None:
    old, after = parse(ALLOWED), parse(new)
    found = changes(old.policy, after.policy)
    assert "phases" in [one.word for one in found if isinstance(one, SettingChange)]
    rejected = resolve(old, after, {change: Decision(Answer.REJECT) for change in found})
    assert parse(rejected.text()).policy == rejected.policy
    assert compare(old.policy, rejected.policy).verdict not in (Verdict.WIDER, Verdict.INCOMPARABLE)
    assert not changes(old.policy, rejected.policy)


def test_the_most_dangerous_line_comes_first() -> None:
    old, new = "path ./data: read\nopenat: allow", "scope none\nopenat: allow\nexecve: allow\nfsync: allow"
    assert names(old, new) == ["path /", "scope", "execve: allow", "fsync: allow"]
