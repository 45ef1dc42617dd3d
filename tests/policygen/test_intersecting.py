"""The intersection of two policies: what both allow, held against every call of a small domain."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import permutations, product
from pathlib import Path

import pytest
from calls import event, parse, parse_file
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.comparing.reducing import exceeds, intersect, reduce
from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import newest_table
from callfence.policygen.model import Policy, strictest
from callfence.policygen.phases import START
from callfence.tracer.abi import Arch, Event, table

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.policy"))
CALLS = ("socket", "prctl", "mseal")
"""The last one is newer than Linux 6.1."""
VALUES = (0, 1, 2, 3, 1 << 31, 1 << 32, (1 << 32) + 1)
EVENTS = [event(name, a, b, arch=arch) for name, a, b in product(CALLS, VALUES, VALUES) for arch in (Arch.X86_64, Arch.I386)]
NAMES = {"socket": ("family", "type"), "prctl": ("option", "arg2"), "mseal": ("start", "len")}
ACTIONS = ("allow", "log", "kill", "errno EPERM", "errno ENOSYS", "trap")
DENIALS = ("kill", "errno EPERM", "trap")


def condition(chance: random.Random, call: str) -> str:
    name, value = chance.choice(NAMES[call]), chance.randrange(4)
    return chance.choice((f"{name} == {value}", f"{name} != {value}", f"{name} & 1 == 0", f"{name} in {value or 1}"))


def rules(chance: random.Random, call: str) -> str:
    parts = [[condition(chance, call) for _ in range(chance.randrange(1, 3))] for _ in range(chance.randrange(1, 3))]
    return " || ".join(" && ".join(part) for part in parts)


def entry(chance: random.Random, call: str) -> str:
    either = f"{chance.choice(ACTIONS)} if {rules(chance, call)} else {chance.choice(ACTIONS)}"
    return f"{call}: {chance.choice(('allow', 'errno EPERM', rules(chance, call), either))}"


def text(chance: random.Random) -> str:
    """A policy about these calls alone, of one or two architectures."""
    old = chance.random() < 0.3
    head = f"table {'6.1' if old else '6.18'}\ndefault {chance.choice(ACTIONS)}\nunknown {chance.choice(ACTIONS)}\n"
    for arch in chance.choice((("x86_64",), ("x86_64", "i386"))):
        calls = [call for call in CALLS[: 2 if old else 3] if chance.random() < 0.7]
        head += f"arch {arch}\n" + "".join(entry(chance, call) + "\n" for call in calls)
    return head


@pytest.mark.parametrize("seed", range(5))
def test_exactly_what_both_allow(seed: int) -> None:
    """Of 10,000 pairs with CALLFENCE_EXAMPLES=1000; a few of the pairs have no intersection, and say so."""
    chance, refused, tried = random.Random(seed), 0, 2 * EXAMPLES
    for _ in range(tried):
        first, second = text(chance), text(chance)
        a, b = parse(first).policy, parse(second).policy
        try:
            both = intersect(a, b)
        except ValueError as error:
            assert "an entry cannot allow, log and deny" in str(error)
            refused += 1
            continue
        for one in EVENTS:
            mine, theirs, found = (evaluate(policy, one) for policy in (a, b, both))
            assert found.may_allow == (mine.may_allow and theirs.may_allow), (first, second, one)
            if found.may_allow:
                assert found == strictest((mine, theirs)), "a call is logged if one of them logs it"
    assert refused < tried / 4


@pytest.mark.long
@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_with_itself_and_with_everything(file: Path) -> None:
    policy = parse_file(file).policy
    everything = parse("default allow\nunknown allow\narch x86_64\narch i386\n").policy
    assert compare(policy, intersect(policy, policy)).verdict is Verdict.EQUAL
    assert compare(policy, intersect(policy, everything)).verdict is Verdict.EQUAL


def test_an_implied_set_is_kept() -> None:
    texts = "openat: flags == O_RDONLY\nsocket: allow", "socket: family == AF_UNIX"
    a, b = (parse(f"implied 1\n{text}\n").policy for text in texts)
    both = intersect(a, b)
    assert both.implied == 1
    assert len(both.entries[Arch.X86_64]) <= 2
    assert compare(b, both).verdict is Verdict.EQUAL


def test_the_narrower_settings() -> None:
    head = "default errno EPERM\ntable 6.1\nunknown errno ENOSYS\nscope signals\n"
    a = parse(f"{head}path /usr: read, write\nread: allow\n").policy
    b = parse("default kill\nunknown kill\npath /usr/lib: read\ntcp connect: 443\nread: allow\nwrite: allow\n").policy
    both = intersect(a, b)
    assert (both.default.kind, both.unknown.kind, both.table, both.scope) == ("kill", "kill", b.table, "signals")
    assert both.files.lines().keys() == {"path /usr/lib", "tcp connect"}


def test_without_a_common_architecture() -> None:
    with pytest.raises(ValueError, match="no architecture in common"):
        intersect(parse("arch x86_64\nread: allow\n").policy, parse("arch aarch64\nread: allow\n").policy)


def test_phases() -> None:
    """Each phase allows what both allow in it; one without phases allows the same in all."""
    a = parse("phase serving after listen\nlisten: allow\nread: allow\nbind: allow until serving\n").policy
    b = parse("listen: allow\nread: allow\nbind: allow\nwrite: allow\n").policy
    assert compare(intersect(a, b), a).verdict is Verdict.EQUAL
    assert compare(intersect(b, a), a).verdict is Verdict.EQUAL


def test_with_phases_an_implied_set_is_written_out() -> None:
    """At the start it would be the shorter way to say what both allow, and later it would allow more."""
    phase = "phase serving after listen\nlisten: allow\n"
    a = parse(f"implied 1\n{phase}socket: allow until serving\nbind: allow until serving\n").policy
    names = sorted(table(Arch.X86_64).by_name.keys() - {"listen"})
    b = parse(f"{newest_table()}unknown kill\n{phase}" + "".join(f"{name}: allow until serving\n" for name in names)).policy
    calls = ("listen", "socket", "bind", "read", "getpid", "write", "futex", "mmap")
    for both in (intersect(a, b), intersect(b, a)):
        for name, call in product(("start", "serving"), calls):
            found = [evaluate(policy, event(call), name).may_allow for policy in (a, b, both)]
            assert found[2] == (found[0] and found[1]), (name, call)


def test_with_phases_an_implied_set_is_kept_where_it_can_be() -> None:
    a = parse("implied 1\nphase serving after listen\nlisten: allow\nbind: allow until serving\n").policy
    b = parse("implied 1\nlisten: allow\nbind: allow\nsocket: allow\n").policy
    both = intersect(a, b)
    assert both.implied == 1
    assert compare(a, both).verdict is Verdict.EQUAL


def test_a_reduction_whose_limit_ends_an_implied_call_with_a_phase() -> None:
    """What the limit allows until the phase is kept until then, and denied from then on."""
    phase = "phase serving after listen\nlisten: allow\n"
    a = parse(f"implied 1\n{phase}socket: allow until serving\n").policy
    by = parse(f"{phase}read: allow until serving\nsocket: allow\n").policy
    reduced = reduce(a, by)
    for name, expected in (("start", True), ("serving", False)):
        assert evaluate(reduced, event("read"), name).may_allow == expected
        assert evaluate(reduced, event("write"), name).may_allow, "the limit does not name it"


PHASES = ("serving", "working")
TRIGGERS = ("listen", "accept")
ORDERS = [*permutations(TRIGGERS, 0), *permutations(TRIGGERS, 1), *permutations(TRIGGERS, 2)]


def with_phases(chance: random.Random) -> str:
    """A policy whose phases have any of these names, begin at any of these calls, and end something."""
    names = chance.sample(PHASES, chance.randrange(3))
    begun = chance.sample(TRIGGERS, len(names))
    lines = [f"default {chance.choice(('kill', 'errno EPERM'))}", *["implied 1"] * (chance.random() < 0.5)]
    lines += [f"phase {name} after {trigger}" for name, trigger in zip(names, begun, strict=True)]
    lines += [f"{trigger}: allow" for trigger in TRIGGERS]
    ended = chance.sample(("socket", "prctl"), len(names))
    lines += [f"{call}: allow until {name}" for name, call in zip(names, ended, strict=True)]
    lines += [f"{call}: allow" for call in ("bind", "kill") if chance.random() < 0.7]
    return "\n".join(lines) + "\n"


def allowed(policy: Policy, order: Sequence[str], call: Event) -> bool:
    """Whether a process may make a call after those that begin phases; a phase that it passes over counts, too."""
    begun = [place for place, phase in enumerate(policy.phases, 1) if {*phase.triggers} & {*order}]
    reached = (START, *(phase.name for phase in policy.phases))[: max(begun, default=0) + 1]
    return all(evaluate(policy, call, name).may_allow for name in reached)


@pytest.mark.long
@pytest.mark.parametrize("work", [intersect, reduce])
def test_no_order_of_phases_allows_more(work: Callable[[Policy, Policy], Policy]) -> None:
    chance, refused, tried = random.Random(1), 0, EXAMPLES
    calls = [event(name) for name in ("socket", "prctl", "bind", "kill", *TRIGGERS)]
    for _ in range(tried):
        texts = with_phases(chance), with_phases(chance)
        a, b = (parse(text).policy for text in texts)
        try:
            both = work(a, b)
        except ValueError as error:
            assert "deny a call in different ways" in str(error)
            refused += 1
            continue
        limits = (a, b) if work is intersect else (a,)
        assert not any(exceeds(both, limit) for limit in limits)
        for order, call in product(ORDERS, calls):
            assert not allowed(both, order, call) or all(allowed(limit, order, call) for limit in limits), (texts, order, call)
    assert refused < tried / 2


def test_what_allows_more_in_a_phase_exceeds() -> None:
    text = "phase serving after {}\nlisten: allow\naccept: allow\nbind: allow until serving\n"
    each = (parse(text.format(calls)).policy for calls in ("listen", "accept", "accept, listen"))
    after_listen, after_accept, after_both = each
    assert exceeds(after_listen, after_accept) and exceeds(after_listen, after_both)
    assert not exceeds(after_both, after_listen)
    assert exceeds(parse("listen: allow\nbind: allow\n").policy, after_listen)
