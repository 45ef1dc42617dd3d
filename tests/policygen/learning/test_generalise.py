"""Generalising: what is seen of each kind of argument, and what is therefore allowed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from calls import event, parse
from hypothesis import given, settings, strategies as st

from callfence.policygen.holds import holds
from callfence.policygen.language.normal import normal_expression
from callfence.policygen.learning.generalise import TREATMENT, Generalised, Widening, generalise
from callfence.policygen.learning.rule import Flags, Rule, expression, join, key, read
from callfence.policygen.model import Always, Condition, Expression, Operator, Or
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.model import Observation
from callfence.policygen.sets.express import minimise
from callfence.tracer.abi import Arch, Event, Kind, table

ARCH = Arch.X86_64
CALLS = table(ARCH)
REGISTER = (1 << 64) - 1


def observe(*texts: str) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for text in texts:
        aggregator.counter("/app", event(text), str)[0] += 1
    return aggregator.observations()


def generalised(*texts: str, **options: bool) -> Generalised:
    return generalise(observe(*texts), CALLS, **options)


def entry(found: Generalised, name: str) -> Expression:
    """The expression of a policy's entry."""
    syscall = CALLS.by_name[name]
    parts = minimise([expression(rule, syscall.arguments) for rule in found.rules], syscall.arguments)
    return normal_expression(ARCH, syscall.number, Or(parts))


def written(name: str, text: str) -> Expression:
    """The expression that a text is."""
    return parse(f"callfence 1\n{name}: {text}\n").policy.entries[ARCH][CALLS.by_name[name].number].expression


