"""Policies from observations: new ones, and those that a person has had a hand in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from calls import event, parse, x86_64
from hypothesis import given, settings, strategies as st

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.learning import floor
from callfence.policygen.learning.extend import Options, allowing_line
from callfence.policygen.learning.generalise import Widening
from callfence.policygen.learning.generate import Generated, generate
from callfence.policygen.learning.replay import ContradictionError, ReplayError, events, replay
from callfence.policygen.model import ENOSYS, Arm, Entry
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.model import Observation
from callfence.tracer import linux
from callfence.tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from callfence.policygen.language.document import Document

REGISTER = (1 << 64) - 1


def test_the_calls_that_hide_their_arguments_have_notes() -> None:
    assert (*floor.OPAQUE,) == (*floor.VISIBLE_NO_MORE,) == linux.OPAQUE


def observe(*texts: str) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for text in texts:
        aggregator.counter("/app", event(text), str)[0] += 1
    return aggregator.observations()


def learn(*texts: str, existing: Document | None = None, **options: object) -> Generated:
    return generate(observe(*texts), existing, name="./app", options=Options(**options))  # type: ignore[arg-type]


def body(document: Document) -> str:
    """The entries, without the floor and comments."""
    lines = [line for line in document.text().splitlines() if not line.startswith("#")]
    entries = lines[lines.index("") + 1 :]
    return "\n".join(line.split("  #")[0].rstrip() for line in entries if "# floor:" not in line)


def policy(text: str) -> Document:
    return parse(f"callfence 1\n{text}\n")


def entries(document: Document) -> dict[Arch, dict[int, Entry]]:
    return {arch: dict(section) for arch, section in document.policy.entries.items()}


NEW = """\
# callfence policy for: ./app
callfence 1
arch x86_64
table 6.18                     # kernel whose syscall table the policy was written against
arm exec                       # now | exec | entry
default kill                   # what happens to every call not allowed below
unknown errno ENOSYS           # calls newer than the table

clock_getres: allow            # floor: what the vDSO falls back to when the clock source changes
clock_gettime: allow           # floor: what the vDSO falls back to when the clock source changes
clone3: errno ENOSYS           # opaque: flags are behind a pointer; libc falls back to clone
close: allow
exit: allow                    # floor: every program ends
exit_group: allow              # floor: every program ends
getcpu: allow                  # floor: what the vDSO falls back to
gettimeofday: allow            # floor: what the vDSO falls back to when the clock source changes
ioctl: cmd == FIONBIO
    || cmd == TCGETS
mmap: prot == PROT_READ && flags == MAP_PRIVATE
restart_syscall: allow         # floor: resumes a call that a signal interrupted
rt_sigreturn: allow            # floor: returns from a signal handler
sched_yield: allow             # floor: what spinning threads call
time: allow                    # floor: what the vDSO falls back to when the clock source changes

