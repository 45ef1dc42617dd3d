"""Phases: their text, what they mean, and that they only take away."""

from __future__ import annotations

from itertools import pairwise

import pytest
from calls import event, parse

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.comparing.reducing import reduce
from callfence.policygen.errors import PolicyError
from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_action
from callfence.policygen.language.normal import normal
from callfence.policygen.lint.findings import lint
from callfence.policygen.merging import merge_documents, unite
from callfence.policygen.model import Phase
from callfence.policygen.phases import START, in_phase, phase_policies, with_phases, within_start
from callfence.policygen.review.changes import EntryChange, changes
from callfence.policygen.review.decisions import Answer, Decision, resolve
from callfence.policygen.sets.join import JoinError
from callfence.policygen.values import replace

TEXT = """\
callfence 1
arch x86_64
table 6.18
arm exec
default kill
unknown errno ENOSYS
phase listening after listen   # the socket is there
# from here on there are strangers
phase serving after accept4, epoll_wait

accept4: flags == SOCK_CLOEXEC
bind: allow until listening    # once
epoll_wait: allow
listen: allow until serving
# libraries
mmap: prot == PROT_READ|PROT_EXEC until listening  # code
   || prot == PROT_READ|PROT_WRITE
mprotect: allow until serving
       || prot == PROT_READ
openat: flags == O_RDONLY
     || flags == O_RDWR until serving
   else errno EACCES
"""

VERDICTS = [
    ("start", ("bind", 3), "allow"),
    ("listening", ("bind", 3), "kill"),
    ("serving", ("bind", 3), "kill"),
    ("listening", ("listen", 3), "allow"),
    ("serving", ("listen", 3), "kill"),
    ("start", ("mmap", 0, 1, 5), "allow"),
    ("listening", ("mmap", 0, 1, 5), "kill"),
    ("serving", ("mmap", 0, 1, 3), "allow"),
    ("listening", ("mprotect", 0, 1, 7), "allow"),
    ("serving", ("mprotect", 0, 1, 7), "kill"),
    ("serving", ("mprotect", 0, 1, 1), "allow"),
    ("listening", ("openat", 0, 0, 2), "allow"),
    ("serving", ("openat", 0, 0, 2), "errno EACCES"),
]


def test_text_is_canonical() -> None:
    document = parse(TEXT)
    assert document.text() == TEXT
    assert document.with_policy(document.policy) == document


@pytest.mark.parametrize(
    ("before", "after", "normalised"),
    [
        ("read: fd == 1", "read: fd == 2", "read: fd == 1 || fd == 2"),
        ("read: allow", "read: fd == 2", "read: allow"),
        ("read: fd == 1", "read: allow", "read: allow"),
        ("", "read: fd == 2", "read: fd == 2"),
        ("read: fd == 1 else errno EPERM", "read: errno EPERM", "read: fd == 1 else errno EPERM"),
        ("read: fd == 1 else errno EPERM", "read: fd == 2 else errno EPERM", "read: fd == 1 || fd == 2 else errno EPERM"),
        ("read: fd == 1 else errno EPERM", "read: fd == 1 else errno EACCES", None),
        ("read: log if fd == 1", "read: fd == 1", None),
        ("read: log if fd == 1", "read: allow", "read: allow"),
    ],
)
def test_the_entries_before_a_phase_allow_what_it_allows(before: str, after: str, normalised: str | None) -> None:
    earlier, later = parse(before).policy, parse(after).policy
    policy = replace(earlier, phases=(Phase("serving", ("poll",), later.entries),))
    if normalised is None:
        with pytest.raises(ValueError, match="deny a call in different ways"):
            normal(policy)
    else:
        assert normal(policy).entries == parse(normalised).policy.entries


