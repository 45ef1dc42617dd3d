"""Learning with an implied set: capabilities as their least entries, whatever the order; what a person wrote stays."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from calls import event, parse
from hypothesis import given, settings, strategies as st

from callfence.policygen.comparing.compare import compare
from callfence.policygen.evaluate import evaluate
from callfence.policygen.implied.resolve import granted
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generate import Generated, generate
from callfence.policygen.learning.sorting import unimplied
from callfence.policygen.recording.fold import Aggregator
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from callfence.policygen.language.document import Document
    from callfence.policygen.recording.model import Observation

CALLS = (
    "openat AT_FDCWD 0 O_RDONLY|O_CLOEXEC",
    "openat AT_FDCWD 0 O_RDONLY|O_DIRECTORY|O_CLOEXEC",
    "openat AT_FDCWD 0 O_WRONLY|O_CREAT|O_TRUNC 0o644",
    "openat AT_FDCWD 0 O_RDWR|O_CREAT|O_EXCL 0o600",
    "open 0 O_RDWR",
    "openat AT_FDCWD 0 O_PATH",
    "newfstatat AT_FDCWD 0 0 0",
    "umask 0",
    "mmap 0 4096 PROT_READ|PROT_EXEC MAP_PRIVATE|MAP_DENYWRITE 3 0",
    "mmap 0 4096 PROT_READ|PROT_WRITE MAP_PRIVATE|MAP_ANONYMOUS 0 0",
    "mmap 0 4096 PROT_READ|PROT_WRITE|PROT_EXEC MAP_PRIVATE|MAP_ANONYMOUS 0 0",
    "socket AF_INET SOCK_STREAM|SOCK_CLOEXEC 0",
    "accept4 3 0 0 SOCK_NONBLOCK",
    "clone CLONE_VM|CLONE_VFORK|SIGCHLD",
    "vfork",
    "clone3 0 88",
    "kill 3 SIGTERM",
    "fcntl 3 F_SETLK",
    "ioctl 0 TCSETS",
    "execve 0 0 0",
    "i386 open 0 O_RDONLY",
    "i386 fcntl64 3 F_SETLK",
)


def observe(*texts: str) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for text in texts:
        aggregator.counter("/app", event(text), str)[0] += 1
    return aggregator.observations()


def learn(*texts: str, existing: Document | None = None, **options: object) -> Generated:
    given = Options(**{"implied": 1, **options})  # type: ignore[arg-type]
    return generate(observe(*texts), existing, name="app", options=given)


def body(document: Document) -> list[str]:
    """The entries, one line each, with their comments."""
    text = document.text().partition("\n\n")[2]
    return [line for line in text.replace("\n ", " ").splitlines() if line]


@settings(max_examples=8)
@given(st.lists(st.sampled_from(CALLS), min_size=1, max_size=4, unique=True), st.data())
def test_the_order_of_runs_does_not_matter(calls: list[str], data: st.DataObject) -> None:
    """One run, many, in any order: the same bytes.  Learned again, nothing is new, and the document is the same one."""
    whole = learn(*calls).document
    document = None
    for call in data.draw(st.permutations(calls)):
        document = learn(call, existing=document).document
    assert document is not None
    assert document.text() == whole.text()
    again = learn(*calls, existing=document)
    assert again.document is document
    assert again.new == ()
    for call in calls:
        assert evaluate(whole.policy, event(call)).allows or call.startswith("clone3")


@pytest.mark.parametrize("calls", tuple(permutations(CALLS[:5], 2)), ids=", ".join)
def test_a_capability_that_another_one_includes_is_gone_whichever_came_first(calls: tuple[str, str]) -> None:
    first, second = calls
    assert learn(second, existing=learn(first).document).document.text() == learn(first, second).document.text()


@pytest.mark.parametrize("second", ["open 0 O_RDWR", "openat AT_FDCWD 0 O_WRONLY|O_CREAT|O_TRUNC 0o644"])
def test_a_capability_all_of_which_others_imply_is_gone_whichever_came_first(second: str) -> None:
    """Who writes to files may lock them, and is not given the capability of locking."""
    first = "fcntl 3 F_SETLK"
    assert any("fcntl" in line for line in body(learn(first).document))
    assert learn(second, existing=learn(first).document).document.text() == learn(first, second).document.text()


@pytest.mark.long
@pytest.mark.parametrize("first", CALLS)
def test_two_runs_give_what_one_does(first: str) -> None:
    for second in CALLS:
        assert learn(second, existing=learn(first).document).document.text() == learn(first, second).document.text(), second


def test_what_a_socket_implies_is_written_only_by_the_run_that_brings_the_socket() -> None:
    """The line says no more: the policies are equal."""
    socket, size = "socket AF_INET SOCK_STREAM 0", "setsockopt 3 SOL_SOCKET SO_RCVBUF"
    together, apart = learn(socket, size).document, learn(size, existing=learn(socket).document).document
    assert len(body(together)) == 2
    assert [line.partition(":")[0] for line in body(apart)] == ["socket"]
    assert learn(socket, existing=learn(size).document).document.text() == apart.text()
    assert compare(together.policy, apart.policy).verdict == "equal"


ON_TWO = (
    (Arch.X86_64, "openat AT_FDCWD 0 O_RDONLY|O_CLOEXEC"),
    (Arch.AARCH64, "openat AT_FDCWD 0 O_RDONLY|O_DIRECTORY"),
    (Arch.AARCH64, "openat AT_FDCWD 0 O_RDONLY"),
    (Arch.X86_64, "fcntl 3 F_SETLK"),
)


@pytest.mark.long
@pytest.mark.parametrize("order", tuple(permutations(range(4)))[::5], ids=str)
def test_each_architecture_has_the_capabilities_that_it_uses_whichever_was_seen_first(order: tuple[int, ...]) -> None:
    document, seen = None, []
    for place in order:
        arch, call = ON_TWO[place]
        aggregator = Aggregator()
        aggregator.counter("/app", event(call, arch=arch), str)[0] += 1
        seen += aggregator.observations()
        document = generate(aggregator.observations(), document, name="app", options=Options(implied=1)).document
    assert document is not None
    assert body(document) == [
        "fcntl: cmd == F_SETLK",
        "openat: flags == O_RDONLY",
        "arch aarch64",
        "openat: flags == O_RDONLY",
    ]
    assert document.text() == generate(seen, None, name="app", options=Options(implied=1)).document.text()


def test_runs_that_need_nothing_else_leave_an_empty_policy() -> None:
    found = learn("umask 0", "getpid", "write 1 0 5", "clock_gettime 0 0")
    assert body(found.document) == []
    assert found.implied == 4
    assert found.new == ()
    assert unimplied(observe("umask 0", "execve 0 0 0"), found.document.policy) == observe("execve 0 0 0")


def test_calls_by_which_a_capability_was_learned_are_not_taken_for_implied() -> None:
    """unlink and unlinkat imply each other: whether a run needs the rule is whether it makes any of them."""
    calls = ("unlink 0", "umask 0", "unlinkat 3 0 0", "openat 3 0 O_RDONLY", "openat 3 0 O_CLOEXEC")
    needed = unimplied(observe(*calls), learn(*calls).document.policy)
    unlink, openat = observe("unlink 0", "openat 3 0 O_RDONLY")
    assert {(each.number, each.counts) for each in needed} == {(unlink.number, (2,)), (openat.number, (2,))}


READING = ("open 0 O_RDONLY", "newfstatat 3 0 0 0", "openat 3 0 O_CLOEXEC")


@pytest.mark.parametrize("calls", tuple(permutations(READING)), ids=", ".join)
def test_a_capability_is_written_as_its_least_entry(calls: tuple[str, ...]) -> None:
    document = None
    for call in calls:
        document = learn(call, existing=document).document
    assert document is not None
    assert body(document) == ["openat: flags == O_RDONLY"]


def test_a_capability_that_is_granted_later_takes_out_what_it_covers_and_nothing_else() -> None:
    """Also comments stay: those of lines that are gone, where they were."""
    before = learn("newfstatat 3 0 0 0", "execve 0 0 0").document
    text = before.text().replace("execve:", "# starts others\nexecve:").replace("newfstatat:", "# looks at files\nnewfstatat:")
    text += "umask: allow                   # why: mine, implied already\n"
    found = learn("open 0 O_RDONLY", existing=parse(text))
    assert [line for line in body(found.document) if not line.startswith("#")] == [
        "execve: allow",
        "openat: flags == O_RDONLY",
        "umask: allow                   # why: mine, implied already",
    ]
    assert "# starts others\nexecve: allow" in found.document.text()
    assert "# looks at files" in found.document.text()
    assert compare(before.policy, found.document.policy).verdict == "wider"


def test_alternatives_that_nothing_covers_stay_beside_a_capability() -> None:
    before = parse("implied 1\nopenat: flags == O_PATH|O_DIRECTORY || dfd == 5 && flags == O_WRONLY || flags has O_TMPFILE\n")
    after = learn("open 0 O_RDONLY", existing=before).document
    assert "dfd == 5" in after.text()
    assert "flags has O_TMPFILE" in after.text()
    assert granted(after.policy) >= {"reads files"}


@pytest.mark.parametrize(
    ("denied", "call"),
    [
        ("openat: deny", "openat 3 0 O_RDONLY"),
        ("openat: errno EACCES", "openat 3 0 O_RDONLY"),
        ("openat: flags == O_PATH else kill", "openat 3 0 O_RDONLY"),
        ("umask: deny", "umask 0"),
        ("newfstatat: errno EPERM", "newfstatat 3 0 0 0"),
    ],
)
def test_what_is_denied_explicitly_stays(denied: str, call: str) -> None:
    existing = parse(f"implied 1\n{denied}\n")
    found = learn(call, existing=existing)
    assert body(found.document) == body(existing)
    assert found.refused == observe(call)
    assert found.new == ()


def test_opaque_calls_fail_by_the_set_and_are_allowed_on_request() -> None:
    assert body(learn("clone3 0 88", "openat2 3 0 0 24").document) == []
    found = learn("clone3 0 88", "openat2 3 0 0 24", allow_opaque=("clone3",))
    (line,) = body(found.document)
    assert line.startswith("clone3: allow ")
    assert [one.first for one in found.new] == [True]
    again = learn("clone3 0 88", "openat2 3 0 0 24", existing=found.document)
    assert again.document is found.document
    later = learn("clone3 0 88", existing=learn("clone3 0 88").document, allow_opaque=("clone3",))
    assert later.document.text() == found.document.text()


@pytest.mark.parametrize(("option", "value"), [("names_only", True), ("portable", True), ("tight", True)])
def test_other_ways_to_learn_give_the_same_again(option: str, value: bool) -> None:
    calls = ("openat 3 0 O_RDONLY", "umask 0", "socket AF_INET SOCK_STREAM 0", "execve 0 0 0", "clone3 0 88")
    first = learn(*calls, **{option: value})
    for call in calls[:-1]:
        assert evaluate(first.document.policy, event(call)).allows
    again = learn(*calls, existing=first.document, **{option: value})
    assert again.new == ()
    assert again.document is first.document


def test_a_policy_without_the_set_stays_without() -> None:
    document = learn("umask 0", existing=learn("execve 0 0 0", implied=0).document).document
    assert not document.policy.implied
    assert any(line.startswith("umask: allow") for line in body(document))


def test_a_policy_that_lets_calls_run_by_default_has_nothing_to_add() -> None:
    existing = parse("default log\nimplied 1\n")
    assert learn("execve 0 0 0", "umask 0", existing=existing).document is existing


def test_calls_that_the_tables_lack_are_not_implied() -> None:
    found = observe("5000 1", "openat AT_FDCWD 0 O_RDONLY|O_CLOEXEC")
    strange = found[-1]._replace(arch=1)
    assert unimplied((*found, strange), parse("implied 1\n").policy) == (*found, strange)
