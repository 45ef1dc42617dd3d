"""Folding: the observations do not depend on the order of events, are few, and the loop's mask loses nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from calls import event
from hypothesis import example, given, strategies as st

from callfence.policygen.evidence.facts import Places
from callfence.policygen.recording.fold import FREE_VALUES, MAX_COMBINATIONS, MAX_FOLLOWED, QUIET_EVENTS, Aggregator
from callfence.tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callfence.policygen.recording.model import Observation

X86_64 = Arch.X86_64.audit
CALLS = table(Arch.X86_64)
REGISTER = (1 << 64) - 1


def number(name: str) -> int:
    return CALLS.by_name[name].number


def fold(events: Iterable[Event], executable: str = "/app") -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for one in events:
        aggregator.counter(executable, one, lambda: "libc+0x1")[0] += 1
    return aggregator.observations()


def kept(*events: Event) -> list[tuple[int | None, ...]]:
    return [observation.arguments for observation in fold(events)]


def raw(one: Event) -> int:
    return sum(value << 64 * index for index, value in enumerate((one.number, *one.arguments)))


def bare(observations: Sequence[Observation]) -> list[tuple[object, ...]]:
    """Without what is the first event's."""
    return [(*observation.key, observation.counts) for observation in observations]


@pytest.mark.parametrize(
    ("one", "arguments"),
    [
        (event("socket", 2, 1, 6), (2, 1, 6)),
        (event("socket", 2 | 0xDEAD << 32, 1 | 1 << 63, 6), (2, 1, 6)),
        (event("read", 3, 0x7FFF_0000, 4096), (3, None, 4096)),
        (event("mprotect", 0x7FFF_0000, 4096, 3), (None, 4096, 3)),
        (event("kill", 4711, 15), (4711, 15)),
        (event("openat", -100, 0x7FFF_0000, 0o101, 0o4755), (-100, None, 0o101, 0o4000)),
        (event("openat", 0xFFFF_FF9C, 0x7FFF_0000, 0o101, 0o755), (-100, None, 0o101, 0)),
        (event("clock_gettime", 1, 0x7FFF_0000), (1, None)),
        (event("clock_gettime", -6, 0x7FFF_0000), (-1, None)),
        (event("clock_gettime", -47110 & 0xFFFF_FFFF, 0x7FFF_0000), (-1, None)),
        (event("ioctl", 1, 0x5401, 0x7FFF_0000), (1, 0x5401, None)),
        (event("ioctl", 1, 0x5401, 7), (1, 0x5401, None)),
        (event("futex", 0x7FFF_0000, 129, 1, 0x7FFF_1000), (None, 129, 1, None, None, 0)),
        (event("exit_group", 3), (3,)),
        (event("getpid"), ()),
    ],
)
def test_what_is_kept(one: Event, arguments: tuple[int | None, ...]) -> None:
    assert kept(one) == [arguments]