@pytest.mark.parametrize(
    ("events", "allowed"),
    [
        # selectors: exactly those seen, jointly
        (["ioctl 1 TCGETS 0x1000", "ioctl 2 TCGETS 0x2000", "ioctl 1 FIONBIO 1"], "cmd == FIONBIO || cmd == TCGETS"),
        (["ioctl 1 TCGETS|0xdead00000000 0"], "cmd == TCGETS"),
        (
            ["socket AF_INET SOCK_STREAM IPPROTO_IP", "socket AF_UNIX SOCK_DGRAM 0"],
            "family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_IP || "
            "family == AF_UNIX && type == SOCK_DGRAM && protocol == 0",
        ),
        (
            ["setsockopt 3 SOL_SOCKET SO_REUSEADDR 0x1000 4", "setsockopt 3 SOL_TCP TCP_NODELAY 0x1000 4"],
            "level == SOL_SOCKET && optname == SO_REUSEADDR || level == SOL_TCP && optname == TCP_NODELAY",
        ),
        (["kill 4711 SIGTERM", "kill 4712 SIGTERM", "kill 4711 0"], "sig == 0 || sig == SIGTERM"),
        # an address that was left in the register of flags which the call was made without
        (["pidfd_open 7 0", "pidfd_open 0 0x559cbeb85010"], "allow"),
        (["pidfd_open 7 PIDFD_NONBLOCK|0x559c00000000"], "flags == PIDFD_NONBLOCK"),
        (["pidfd_open 7 0x10|0xdead00000000"], "flags == 0x10"),
        (["kill 4711 SIGTERM|0x55d0e3f60000"], "sig == 0xe3f6000f"),
        (["ioctl 0 TIOCSTI|0x7ffc00000000"], "cmd == TIOCSTI"),
        (["mprotect 0x1000 4096 0x7f0000000001"], "prot == PROT_READ|0x7f0000000000"),
        # a command and the argument that it gives a meaning to
        (["fcntl 3 F_GETFD 0xbeef", "fcntl 3 F_GETFD 0xdead"], "cmd == F_GETFD"),
        (["fcntl 3 F_SETLK 0x7fff0000"], "cmd == F_SETLK"),
        (["fcntl 3 F_DUPFD_CLOEXEC 10"], "cmd == F_DUPFD_CLOEXEC"),
        # protection: the combinations, never their union
        (
            ["mprotect 0 4096 PROT_READ|PROT_WRITE", "mprotect 0 4096 PROT_READ|PROT_EXEC"],
            "prot == PROT_READ|PROT_EXEC || prot == PROT_READ|PROT_WRITE",
        ),
        (
            [
                "mmap 0 4096 PROT_READ MAP_PRIVATE 3 0",
                "mmap 0 4096 PROT_READ|PROT_WRITE MAP_PRIVATE|MAP_ANONYMOUS -1 0",
                "mmap 0 8192 PROT_READ|PROT_WRITE MAP_PRIVATE|MAP_FIXED 3 4096",
            ],
            "prot == PROT_READ && flags == MAP_PRIVATE || "
            "prot == PROT_READ|PROT_WRITE && flags in MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS",
        ),
        # other flags: the union; a single value as it is
        (["accept4 3 0 0 SOCK_CLOEXEC"], "flags == SOCK_CLOEXEC"),
        (["accept4 3 0 0 SOCK_CLOEXEC", "accept4 3 0 0 0"], "flags in SOCK_CLOEXEC"),
        (["accept4 3 0 0 SOCK_CLOEXEC", "accept4 3 0 0 SOCK_NONBLOCK"], "flags in SOCK_NONBLOCK|SOCK_CLOEXEC"),
        (["accept4 3 0 0 0"], "flags == 0"),
        # the access mode is a field of its own
        (
            [
                "openat AT_FDCWD 0x1000 O_RDONLY|O_CLOEXEC",
                "openat AT_FDCWD 0x1000 O_RDONLY|O_NONBLOCK",
                "openat 5 0x1000 O_WRONLY|O_CREAT|O_TRUNC 0o644",
                "openat 5 0x1000 O_WRONLY|O_CREAT|O_APPEND 0o600",
                "openat 5 0x1000 O_RDWR",
            ],
            "flags & O_ACCMODE == O_RDONLY && flags in O_NONBLOCK|O_CLOEXEC || "
            "flags & O_ACCMODE == O_WRONLY && flags in O_WRONLY|O_CREAT|O_TRUNC|O_APPEND && mode & 07000 == 0 || "
            "flags == O_RDWR",
        ),
        (["chmod 0x1000 0o644", "chmod 0x1000 0o600"], "mode & 07000 == 0"),
        (["chmod 0x1000 0o4755"], "mode & 07000 == S_ISUID"),
        # clocks: a negative one is a process's or a descriptor's
        (
            ["clock_nanosleep CLOCK_MONOTONIC TIMER_ABSTIME 0x1000 0", "clock_nanosleep -46 0 0x1000 0"],
            "which_clock < 0 && flags == 0 || which_clock == CLOCK_MONOTONIC && flags == TIMER_ABSTIME",
        ),
        # everything else is free
        (["read 3 0x1000 1", "read 4 0x2000 2"], "allow"),
        (["setuid 0"], "allow"),
        (["getpid"], "allow"),
        (["unlink 0x1000"], "allow"),
    ],
)
def test_what_is_allowed(events: list[str], allowed: str) -> None:
    name = events[0].split()[0]
    assert entry(generalised(*events), name) == written(name, allowed)


def test_every_kind_is_treated() -> None:
    assert set(TREATMENT) == set(Kind)
    assert {kind for kind, treatment in TREATMENT.items() if treatment.__name__ != "free"} == {
        kind for kind in Kind if kind.is_constrained
    }


def test_names_only() -> None:
    found = generalised("socket AF_INET SOCK_STREAM 0", "socket AF_UNIX SOCK_STREAM 0", names_only=True)
    assert entry(found, "socket") == Always(True)
    assert [(w.widening, w.index, times) for w, times in found.widenings.items()] == [(Widening.NAMES, -1, 2)]


