"""What each change of a setting is, and what is none."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.review.judgement import judge, settings, with_reasons_before

ENDS = "accept: allow\nepoll_wait: allow\nbind: allow until idle\n"
PHASED = "phase serving after accept\nphase idle after epoll_wait\n" + ENDS + "listen: allow until serving\n"
ONE_PHASE = "phase idle after epoll_wait\n" + ENDS


def said(old: str, new: str) -> list[tuple[str, str, str]]:
    found = settings(parse(old).policy, parse(new).policy)
    return [(one.word, one.what, str(one.level)) for one in found]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (PHASED, PHASED, []),
        (
            PHASED,
            PHASED.replace("after epoll_wait", "after poll") + "poll: allow\n",
            [("phase idle", "phase idle after epoll_wait -> after poll", "warning")],
        ),
        (
            PHASED,
            PHASED.replace("after epoll_wait", "after epoll_wait, poll") + "poll: allow\n",
            [("phase idle", "phase idle after epoll_wait -> after epoll_wait, poll", "note")],
        ),
        (PHASED, ONE_PHASE, [("phase serving", "no phase serving", "warning")]),
        (ONE_PHASE, PHASED, [("phase serving", "phase serving after accept", "note")]),
        (
            "default kill\nread: allow\n",
            "default errno EPERM\nread: allow\n",
            [("default", "default kill -> errno EPERM", "warning")],
        ),
    ],
)
def test_settings(old: str, new: str, expected: list[tuple[str, str, str]]) -> None:
    assert said(old, new) == expected


ANY = "calls that no entry names"
NEWER = "calls that are newer than its table"
TABLE = "calls that are newer than this kernel get the action `unknown`, older ones `default`"
OPTIONAL = f"phases optional\n{PHASED}"
BOTH = "scope signals, abstract sockets\n"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("default kill\n", "default allow\n", [("danger", f"{ANY} are allowed, though no one has considered them")]),
        ("default allow\n", "default kill\n", [("note", f"{ANY} end the process")]),
        ("default log\n", "default allow\n", [("note", f"{ANY} are allowed, though no one has considered them")]),
        ("default errno EPERM\n", "default errno EACCES\n", [("note", f"{ANY} fail, and the program goes on")]),
        ("unknown kill\n", "unknown errno ENOSYS\n", [("warning", f"{NEWER} fail, and the program goes on")]),
        ("unknown allow\n", "unknown log\n", [("note", f"{NEWER} are allowed, though no one has considered them, and logged")]),
        ("arm exec\n", "arm now\n", [("note", "the filter takes effect before the program starts")]),
        ("arm now\n", "arm exec\n", [("warning", "the filter takes effect at the program's first instruction")]),
        (
            "arm exec\n",
            "arm entry\n",
            [("warning", "the filter takes effect after the dynamic loader, which runs without a filter")],
        ),
        ("arm entry\n", "arm exec\n", [("note", "the filter takes effect at the program's first instruction")]),
        ("", "read: allow\narch i386\n", [("warning", "programs of i386 are no longer killed")]),
        ("read: allow\narch i386\n", "", [("note", "programs of i386 are killed")]),
        (PHASED, OPTIONAL, [("danger", "a process that cannot enter its phase goes on with its start-up permissions")]),
        (OPTIONAL, PHASED, [("note", "a process that cannot enter its phase is killed")]),
        (BOTH, "scope none\n", [("warning", "signals and abstract sockets reach any process of its user")]),
        ("scope none\n", BOTH, [("note", "signals and abstract sockets reach only processes of the program")]),
        (
            "scope signals\n",
            "scope abstract sockets\n",
            [
                ("warning", "signals reach any process of its user"),
                ("note", "abstract sockets reach only processes of the program"),
            ],
        ),
        ("", "implied 1\n", [("note", "calls that grant nothing beyond its entries are allowed without an entry")]),
        ("implied 1\n", "", [("note", "calls that grant nothing beyond its entries need an entry again")]),
        ("", "portable\n", [("note", "learn adds what other C libraries call instead")]),
        ("portable\n", "", [("note", "learn no longer adds what other C libraries call instead")]),
        ("table 6.1\n", "table 6.6\n", [("note", TABLE)]),
        ("table 6.6\n", "table 6.1\n", [("note", TABLE)]),
    ],
)
def test_what_each_setting_means(old: str, new: str, expected: list[tuple[str, str]]) -> None:
    found = settings(parse(f"{old}read: allow\n").policy, parse(f"{new}read: allow\n").policy)
    assert [(str(setting.level), setting.says) for setting in found] == expected


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("default kill\n", "default allow\n", "default-allow"),
        ("default kill\n", "default errno EPERM\n", "setting-default"),
        ("default kill\nunknown errno ENOSYS\n", "default kill\nunknown allow\n", "unknown-allow"),
        ("default kill\nunknown kill\n", "default kill\nunknown errno ENOSYS\n", "setting-unknown"),
        ("default kill\narm exec\n", "default kill\narm now\n", "setting-arm"),
        ("default kill\nscope signals\n", "default kill\nscope none\n", "signals-outside"),
    ],
)
def test_each_has_a_stable_id(old: str, new: str, rule: str) -> None:
    (setting,) = settings(parse(f"{old}read: allow\n").policy, parse(f"{new}read: allow\n").policy)
    assert setting.rule == rule


@pytest.mark.parametrize(
    ("old", "new", "is_before"),
    [
        ("phase idle after reboot", "phase idle after kexec_load", False),
        ("phase idle after reboot", "phase idle after reboot", True),
        ("phase idle after kexec_load, reboot", "phase idle after kexec_load", False),
        ("scope abstract sockets", "scope none", False),
        ("default log", "default allow", True),
    ],
)
def test_a_reason_of_before_is_not_one_for_a_setting_that_grants_more(old: str, new: str, is_before: bool) -> None:
    entries_ = "\nkexec_load: allow\nread: allow until idle\nreboot: allow\n" if "phase" in old else "\nread: allow\n"
    documents = [parse(f"{line}  # why: so\n{entries_}") for line in (old, new)]
    rules = {"phase-trigger", "signals-outside", "default-allow"}
    ((finding, before),) = [one for one in with_reasons_before(*documents) if one[0].rule in rules and one[0].name in old]
    assert (finding.accepted, bool(before)) == ("so", is_before)


@pytest.mark.parametrize(
    ("old", "new", "is_before"),
    [
        ("allow until serving", "allow until idle", False),
        ("allow until idle", "allow until serving", True),
        ("allow until idle", "allow", False),
    ],
)
def test_a_reason_of_before_is_not_one_for_an_entry_that_stays_longer(old: str, new: str, is_before: bool) -> None:
    documents = [parse(f"{PHASED}execve: {when}  # why: hooks\n") for when in (old, new)]
    ((finding, before),) = [one for one in with_reasons_before(*documents) if one[0].rule == "execute"]
    assert (finding.accepted, bool(before)) == ("hooks", is_before)


def test_a_reason_accepts_no_combination_of_another_architecture() -> None:
    calls = "connect: allow\nexecve: allow\nsocket: allow\n"
    accepted = f"arch x86_64\n{calls}dup2: allow  # why: reverse-shell: for support\n"
    old, new = (parse(f"{accepted}arch aarch64\n{section}") for section in ("read: allow\n", f"{calls}dup3: allow\n"))
    judgement = judge(old, new)
    (shell,) = [one for one in judgement.headlines if one.rule == "reverse-shell"]
    assert (shell.arch, judgement.reason(shell)) == ("aarch64", None)