@pytest.mark.parametrize(
    ("start", "phase", "reduced"),
    [
        ("read: fd == 1 || fd == 2", "read: fd == 1", "read: fd == 1"),
        ("read: fd == 1", "read: fd == 1 || fd == 2", "read: fd == 1"),
        ("read: fd == 1", "read: fd == 1", "read: fd == 1"),
        ("read: allow", "read: fd == 2", "read: fd == 2"),
        ("read: fd == 1", "", ""),
        ("", "read: fd == 1", ""),
        ("read: fd == 1", "read: fd == 2", ""),
        ("read: fd == 1 else errno EPERM", "read: fd == 2 else errno EPERM", "read: errno EPERM"),
        ("read: fd == 1 else errno EPERM", "read: fd == 1", "read: fd == 1 else errno EPERM"),
        ("read: fd == 1 else errno EPERM", "read: errno EPERM", "read: errno EPERM"),
        ("read: log if fd == 1", "read: fd == 1", "read: log if fd == 1"),
    ],
)
def test_a_phase_is_reduced_to_what_the_start_allows(start: str, phase: str, reduced: str) -> None:
    policy = replace(parse(start).policy, phases=(Phase("serving", ("poll",), parse(phase).policy.entries),))
    assert within_start(policy).phases[0].entries == parse(reduced).policy.entries


def test_a_phase_that_is_as_the_one_before_begins_at_its_calls_too() -> None:
    policies = [parse(text).policy for text in ("read: allow\ndup: allow", "read: allow", "", "")]
    phases = [Phase(name, (call,), {}) for name, call in (("a", "poll"), ("b", "listen"), ("c", "accept"))]
    joined = with_phases(policies, phases)
    assert [(phase.name, phase.triggers) for phase in joined.phases] == [("a", ("poll",)), ("b", ("accept", "listen"))]


@pytest.mark.parametrize(("phase", "call", "action"), VERDICTS)
def test_verdict(phase: str, call: tuple[str, int], action: str) -> None:
    policy = parse(TEXT).policy
    assert format_action(evaluate(policy, event(*call), phase)) == action
    assert format_action(evaluate(in_phase(policy, phase), event(*call))) == action


def test_each_phase_is_narrower() -> None:
    policies = [policy for _, policy in phase_policies(parse(TEXT).policy)]
    for before, after in pairwise(policies):
        assert compare(before, after).verdict is Verdict.NARROWER


def test_an_implied_set_holds_in_every_phase() -> None:
    policy = parse("implied 1\nphase serving after epoll_wait\nbind: allow until serving\nepoll_wait: allow").policy
    assert [evaluate(policy, event("getpid"), name).allows for name in (START, "serving")] == [True, True]


def test_a_phase_that_allows_more_widens_what_is_before_it() -> None:
    start, serving = parse("read: fd == 3").policy, parse("read: fd == 4\nepoll_wait: allow").policy
    made = Document(start).with_policy(with_phases((start, serving), (Phase("serving", ("epoll_wait",), {}),)))
    assert "read: fd == 3 until serving\n   || fd == 4\n" in made.text()
    assert parse(made.text()).policy == made.policy


def test_a_phase_that_denies_nothing_more_is_left_out() -> None:
    policy = parse("epoll_wait: allow").policy
    assert not with_phases((policy, policy), (Phase("serving", ("epoll_wait",), {}),)).phases


def test_no_such_phase() -> None:
    with pytest.raises(ValueError, match="no phase is named x; the phases are start, listening, serving"):
        in_phase(parse(TEXT).policy, "x")


FILES = {"more": "bind: allow until serving\nread: allow", "phases": "phase serving after epoll_wait"}


def test_an_included_file_may_end_what_it_allows() -> None:
    text = "phase serving after epoll_wait\ninclude more\nepoll_wait: allow"
    document = parse(text, read=FILES.__getitem__)
    assert [evaluate(document.policy, event("bind", 3), name).allows for name in (START, "serving")] == [True, False]
    assert "include more\n" in document.with_policy(document.policy).text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include phases", "an included file cannot declare a phase"),
        ("include more", "no phase is named serving"),
    ],
)
def test_phases_are_declared_in_the_policy(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text, read=FILES.__getitem__)
    assert caught.value.message == message
    assert caught.value.chain == ("<policy>:1",)


# What compares, judges and joins policies does so in each phase.

HEAD = "default kill\nphase serving after epoll_wait\nepoll_wait: allow\n"


def told(old: str, new: str) -> tuple[str, list[tuple[str, str, str]]]:
    comparison = compare(parse(old).policy, parse(new).policy)
    found = [(one.change.value, f"{one.number}", one.phase) for one in comparison.differences]
    return comparison.verdict.value, found