def test_widenings_are_named_and_counted() -> None:
    def widenings(*texts: str) -> dict[tuple[int, Widening], int]:
        return {(w.index, w.widening): count for w, count in generalised(*texts).widenings.items()}

    assert widenings("accept4 3 0x1000 0x1000 SOCK_CLOEXEC") == {(0, Widening.FREE): 1}
    assert widenings("accept4 3 0 0 SOCK_CLOEXEC", "accept4 3 0 0 SOCK_NONBLOCK") == {
        (0, Widening.FREE): 2,
        (3, Widening.UNION): 2,
    }
    assert widenings("chmod 0x1000 0o644") == {(1, Widening.REST): 1}
    assert widenings("clock_getres -46 0x1000") == {(0, Widening.NEGATIVE): 1}
    assert widenings("unlink 0x1000") == {}


def tight(*seen: tuple[str, tuple[int, ...]], runs: int = 3) -> Expression:
    observations = []
    for text, columns in seen:
        (one,) = observe(text)
        counts = tuple(int(column in columns) for column in range(runs))
        observations.append(Observation(*one.key, counts, "", one.example))
    found = generalise(observations, CALLS, tight=True)
    return entry(found, seen[0][0].split()[0])


@pytest.mark.parametrize(
    ("seen", "allowed"),
    [
        ([("close 3", (0, 1, 2))], "fd == 3"),
        ([("close 3", (0, 1)), ("close 4", (1, 2))], "fd in {3, 4}"),
        ([("close 3", (0, 1, 2)), ("close 4", (2,))], "allow"),  # one run is alone with a value
        ([("close 3", (0, 1))], "allow"),  # two runs are not evidence
        ([(f"close {fd}", (0, 1, 2)) for fd in range(4)], "fd in {0, 1, 2, 3}"),
        ([(f"close {fd}", (0, 1, 2)) for fd in range(5)], "allow"),
        ([("accept4 3 0 0 0", (0, 1)), ("accept4 3 0 0 SOCK_CLOEXEC", (2,))], "fd == 3 && flags in SOCK_CLOEXEC"),
        ([("unlink 0x1000", (0, 1, 2))], "allow"),
        ([("futex 0x1000 FUTEX_WAKE_PRIVATE 1", (0, 1, 2))], "op == FUTEX_WAKE_PRIVATE"),  # `val` depends on timing
        ([("setuid 33", (0, 1, 2))], "uid == 33"),
        ([("kill 7 SIGTERM", (0, 1, 2))], "sig == SIGTERM"),  # a container numbers its tasks alike by chance
        ([("kill 0 SIGTERM", (0, 1, 2))], "pid == 0 && sig == SIGTERM"),
    ],
)
def test_tight_needs_evidence(seen: list[tuple[str, tuple[int, ...]]], allowed: str) -> None:
    assert tight(*seen) == written(seen[0][0].split()[0], allowed)


# The algebra

flags = st.builds(
    lambda bits, field, several: Flags(bits, several, field), st.integers(0, 15), st.sampled_from([0, 3]), st.booleans()
)
elements = st.one_of(st.none(), st.builds(lambda value: Condition(0, Operator.EQ, value), st.integers(0, 1)), flags)
rules = st.tuples(elements, flags)


def _joined(some: Iterable[Rule]) -> dict[tuple[object, ...], Rule]:
    """The rules by their key, those of the same key joined."""
    found: dict[tuple[object, ...], Rule] = {}
    for rule in some:
        found[key(rule)] = join(found[key(rule)], rule) if key(rule) in found else rule
    return found


@given(st.lists(rules, min_size=1, max_size=6))
def test_joining_is_commutative_associative_and_idempotent(some: list[Rule]) -> None:
    assert _joined(some) == _joined(reversed(some)) == _joined(some + some)
    for a in some:
        for b in some:
            for d in some:
                same = [key(a) == key(other) for other in (b, d)]
                if all(same):
                    assert join(a, join(b, d)) == join(join(a, b), d)
                    assert join(a, b) == join(b, a)
    for rule in some:
        assert join(rule, rule) == rule


calls = st.sampled_from(["openat", "mmap", "fcntl", "clock_gettime", "accept4", "socket", "kill", "chmod", "prctl"])
words = st.one_of(st.integers(0, 12), st.sampled_from([0o100, 0o2000000, 1 << 31, -1 & REGISTER]))