@pytest.mark.parametrize(
    "one",
    [
        Event(X86_64, 0xFFFF_FFFF, (1, 2, 3, 4, 5, 6)),
        Event(X86_64, 0x4000_0001, (1, 2, 3, 4, 5, 6)),
        Event(X86_64, 5000, (1, 2, 3, 4, 5, 6)),
        Event(0x1234, 1, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_calls_without_a_table_entry_are_kept_by_number(one: Event) -> None:
    other = Event(one.arch, one.number, (9, 9, 9, 9, 9, 9))
    assert [(o.arch, o.number, o.arguments, o.calls) for o in fold([one, other])] == [(one.arch, one.number, (), 2)]
    assert Aggregator().hot_mask(one.arch, one.number) == REGISTER


def test_site_is_asked_for_once_and_the_example_is_the_first() -> None:
    aggregator = Aggregator()
    sites = iter(["first"])
    for buffer in (0x1000, 0x2000):
        aggregator.counter("/app", event("read", 3, buffer, 1), lambda: next(sites))[0] += 1
    (observation,) = aggregator.observations()
    assert (observation.site, observation.example[1], observation.calls) == ("first", 0x1000, 2)
    assert observation.event == event("read", 3, 0x1000, 1)


def test_executables_have_their_own_observations() -> None:
    aggregator = Aggregator()
    for executable in ("/b", "/a", "/b"):
        aggregator.counter(executable, event("getpid"), str)[0] += 1
    assert [(o.executable, o.counts) for o in aggregator.observations()] == [("/a", (1,)), ("/b", (2,))]


def test_evidence_is_given_up_argument_by_argument() -> None:
    aggregator = Aggregator()
    mask = aggregator.hot_mask(X86_64, number("write"))
    for size in range(FREE_VALUES):
        aggregator.counter("/app", event("write", 1, 0, size), str)[0] += 1
    assert (len(aggregator.observations()), aggregator.generation) == (FREE_VALUES, 0)
    aggregator.counter("/other", event("write", 1, 0, FREE_VALUES), str)[0] += 1
    assert aggregator.generation == 1
    assert [(o.executable, o.arguments, o.calls) for o in aggregator.observations()] == [
        ("/app", (1, None, None), FREE_VALUES),
        ("/other", (1, None, None), 1),
    ]
    assert aggregator.hot_mask(X86_64, number("write")) == mask & ~(REGISTER << 64 * 3)


def test_constrained_arguments_are_kept_up_to_a_bound() -> None:
    aggregator = Aggregator()
    for command in range(MAX_COMBINATIONS):
        aggregator.counter("/app", event("ioctl", command, command, 0), str)[0] += 1
    assert [o.arguments for o in aggregator.observations()] == [(None, command, None) for command in range(MAX_COMBINATIONS)]
    aggregator.counter("/other", event("ioctl", 9, MAX_COMBINATIONS, 0), str)[0] += 1
    assert [(o.arguments, o.executable, o.counts) for o in aggregator.observations()] == [
        ((None, None, None), "/app", (MAX_COMBINATIONS,)),
        ((None, None, None), "/other", (1,)),
    ]
    assert not aggregator.hot_mask(X86_64, number("ioctl")) >> 64


def test_memory_is_bounded_by_what_is_constrained() -> None:
    generator = random.Random(1)
    names = ["read", "mmap", "pread64", "futex", "kill", "lseek", "wait4"]
    aggregator = Aggregator()
    for _ in range(20_000):
        registers = [generator.getrandbits(64) for _ in range(6)]
        if (name := generator.choice(names)) in ("mmap", "futex", "kill", "lseek", "wait4"):
            registers[1:4] = [generator.randrange(3) for _ in range(3)]
        aggregator.counter("/app", event(name, *registers), str)[0] += 1
    observations = aggregator.observations()
    assert sum(o.calls for o in observations) == 20_000
    assert len(observations) < 2_000


names = st.sampled_from(["read", "openat", "fcntl", "prctl", "setsockopt", "futex", "clock_nanosleep", "mmap", "clone"])
words = st.one_of(st.integers(0, 12), st.integers(0, REGISTER), st.sampled_from([-1 & REGISTER, 0o100, 1 << 31]))
some_events = st.builds(lambda name, *registers: event(name, *registers), names, *[words] * 6)


@given(st.lists(some_events, max_size=40), st.randoms(use_true_random=False))
def test_order_does_not_matter(events: list[Event], generator: random.Random) -> None:
    shuffled = list(events)
    generator.shuffle(shuffled)
    assert bare(fold(events)) == bare(fold(shuffled))


@given(some_events, st.lists(words, min_size=6, max_size=6))
@example(event("fcntl", 3, 6, 0x7FFF_0000), [0] * 6)
def test_bits_outside_the_mask_do_not_matter(one: Event, noise: list[int]) -> None:
    aggregator = Aggregator()
    mask = aggregator.hot_mask(X86_64, one.number)
    changed = (raw(one) & mask) | (sum(word << 64 * (i + 1) for i, word in enumerate(noise)) & ~mask)
    registers = tuple(changed >> 64 * (i + 1) & REGISTER for i in range(6))
    counter = aggregator.counter("/app", one, str)
    assert aggregator.counter("/app", Event(X86_64, one.number, registers), str) is counter  # type: ignore[arg-type]


@given(st.lists(some_events, max_size=60))
def test_the_loops_cache_counts_every_event(events: list[Event]) -> None:
    aggregator, cache, masks, generation = Aggregator(), {}, {}, 0
    for one in events:
        if one.number not in masks:
            masks[one.number] = aggregator.hot_mask(X86_64, one.number)
        counter = cache.get(raw(one) & masks[one.number])
        if counter is None:
            counter = aggregator.counter("/app", one, lambda: "libc+0x1")
            if aggregator.generation != generation:
                generation = aggregator.generation
                cache.clear()
                masks.clear()
            cache[raw(one) & aggregator.hot_mask(X86_64, one.number)] = counter
        counter[0] += 1
    assert bare(aggregator.observations()) == bare(fold(events))


def test_every_variant_reads_an_argument_as_the_plain_one() -> None:
    """Values are kept with the plain width, as conditions of policies are read."""
    for arch in (Arch.X86_64, Arch.I386):
        for nr, syscall in table(arch).by_number.items():
            for variant in table(arch).variants(nr):
                assert [(a.name, a.width, a.signed) for a in variant] == [
                    (a.name, a.width, a.signed) for a in syscall.arguments
                ]


class Names:
    """A task whose calls name a file each."""

    ids = (1, 1)

    def __init__(self) -> None:
        self.name = b""

    def read(self, address: int, length: int) -> bytes:
        return (self.name + b"\0")[:length]

    def link(self, name: str) -> str:
        return "/srv"


@pytest.mark.parametrize(
    ("names", "follows", "evidence"),
    [
        (["/etc/app.conf"] * 100, 1 + QUIET_EVENTS, {"/etc/app.conf"}),
        ([f"many/{number}" for number in range(100)], 4 + QUIET_EVENTS, {"/srv/many/**"}),
        ([f"/usr/lib/{number}.py" for number in range(40)] + ["/etc/app.conf"], 41, {"/etc/app.conf", "/usr/lib/**"}),
        ([f"/usr/lib/lib{number}.so.1" for number in range(40)] + ["app.conf"], 41, {"/srv/app.conf", "/usr/lib/**"}),
        ([f"/usr/share/{number}/x" for number in range(100)], MAX_FOLLOWED, {"/usr/share/**"}),
    ],
)
def test_pointers_are_followed_until_they_tell_nothing_new(names: list[str], follows: int, evidence: set[str]) -> None:
    """What is within a folder of which many names are known does not count, nor do shared libraries: a program opens many
    before it does anything of its own."""
    aggregator, caller, one = Aggregator(Places), Names(), event("openat", -100, 0x7FFF_0000, 0)
    counter = aggregator.counter("/app", one, lambda: "libc+0x1")
    looked = 0
    for name in names:
        caller.name = name.encode()
        looked += 1
        if not aggregator.look(counter, one, caller):
            break
    (seen,) = aggregator.observations()
    assert (looked, {*seen.evidence}) == (follows, {f'filename="{one}"' for one in evidence})