arch i386
"""


def test_a_new_policy() -> None:
    found = learn(
        "close 3",
        "ioctl 1 TCGETS 0x1000",
        "ioctl 1 FIONBIO 0x1000",
        "mmap 0 4096 PROT_READ MAP_PRIVATE 3 0",
        "clone3 0x1000 88",
        "clock_gettime CLOCK_MONOTONIC 0x1000",
        "exit_group 0",
        "i386 write 1 0x1000 5",
    )
    assert found.document.text().startswith(NEW)
    i386 = found.document.text().removeprefix(NEW)
    assert "\nwrite: allow\n" in i386
    assert "\nclock_gettime64: allow         # floor: " in i386
    assert "\nsigreturn: allow               # floor: " in i386
    assert [table(new.arch).by_number[new.number].name for new in found.new] == [
        "clone3", "close", "ioctl", "mmap", "write",
    ]  # fmt: skip
    assert all(new.first for new in found.new)
    assert {w.widening for w in found.widenings} == {Widening.FLOOR, Widening.FREE}
    assert (found.refused, found.gaps) == ((), ())
    assert parse(found.document.text()) == found.document


def test_nothing_observed_is_the_floor() -> None:
    assert body(learn().document) == ""


def test_learning_the_same_again_changes_nothing() -> None:
    texts = ["openat -100 0 O_RDONLY", "openat -100 0 O_RDONLY|O_CLOEXEC", "clone3 0 88", "i386 read 1"]
    first = learn(*texts).document
    again = learn(*texts, existing=parse(first.text()))
    assert (again.document, again.new, dict(again.widenings)) == (parse(first.text()), (), {})


def test_what_is_new_is_said() -> None:
    existing = policy("accept4: flags == 0\nread: allow")
    found = learn("accept4 3 0 0 SOCK_CLOEXEC", "read 1", "write 1", existing=existing)
    assert [(new.number, new.first, len(new.alternatives)) for new in found.new] == [
        (event("accept4").number, False, 1),
        (event("write").number, True, 1),
    ]
    assert entries(found.document) == entries(policy("accept4: flags in SOCK_CLOEXEC\nread: allow\nwrite: allow"))


@pytest.mark.parametrize(
    ("before", "texts", "after"),
    [
        # joined with what has its shape
        ("accept4: flags == SOCK_CLOEXEC", ["accept4 3 0 0 0x800"], "accept4: flags in SOCK_NONBLOCK|SOCK_CLOEXEC"),
        ("accept4: flags in SOCK_CLOEXEC", ["accept4 3 0 0 0x800"], "accept4: flags in SOCK_NONBLOCK|SOCK_CLOEXEC"),
        ("accept4: flags in 0x800|0x80000", ["accept4 3 0 0 0"], "accept4: flags in SOCK_NONBLOCK|SOCK_CLOEXEC"),
        ("mprotect: prot == PROT_READ", ["mprotect 0 0 PROT_NONE"], "mprotect: prot == PROT_NONE || prot == PROT_READ"),
        # a narrowing is kept; what comes new is as narrow
        ("read: fd == 1 || fd == 2", ["read 1"], "read: fd == 1 || fd == 2"),
        ("read: fd == 1 || fd == 2", ["read 1", "read 0"], "read: fd == 0 || fd == 1 || fd == 2"),
        ("read: fd == 1 || count == 2", ["read 3 0 9"], "read: allow"),
        (
            "accept4: flags == 0 || flags == SOCK_CLOEXEC",
            ["accept4 3 0 0 SOCK_CLOEXEC"],
            "accept4: flags == 0 || flags == SOCK_CLOEXEC",
        ),
        (
            "accept4: flags == 0 || flags == SOCK_CLOEXEC",
            ["accept4 3 0 0 SOCK_NONBLOCK"],
            "accept4: flags == 0 || flags == SOCK_CLOEXEC || flags == SOCK_NONBLOCK",
        ),
        (
            "exit_group: error_code == 0\numask: mask == 022",
            ["exit_group 0", "umask 18"],
            "exit_group: error_code == 0\numask: mask == 022",
        ),
        # another shape is kept beside what is learned, and what it covers is not learned
        ("accept4: flags has SOCK_CLOEXEC", ["accept4 3 0 0 SOCK_CLOEXEC|0x800"], "accept4: flags has SOCK_CLOEXEC"),
        ("accept4: flags has SOCK_CLOEXEC", ["accept4 3 0 0 0"], "accept4: flags == 0 || flags has SOCK_CLOEXEC"),
        ("kill: !(sig == SIGKILL)", ["kill 1 SIGTERM"], "kill: !(sig == SIGKILL)"),
        ("kill: !(sig == SIGKILL)", ["kill 1 SIGKILL"], "kill: allow"),
        ("read: fd <= 2", ["read 1", "read 2"], "read: fd <= 2"),
        # of an argument whose values are not kept, nothing is taken for granted
        ("read: fd <= 2", [f"read {fd}" for fd in range(9)], "read: allow"),
        # what a person refuses explicitly stays refused
        ("socket: deny", ["socket AF_INET SOCK_STREAM 0"], "socket: deny"),
        ("socket: errno EPERM", ["socket AF_INET SOCK_STREAM 0"], "socket: errno EPERM"),
        (
            "socket: family == AF_UNIX else errno EAFNOSUPPORT",
            ["socket AF_INET SOCK_STREAM 0"],
            "socket: family == AF_UNIX else errno EAFNOSUPPORT",
        ),
        (
            "socket: kill if family == AF_INET else allow",
            ["socket AF_INET 1 0", "socket AF_UNIX 1 0"],
            "socket: kill if family == AF_INET else allow",
        ),
        # what is carried out needs no rule
        ("default log\nread: fd == 1", ["read 2", "write 1"], "read: fd == 1"),
        ("read: log", ["read 2"], "read: log"),
        # opaque calls
        ("clone3: errno ENOSYS", ["clone3 0 88"], "clone3: errno ENOSYS"),
        ("clone3: errno EPERM", ["clone3 0 88"], "clone3: errno EPERM"),
        ("clone3: allow", ["clone3 0 88"], "clone3: allow"),
        ("read: allow", ["clone3 0 88"], "clone3: errno ENOSYS\nread: allow"),
    ],
)
def test_an_existing_policy(before: str, texts: list[str], after: str) -> None:
    assert entries(learn(*texts, existing=policy(before)).document) == entries(policy(after))


def test_a_call_that_the_policys_table_does_not_have_moves_it_on() -> None:
    found = learn("cachestat 3 0 0 0", existing=policy("table 5.4\nread: allow")).document
    assert (found.policy.table, entries(found)) == ((6, 18), entries(policy("cachestat: flags == 0\nread: allow")))


def test_comments_and_what_was_removed_stay() -> None:
    existing = parse("# mine\ncallfence 1\nread: fd == 1  # why: standard output\nwrite: allow\n")
    found = learn("read 1", "close 3", existing=existing)
    text = found.document.text()
    assert text.startswith("# mine\n")
    assert "read: fd == 1                  # why: standard output" in text
    assert "exit" not in text


def test_refused_observations_are_reported_once_each() -> None:
    found = learn("socket AF_INET 1 0", "socket AF_UNIX 1 0", existing=policy("socket: errno EPERM"))
    assert [one.number for one in found.refused] == [event("socket").number] * 2
    assert found.new == ()


def test_opaque_calls_on_request() -> None:
    for entry in ("", "clone3: errno ENOSYS"):
        found = learn("clone3 0 88", existing=policy(f"read: allow\n{entry}"), allow_opaque=["clone3"])
        assert "clone3: allow                  # opaque: allowed with any flags" in found.document.text()
        assert [w.widening for w in found.widenings if w.number == event("clone3").number] == [Widening.NAMES]
    program = compile_policy(learn("clone3 0 88").document.policy)
    assert bpf.action(bpf.run(program, event("clone3 0 88"))) == ENOSYS


THREADED = ("clone CLONE_VM|CLONE_THREAD", "futex 0x1000 FUTEX_WAKE_PRIVATE 1")
WAITS = "op == FUTEX_WAIT_BITSET_PRIVATE "


def test_threads_may_wait_in_every_way() -> None:
    threaded = learn(*THREADED)
    assert f"futex: {WAITS} # floor: how threads wait" in threaded.document.text()
    assert len(learn(THREADED[1]).new[0].alternatives) == 1
    assert learn(*THREADED, existing=learn(THREADED[1]).document).document.text() == threaded.document.text()


def test_an_opaque_clone_may_start_threads() -> None:
    texts = ("clone3 0 88", THREADED[1], "clock_nanosleep")
    text = learn(*texts, allow_opaque=["clone3"]).document.text()
    assert f"futex: {WAITS} # floor: how threads wait" in text
    assert "# floor: sleeping while waiting" in text
    assert not re.search("# floor: (how|sleeping)", learn(*texts).document.text())  # it fails, and clone is what is tried next
    narrowed = parse(text.replace(WAITS, "op == FUTEX_WAKE "))
    assert learn(*texts, existing=narrowed).document is narrowed


def test_ways_to_wait_that_were_removed_stay_away() -> None:
    narrowed = parse(learn(*THREADED).document.text().replace(WAITS, "op == FUTEX_WAKE "))
    assert learn(*THREADED, existing=narrowed).document is narrowed


def test_what_starts_others_may_wait_a_moment() -> None:
    pause = "clock_nanosleep: which_clock == CLOCK_MONOTONIC && flags == TIMER_ABSTIME  # floor: sleeping while waiting"
    other = "              || which_clock == CLOCK_REALTIME && flags == 0\n"
    for start in ("clone SIGCHLD", "fork", "vfork"):
        text = learn(start, "read 1").document.text()
        assert pause in text
        assert other in text
        narrowed = parse(text.replace(other, ""))
        assert learn(start, existing=narrowed).document is narrowed
        assert pause in learn(start, existing=learn("read 1").document).document.text()
        assert pause in learn(start, existing=learn("clock_nanosleep").document).document.text()
    assert "flags == 0\n" in learn("clock_nanosleep").document.text()


def test_names_only() -> None:
    found = learn("ioctl 1 FIONBIO", "mmap", existing=policy("ioctl: cmd == TCGETS"), names_only=True)
    assert entries(found.document) == entries(policy("ioctl: allow\nmmap: allow"))


def test_arming_before_exec_allows_the_execve() -> None:
    found = generate(observe("read 1"), None, name="./app", arm=Arm.NOW)
    assert "\nexecve: allow                  # floor: the execve of the program itself" in found.document.text()
    assert found.document.policy.arm is Arm.NOW
    again = generate((), found.document, name="./app")
    assert again.document.policy.arm is Arm.NOW
    back = generate((), found.document, name="./app", arm=Arm.EXEC)
    assert back.document.policy.arm is Arm.EXEC


def test_what_no_policy_can_allow_is_a_gap() -> None:
    odd = [Event(0x1234, 7), Event(Arch.X86_64.audit, 0x40000001), Event(Arch.X86_64.audit, 5000)]
    aggregator = Aggregator()
    for one in odd:
        aggregator.counter("/app", one, str)[0] += 1
    found = generate(aggregator.observations(), None, name="./app")
    assert found.gaps == (
        "call 7 of architecture 0x1234, which callfence does not know: it will be killed",
        "call 5000 of x86_64, newer than the table of 7.3: as `unknown` says",
        "x32 call 1: it will be killed",
    )


@pytest.mark.parametrize("default", ["allow", "notify", "log"])
@pytest.mark.parametrize("call", ["cachestat 0", "openat2 0"])
def test_a_newer_call_is_not_added_if_others_would_run_then(call: str, default: str) -> None:
    """A newer table has the default decide of the other newer calls, which `unknown` denied."""
    old = policy(f"arch x86_64\ntable 5.5\ndefault {default}\nread: allow")
    found = learn(call, "close 3", existing=old)
    assert found.document.policy.table == (5, 5)
    assert [each.number for each in found.refused] == [event(call).number]
    free = policy(f"arch x86_64\ntable 5.5\ndefault {default}\nunknown allow\nread: allow")
    assert learn("cachestat 0", existing=free).document.policy == free.policy
    assert learn(call, existing=policy("arch x86_64\ntable 5.5\nread: allow")).document.policy.table > (5, 5)


@pytest.mark.parametrize(
    ("call", "old", "version"),
    [
        ("read 1", "6.18", (6, 18)),
        ("listns 1 2 3 0", "6.18", (6, 19)),
        ("rseq_slice_yield", "6.18", (7, 0)),
        ("fchroot 3 0", "7.0", (7, 3)),
        ("listns 1 2 3 0", "7.3", (7, 3)),
        ("cachestat 0", "6.1", (6, 18)),
    ],
)
def test_a_newer_call_brings_the_first_table_that_has_it(call: str, old: str, version: tuple[int, int]) -> None:
    found = learn(call, existing=policy(f"arch x86_64\ntable {old}\nwrite: allow"))
    assert found.document.policy.table == version
    assert event(call).number in found.document.policy.entries[Arch.X86_64]
    assert evaluate(found.document.policy, event(call)).allows


def test_newer_calls_that_were_not_seen_stay_unknown() -> None:
    found = learn("listns 1 2 3 0").document.policy
    assert [evaluate(found, event(call)) for call in ("rseq_slice_yield", "fchroot 3 0")] == [ENOSYS, ENOSYS]
    assert evaluate(parse("table 6.18\nread: allow").policy, event("listns 1 2 3 0")) == ENOSYS


def test_an_observation_from_older_tables_is_free() -> None:
    one = Observation(Arch.X86_64.audit, event("socket").number, (), "/app", (1,), "", (2, 1, 0, 0, 0, 0))
    assert body(generate([one], None, name="./app").document) == "socket: allow"


def test_replay_names_what_is_denied() -> None:
    one_descriptor = policy("read: fd == 1").policy
    (one,) = observe("read 1")
    replay(one_descriptor, [(table(Arch.X86_64), one)])
    (other,) = observe("read 2")
    with pytest.raises(ReplayError, match="internal error") as error:
        replay(one_descriptor, [(table(Arch.X86_64), other)])
    assert error.value.observation == other


def test_an_example_that_contradicts_its_arguments_is_damage() -> None:
    (one,) = observe("fcntl 1 F_SETFD 1")
    contradictory = one._replace(arguments=(*one.arguments[:1], 0, *one.arguments[2:]))
    with pytest.raises(ContradictionError, match=r"a recording is damaged: it has fcntl\("):
        replay(policy("fcntl: cmd == F_DUPFD").policy, [(table(Arch.X86_64), contradictory)])


def test_replayed_events_fold_to_the_observation() -> None:
    for text in ("clock_nanosleep -46 0 0 0", "chmod 0x1000 0o4755", "openat -100 0 O_CREAT 0o644", "i386 kill 5 9"):
        (one,) = observe(text)
        for variant in events(one, table(Arch(Arch.from_audit(one.arch)))):
            aggregator = Aggregator()
            aggregator.counter("/app", variant, str)[0] += 1
            assert aggregator.observations()[0].arguments == one.arguments


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("socket AF_INET SOCK_STREAM 0", "socket: family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_IP"),
        ("read 3 0x1000 99", "read: allow"),
        ("mprotect 0x1000 4096 PROT_READ|PROT_EXEC", "mprotect: prot == PROT_READ|PROT_EXEC"),
        ("i386 kill 5 SIGKILL", "kill: sig == SIGKILL"),
        ("5000", None),
        (str(0x40000001), None),
    ],
)
def test_allowing_line(text: str, line: str | None) -> None:
    assert allowing_line(event(text)) == line


def test_allowing_line_allows_the_call() -> None:
    call = event("openat -100 0 O_WRONLY|O_CREAT 0o4755")
    assert evaluate(policy(allowing_line(call) or "").policy, call).allows


@pytest.mark.parametrize("text", ["implied 1\nread: allow\n", "read: allow\n"])
@pytest.mark.parametrize("arch", Arch)
def test_without_observations_no_architecture_is_added(arch: Arch, text: str) -> None:
    existing = parse(f"arch {arch}\n{text}")
    assert [*generate((), existing, name="x").document.policy.entries] == [arch]


names = ["openat", "mmap", "fcntl", "clock_gettime", "accept4", "socket", "kill", "chmod", "prctl", "futex", "clone3"]
words = st.one_of(st.integers(0, 12), st.sampled_from([0o100, 0o2000000, 1 << 31, -1 & REGISTER]))
some_events = st.builds(
    lambda name, *registers: Event(Arch.X86_64.audit, table(Arch.X86_64).by_name[name].number, registers),
    st.sampled_from(names),
    *[words] * 6,
)


def folded(some: list[Event]) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for one in some:
        aggregator.counter("/app", one, str)[0] += 1
    return aggregator.observations()


@settings(max_examples=15)
@given(st.lists(some_events, max_size=8), st.lists(some_events, max_size=8))
def test_learning_in_turns_gives_the_same_bytes(first: list[Event], second: list[Event]) -> None:
    with x86_64():
        together = generate(folded(first + second), None, name="x").document.text()
        for turns in ((first, second), (second, first)):
            document = None
            for turn in turns:
                existing = parse(document.text()) if document else None
                document = generate(folded(turn), existing, name="x").document
            assert document is not None
            assert document.text() == together


@settings(max_examples=30)
@given(st.lists(some_events, max_size=12))
def test_what_was_learned_is_allowed(some: list[Event]) -> None:
    found = generate(folded(some), None, name="x").document.policy
    for one in some:
        action = evaluate(found, one)
        assert action.allows or (one.number == event("clone3").number and action == ENOSYS)