@st.composite
def events_of_one_call(draw: st.DrawFn) -> list[Event]:
    number = CALLS.by_name[draw(calls)].number
    return [
        Event(ARCH.audit, number, tuple(draw(words) for _ in range(6)))  # type: ignore[arg-type]
        for _ in range(draw(st.integers(1, 6)))
    ]


@given(events_of_one_call())
def test_every_event_is_allowed_by_what_was_learned_of_it(events: list[Event]) -> None:
    aggregator = Aggregator()
    for one in events:
        aggregator.counter("/app", one, str)[0] += 1
    found = generalise(aggregator.observations(), CALLS)
    arguments = CALLS.by_number[events[0].number].arguments
    alternatives = minimise([expression(rule, arguments) for rule in found.rules], arguments)
    for one in events:
        assert any(holds(alternative, arguments, one.arguments) for alternative in alternatives)


@given(events_of_one_call())
def test_a_rule_is_read_back_from_its_expression(events: list[Event]) -> None:
    aggregator = Aggregator()
    for one in events:
        aggregator.counter("/app", one, str)[0] += 1
    number = events[0].number
    for rule in generalise(aggregator.observations(), CALLS).rules:
        assert read(expression(rule, CALLS.by_number[number].arguments), CALLS, number) == rule


# Minimising


def conditions(*texts: str) -> list[Condition]:
    """`0<=5`: argument, operator, value."""
    return [Condition(int(text[0]), Operator(text[1:3].strip()), int(text[3:])) for text in texts]


@pytest.mark.parametrize(
    ("alternatives", "kept"),
    [
        (["0==1", "0==2"], ["0==1", "0==2"]),
        (["0==1", "0==1"], ["0==1"]),
        (["0<=5", "0==3", "0==6"], ["0<=5", "0==6"]),
        (["0==3", "0<=5"], ["0<=5"]),
        (["0<=5", "0>=4", "0==9"], None),
        (["0<=5", "0>=6"], None),
        (["2==1", "0==1", "2<=1"], ["0==1", "2<=1"]),
    ],
)
def test_minimising(alternatives: list[str], kept: list[str] | None) -> None:
    arguments = CALLS.by_name["read"].arguments
    expected = [Always(True)] if kept is None else conditions(*kept)
    assert list(minimise(conditions(*alternatives), arguments)) == expected


@settings(max_examples=30)
@given(events_of_one_call())
def test_minimising_changes_nothing_and_leaves_nothing_superfluous(events: list[Event]) -> None:
    observations = []
    for one in events:
        aggregator = Aggregator()
        aggregator.counter("/app", one, str)[0] += 1
        observations += aggregator.observations()
    arguments = CALLS.by_number[events[0].number].arguments
    rules = [rule for one in observations for rule in generalise([one], CALLS).rules]
    before = [expression(rule, arguments) for rule in rules]
    after = minimise(before, arguments)
    assert minimise(after, arguments) == after
    for registers in (one.arguments for one in events):
        assert any(holds(a, arguments, registers) for a in after)
    assert set(after) <= {*before, Always(True)}
    for alternative in before:
        assert len(minimise([*after, alternative], arguments)) == len(after)


@pytest.mark.parametrize(
    ("register", "is_address"),
    # program and stack with addresses of 48, 47, 42 and 39 bits
    [
        *((upper << 32, True) for upper in (0xAAAA, 0xFFFF, 0x5555, 0x7FFF, 0x2AA, 0x3FF, 0x55, 0x7F)),
        (0x54 << 32, False),
        (-1 << 32, False),
    ],
)
def test_addresses_of_aarch64_that_were_left_in_a_register(register: int, is_address: bool) -> None:
    calls = table(Arch.AARCH64)
    aggregator = Aggregator()
    number = calls.by_name["pidfd_open"].number
    aggregator.counter("/app", Event(Arch.AARCH64.audit, number, (7, (register | 0x10) & REGISTER, 0, 0, 0, 0)), str)
    (rule,) = generalise(aggregator.observations(), calls).rules
    assert (rule[1] is None) == is_address
