"""Learning inside a baseline: nothing that it forbids, and all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from calls import event, parse
from hypothesis import given, settings, strategies as st

from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.evaluate import evaluate
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.within import forbidden, generate_within, within
from callfence.policygen.recording.fold import Aggregator
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.language.document import Document
    from callfence.policygen.learning.generate import Generated
    from callfence.policygen.model import Policy
    from callfence.policygen.recording.model import Observation

CALLS = table(Arch.X86_64)
SEEN = (
    ("getpid",), ("close", 3), ("socket", 2, 1, 0), ("socket", 1, 1, 0), ("mmap", 0, 4096, 3, 0x22), ("mmap", 0, 4096, 5, 2),
    ("mprotect", 0, 4096, 1), ("openat", 3, 0, 0x80000), ("openat", 3, 0, 0x42), ("fcntl", 3, 2, 1), ("kill", 5, 9),
)  # fmt: skip


def observe(*calls: tuple[str | int, ...]) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for name, *arguments in calls:
        aggregator.counter("/app", event(str(name), *map(int, arguments)), str)[0] += 1
    return aggregator.observations()


def learn(base: str, *calls: tuple[str | int, ...], existing: str = "") -> Generated:
    document = parse(existing) if existing else None
    return generate_within(observe(*calls), document, parse(base).policy, name="app")


def entries(document: Document) -> set[str]:
    return {line for line in document.text().splitlines() if ":" in line and not line.startswith("#")}


def test_what_the_baseline_does_not_name_is_forbidden() -> None:
    made = learn("getpid: 1\nexit: 1\n", ("getpid",), ("close", 3))
    assert {line.partition(" #")[0].rstrip() for line in entries(made.document)} == {"getpid: allow", "exit: allow"}
    against = forbidden(observe(("getpid",), ("close", 3)), parse("getpid: 1\n").policy)
    assert [CALLS.by_number[one.number].name for one in against] == ["close"]


def test_what_was_widened_beyond_it_is_cut_back() -> None:
    base = "openat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC\n"
    made = learn(base, ("openat", 3, 0, 0x80000), ("openat", 3, 0, 0))
    assert evaluate(made.document.policy, event("openat", 3, 0, 0x80000)).kind == "allow"
    assert compare(parse(base).policy, made.document.policy).verdict not in ("wider", "incomparable")


def test_a_call_that_was_made_fails_as_the_baseline_fails_it() -> None:
    made = learn("default errno EPERM\nkill: errno EACCES\ngetpid: 1\n", ("close", 3), ("kill", 1, 9), ("getpid",))
    assert {"close: errno EPERM", "kill: errno EACCES"} < entries(made.document)
    assert evaluate(made.document.policy, event("getppid")).kind == "kill"


def test_what_a_call_may_do_within_the_baseline_can_be_learned_later() -> None:
    base = "socket: family in {AF_UNIX, AF_INET} else errno EACCES\n"
    first = learn(base, ("socket", 1, 1, 0), ("socket", 16, 3, 0))
    later = learn(base, ("socket", 2, 1, 0), existing=first.document.text())
    assert not later.refused
    assert evaluate(later.document.policy, event("socket", 2, 1, 0)).kind == "allow"
    assert evaluate(later.document.policy, event("socket", 16, 3, 0)).kind == "kill"


def test_a_policy_that_is_wider_is_reduced_and_one_that_is_within_stays_itself() -> None:
    base = "getpid: 1\nclose: 1\n"
    wide = learn(base, ("getpid",), existing="# mine\ngetpid: 1\nkill: 1\n")
    assert "kill:" not in wide.document.text()
    assert "# mine" in wide.document.text()
    assert wide.new == ()
    document = parse("getpid: allow\n")
    assert generate_within(observe(("getpid",)), document, parse(base).policy, name="app").document is document


def test_new_is_what_is_left() -> None:
    base = "getpid: 1\nsocket: family == AF_UNIX\n"
    made = learn(base, ("getpid",), ("socket", 1, 1, 0), ("kill", 1, 9), existing="getpid: 1\n")
    assert [CALLS.by_number[one.number].name for one in made.new] == ["socket"]


def test_a_default_that_allows_cannot_be_reduced() -> None:
    with pytest.raises(ValueError, match="the policy's default"):
        within(parse("default allow\n").policy, parse("getpid: 1\n").policy)


def test_architectures_without_a_section_are_forbidden() -> None:
    both = parse("arch x86_64\ngetpid: 1\narch i386\ngetpid: 1\n").policy
    assert list(within(both, parse("getpid: 1\n").policy).entries) == [Arch.X86_64]


IMPLIED = Options(implied=1)


def test_within_an_exact_baseline_the_policy_is_exact() -> None:
    base = parse("default errno EPERM\ngetpid: 1\nopenat: flags == O_RDONLY|O_CLOEXEC\n").policy
    seen = observe(("getpid",), ("umask", 0), ("openat", 3, 0, 0x80000))
    made = generate_within(seen, None, base, name="app", options=IMPLIED).document
    assert not made.policy.implied
    assert entries(made) >= {"getpid: allow", "openat: flags == O_RDONLY|O_CLOEXEC", "umask: errno EPERM"}
    assert compare(base, made.policy).verdict == "different"  # the default, kill, is stricter


def test_a_policy_that_loses_its_implied_set_keeps_what_the_baseline_allows_of_it() -> None:
    base = "default errno EPERM\ngetpid: 1\nfcntl: cmd == F_GETFL\nopenat: flags == O_RDONLY|O_CLOEXEC\n"
    existing = "implied 1\n\n# files\nopenat: flags == O_RDONLY\numask: deny\n"
    made = learn(base, ("getpid",), ("lseek", 3, 0, 0), ("umask", 0), existing=existing)
    allowed = {"getpid: allow", "fcntl: cmd == F_GETFL", "openat: flags == O_RDONLY|O_CLOEXEC"}
    denied = {"lseek: errno EPERM", "umask: deny"}
    fails = {f"{name}: errno ENOSYS" for name in ("clone3", "openat2", "io_uring_setup")} | {"sendfile: errno EINVAL"}
    assert entries(made.document) == allowed | denied | fails
    assert "# files" in made.document.text()
    assert made.new == ()
    again = learn(base, ("getpid",), ("lseek", 3, 0, 0), existing=made.document.text())
    assert again.document.text() == made.document.text()


@pytest.mark.parametrize("line", ["implied 1", "default allow\nptrace: kill", "default log\nmseal: errno EPERM\nbrk: kill"])
def test_a_baseline_that_has_the_implied_set_gives_it(line: str) -> None:
    base = f"{line}\ngetpid: errno EACCES\ngettid: kill\nlseek: whence == SEEK_SET\n"
    seen = observe(("getpid",), ("gettid",), ("close", 3), ("lseek", 3, 0, 2))
    made = generate_within(seen, None, parse(base).policy, name="app", options=IMPLIED).document
    assert made.policy.implied == 1
    assert entries(made) >= {"getpid: errno EACCES", "gettid: deny"}
    assert compare(parse(base).policy, made.policy).verdict not in ("wider", "incomparable")
    again = generate_within(seen, made, parse(base).policy, name="app", options=IMPLIED)
    assert again.document is made
    assert within(made.policy, parse(base).policy) == made.policy


def test_a_call_that_hides_its_arguments_fails_as_if_it_did_not_exist() -> None:
    """glibc tries clone only after ENOSYS."""
    made = learn("default errno EPERM\ngetpid: 1\n", ("getpid",), ("clone3", 0, 88))
    assert "clone3: errno ENOSYS" in entries(made.document)
    killed = learn("getpid: 1\n", ("getpid",), ("clone3", 0, 88))
    assert evaluate(killed.document.policy, event("clone3")).kind == "kill"


def test_what_denies_stays() -> None:
    policy = parse("getpid: 1\nclose: errno EACCES\numask: deny\nlseek: trap if whence == SEEK_SET\n").policy
    assert within(policy, parse("getpid: 1\n").policy) == policy


BASES = st.lists(
    st.sampled_from(
        (
            "getpid: 1", "close: fd == 3", "socket: family == AF_UNIX", "mmap: prot in PROT_READ|PROT_WRITE else errno EPERM",
            "mprotect: errno EPERM", "openat: flags & O_ACCMODE == O_RDONLY", "fcntl: kill if cmd == F_SETFD else allow",
            "kill: sig != SIGKILL", "exit_group: 1", "futex: 1",
        )
    ),
    unique_by=lambda line: line.partition(":")[0],
)  # fmt: skip


@settings(max_examples=30)
@given(
    BASES,
    st.sampled_from(("default kill", "default errno EPERM", "default allow", "implied 1")),
    st.lists(st.sampled_from(SEEN), min_size=1, unique=True),
    st.sampled_from((0, 1)),
)
def test_never_wider_and_everything_that_may_be(
    base: list[str], setting: str, calls: list[tuple[str | int, ...]], implied: int
) -> None:
    baseline: Policy = parse(f"{setting}\n" + "\n".join(base) + "\n").policy
    seen = observe(*calls)
    made = generate_within(seen, None, baseline, name="app", options=Options(implied=implied)).document.policy
    assert all(one.change is not Change.MORE for one in compare(baseline, made).differences)
    against = forbidden(seen, baseline)
    for one in seen:
        if one not in against:
            assert evaluate(made, one.event).allows
        elif not evaluate(baseline, one.event).allows:
            assert not evaluate(made, one.event).allows