@pytest.mark.parametrize(
    ("old", "new", "verdict", "found"),
    [
        ("bind: allow until serving", "bind: allow\nread: allow until serving", "wider",
         [("+", "49", "serving"), ("+", "0", "")]),
        ("bind: allow until serving\nread: allow", "bind: allow until serving\nread: allow until serving", "narrower",
         [("-", "0", "serving")]),
        ("bind: allow until serving", "bind: allow until serving\nread: allow", "wider", [("+", "0", "")]),
    ],
)  # fmt: skip
def test_what_moves_into_a_phase_is_wider(old: str, new: str, verdict: str, found: list[tuple[str, str, str]]) -> None:
    assert told(HEAD + old, HEAD + new) == (verdict, found)


def test_a_phase_is_narrower_than_none() -> None:
    with_it, without = HEAD + "bind: allow until serving", "default kill\nepoll_wait: allow\nbind: allow"
    assert (told(without, with_it)[0], told(with_it, without)[0]) == ("narrower", "wider")


def test_another_trigger_is_told() -> None:
    one, other = (f"{HEAD}poll: allow\nbind: allow until serving".replace("after epoll_wait", f"after {name}") for name in
                  ("epoll_wait", "poll"))
    assert told(one, other) == ("wider", [])
    assert told(one, one.replace("after epoll_wait", "after epoll_wait, poll"))[0] == "narrower"


def entries(document: Document) -> list[str]:
    lines = document.text().splitlines()
    return lines[lines.index("") + 1 :]


def test_reduced_in_each_phase() -> None:
    policy = parse(HEAD + "bind: allow until serving\nread: allow").policy
    by = parse(HEAD + "read: allow until serving\nbind: allow").policy
    assert entries(Document(reduce(policy, by))) == [
        "bind: allow until serving", "epoll_wait: allow", "read: allow until serving"
    ]  # fmt: skip


def test_united_in_each_phase() -> None:
    ours = parse(HEAD + "bind: allow until serving\nread: allow")
    theirs = parse(HEAD + "bind: allow\nlisten: allow until serving")
    assert entries(unite(ours, theirs)) == [
        "bind: allow", "epoll_wait: allow", "listen: allow until serving", "read: allow"
    ]  # fmt: skip
    with pytest.raises(JoinError, match="phase serving begins at different calls in the two policies"):
        unite(ours, parse("phase serving after poll\npoll: allow\nbind: allow until serving"))


def test_merged_in_each_phase() -> None:
    base = parse(HEAD + "bind: allow until serving\nread: allow")
    ours = parse(HEAD + "bind: allow until serving\nread: allow\nlisten: allow until serving")
    theirs = parse(HEAD + "bind: allow\nread: allow until serving")
    merged, conflicts = merge_documents(base, ours, theirs)
    assert (entries(merged), conflicts) == (
        ["bind: allow", "epoll_wait: allow", "listen: allow until serving", "read: allow until serving"], ()
    )  # fmt: skip


def test_a_danger_that_is_gone_ranks_lower() -> None:
    found = {one.name: (one.level.value, one.grants) for one in lint(parse(HEAD + "ptrace: allow until serving\nbpf: allow"))}
    assert found["ptrace"][0] == "warning" and found["ptrace"][1].endswith(", until serving")
    assert found["bpf"][0] == "danger" and found["bpf"][1].endswith(", in serving too")


@pytest.mark.parametrize(
    ("rule", "call", "level", "grants"),
    [
        ("io-uring", "io_uring_setup", "danger", "makes requests through a ring"),
        ("fanotify", "fanotify_init", "warning", "watches accesses to files of a whole mount"),
        ("write-exec", "mmap", "danger", "makes memory both writable and executable"),
        ("packet-socket", "socket", "danger", "opens packet sockets"),
        ("ports", "iopl", "danger", "drives hardware ports directly"),
        ("user-namespace", "unshare", "danger", "moves into a new user namespace"),
    ],
)
def test_what_the_start_has_made_and_no_phase_ends_ranks_no_lower(rule: str, call: str, level: str, grants: str) -> None:
    found = {one.rule: (one.level.value, one.grants) for one in lint(parse(f"{HEAD}{call}: allow until serving"))}
    assert found[rule] == (level, f"{grants}; what it gets before serving, it has in serving too")


def test_a_trigger_that_does_not_wait_is_told() -> None:
    found = lint(parse("phase serving after read\nread: allow\nbind: allow until serving"))
    assert [one.name for one in found if one.rule == "phase-trigger"] == ["phase serving"]


@pytest.mark.parametrize(
    ("before", "after", "restored"),
    [
        ("read: fd == 1", "read: allow", ["read: fd == 1"]),
        ("read: fd == 1 until serving", "read: allow", ["read: fd == 1 until serving"]),
        ("read: fd == 1 || fd == 2 until serving", "read: allow", ["read: fd == 1", "   || fd == 2 until serving"]),
        ("read: fd in {1, 2}", "read: fd in {1, 2, 3}", ["read: fd in {1, 2}"]),
        ("read: fd == 1", "read: fd == 1 until serving || fd == 2", ["read: fd == 1 until serving"]),
        ("read: fd == 1 else errno EPERM", "read: allow", ["read: fd == 1 else errno EPERM"]),
        ("read: fd == 1 until serving else errno EPERM", "read: allow", ["read: fd == 1 until serving else errno EPERM"]),
    ],
)
def test_what_a_rejected_change_replaced_is_restored_in_each_phase(before: str, after: str, restored: list[str]) -> None:
    text = HEAD + "bind: allow until serving\n"
    old, new = parse(text + before), parse(text + after)
    rejected = {change: Decision(Answer.REJECT) for change in changes(old.policy, new.policy)}
    assert entries(resolve(old, new, rejected)) == ["bind: allow until serving", "epoll_wait: allow", *restored]


@pytest.mark.parametrize(
    ("before", "after", "edited", "decided"),
    [
        ("", "read: fd == 5", "read: fd == 6", ["read: fd == 6"]),
        ("", "read: fd == 5 until serving", "read: fd == 6", ["read: fd == 6 until serving"]),
        ("", "read: allow", "read: fd == 6 || fd == 7", ["read: fd == 6", "   || fd == 7"]),
        ("", "read: fd == 5", "read: allow", ["read: allow"]),
        ("read: fd == 1", "read: fd == 1 || fd == 5", "read: fd == 6", ["read: fd == 1", "   || fd == 6"]),
        ("read: fd == 1", "read: fd == 1 || fd == 5 until serving", "read: fd == 6",
         ["read: fd == 1", "   || fd == 6 until serving"]),
    ],
)  # fmt: skip
def test_what_is_edited_is_so_in_each_phase(before: str, after: str, edited: str, decided: list[str]) -> None:
    text = HEAD + "bind: allow until serving\n"
    old, new = parse(text + before), parse(text + after)
    (change,) = changes(old.policy, new.policy)
    assert isinstance(change, EntryChange)
    instead = parse(edited).policy.entries[change.arch][change.number]
    document = resolve(old, new, {change: Decision(Answer.ACCEPT, instead)})
    assert entries(document) == ["bind: allow until serving", "epoll_wait: allow", *decided]


@pytest.mark.parametrize("answer", [Answer.ACCEPT, Answer.REJECT, Answer.SKIP])
def test_what_ends_in_a_phase_ends_there_after_a_review(answer: Answer) -> None:
    """Whatever is decided of other calls."""
    text = HEAD + "bind: allow until serving\nptrace: pid == 1 until serving else errno EPERM"
    old, new = parse(text), parse(f"{text}\nsocket: family == AF_INET")
    decided = resolve(old, new, {change: Decision(answer) for change in changes(old.policy, new.policy)})
    assert decided.text().replace("\nsocket: family == AF_INET", "") == old.text()


def test_what_is_rejected_is_gone_from_every_phase() -> None:
    text = HEAD + "bind: allow until serving"
    old, new = parse(text), parse(f"{text}\nlisten: allow\nread: fd == 3")
    rejected = {change: Decision(Answer.REJECT) for change in changes(old.policy, new.policy)}
    assert entries(resolve(old, new, rejected)) == ["bind: allow until serving", "epoll_wait: allow"]
