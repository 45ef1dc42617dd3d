"""Comparing and reducing policies: the result is right for every call, and every difference is found."""

from __future__ import annotations

import oracle
import pytest
import strategies
from calls import at, parse, point_of
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import Change, Verdict, compare
from callfence.policygen.comparing.reducing import reduce
from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.naming import format_call, format_entry, format_expression
from callfence.policygen.model import Policy, strictest
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import TRUE
from callfence.tracer.abi import Arch, Event, table

X86_64 = Arch.X86_64
often = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def policy(text: str) -> Policy:
    return parse(text).policy


def freedom(policy: Policy, event: Event) -> int:
    kind = evaluate(policy, event).kind
    return {"allow": 2, "log": 2, "notify": 1}.get(kind, 0)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """Two policies that have calls in common."""
    one, other = draw(strategies.policies()), draw(strategies.policies())
    shared = {
        arch: {**other.entries.get(arch, {}), **dict(draw(st.lists(st.sampled_from(sorted(entries.items(), key=str)))))}
        for arch, entries in one.entries.items()
        if entries and one.table == other.table
    }
    return one, Policy({**other.entries, **shared}, other.table, other.arm, other.default, other.unknown)


@often
@given(pairs(), st.data())
def test_every_difference_is_found(both: tuple[Policy, Policy], data: st.DataObject) -> None:
    old, new = both
    comparison = compare(old, new)
    for one in comparison.differences:
        assert (evaluate(old, one.example), evaluate(new, one.example)) == (one.before, one.after)
        assert one.region and region.example(*one.region, one.arch, one.example.number) == one.example
        gained = freedom(new, one.example) - freedom(old, one.example)
        assert one.change == (Change.MORE if gained > 0 else Change.LESS if gained else Change.OTHER)
    for chosen in both:
        event = data.draw(strategies.events(chosen))
        before, after = evaluate(old, event), evaluate(new, event)
        if before != after:
            arch = Arch.from_audit(event.arch)
            found = [
                one
                for one in comparison.differences
                if (one.arch, one.before, one.after) == (arch, before, after) and one.number in (event.number, None)
            ]
            sets = [one.region for one in found if one.region and one.number is not None]
            assert found and all(at(one.space, one.where, point_of(event)) == TRUE for one in sets)


@pytest.mark.long
@often
@given(pairs())
def test_z3_agrees(both: tuple[Policy, Policy]) -> None:
    old, new = both
    changes = {one.change for one in compare(old, new).differences}
    assert (Change.MORE in changes) == oracle.gained(old, new)
    assert (Change.LESS in changes) == oracle.gained(new, old)


@often
@given(strategies.policies())
def test_a_policy_is_equal_to_itself(one: Policy) -> None:
    assert not compare(one, one).differences
    assert compare(one, one).verdict is Verdict.EQUAL


@pytest.mark.long
@often
@given(pairs())
def test_the_other_direction_gives_the_opposite_differences(both: tuple[Policy, Policy]) -> None:
    old, new = both
    opposite = {Verdict.WIDER: Verdict.NARROWER, Verdict.NARROWER: Verdict.WIDER}
    verdict = compare(old, new).verdict
    assert compare(new, old).verdict is opposite.get(verdict, verdict)


@often
@given(pairs())
def test_rules_are_exactly_the_calls_of_the_difference(both: tuple[Policy, Policy]) -> None:
    old, new = both
    for one in compare(old, new).differences:
        if one.number is None or not one.rules:
            continue
        space = region.space()
        arguments = table(one.arch).by_number[one.number].arguments
        where = 0
        for rule in one.rules:
            where = space.or_(where, region.to_bdd(space, rule, arguments))
        point = space.difference(0, where)
        assert point is not None
        event = Event(one.arch.audit, one.number, region.event(point).arguments)
        assert (evaluate(old, event), evaluate(new, event)) == (one.before, one.after)


@pytest.mark.parametrize(
    ("old", "new", "verdict", "rows"),
    [
        ("read: allow", "# why not\nread:   1", "equal", []),
        ("read: fd == 1 || fd == 2", "read: fd in {2, 1}", "equal", []),
        ("read: fd == 1", "read: fd == 1\nwrite: allow", "wider", ["+ write: allow | write(fd=0, buf=NULL, count=0)"]),
        ("read: allow", "read: fd == 3", "narrower", ["- read: fd != 3 | read(fd=0, buf=NULL, count=0)"]),
        (
            "dup: fildes == 1",
            "dup: fildes == 2",
            "incomparable",
            ["+ dup: fildes == 2 | dup(fildes=2)", "- dup: fildes == 1 | dup(fildes=1)"],
        ),
        ("dup: errno EPERM", "dup: errno EBUSY", "different", ["~ dup: allow | dup(fildes=0)"]),
        (
            "mmap: flags in MAP_SHARED|MAP_FIXED",
            "mmap: flags in MAP_SHARED|MAP_FIXED|MAP_LOCKED",
            "wider",
            [
                "+ mmap: flags has MAP_LOCKED && flags in MAP_SHARED|MAP_FIXED|MAP_LOCKED"
                " | mmap(addr=0, len=0, prot=PROT_NONE, flags=MAP_LOCKED, fd=0, off=0)"
            ],
        ),
    ],
)
def test_differences_and_verdict(old: str, new: str, verdict: str, rows: list[str]) -> None:
    comparison = compare(policy(old), policy(new))
    assert comparison.verdict == verdict
    assert [
        f"{one.change.value} {table(one.arch).by_number[one.number].name}: "
        f"{' || '.join(format_expression(one.arch, one.number, rule) for rule in one.rules)} | {format_call(one.example)}"
        for one in comparison.differences
        if one.number is not None
    ] == rows


@pytest.mark.parametrize(
    ("old", "new", "examples"),
    [
        ("default kill\n", "default errno EPERM\n", [0]),
        ("table 6.1\n", "table 6.18\n", [451]),
        ("unknown errno ENOSYS\n", "unknown kill\n", [470]),
        ("arch x86_64\n", "arch i386\n", []),
        ("arch x86_64\nunknown kill\n", "arch i386\nunknown kill\n", []),
        ("default allow\n", "arch i386\ndefault allow\n", [0, 470, 0, 470]),
    ],
)
def test_calls_that_neither_names(old: str, new: str, examples: list[int]) -> None:
    found = compare(policy(old), policy(new)).differences
    running = [one for one in found if one.before.may_allow or one.after.may_allow or examples]
    assert [one.example.number for one in running if one.number is None][: len(examples)] == examples


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [("arm exec", "arm entry", "wider"), ("arm exec", "arm now", "narrower"), ("", "arm exec", "equal")],
)
def test_taking_effect_later_is_wider(old: str, new: str, verdict: str) -> None:
    assert compare(policy(old), policy(new)).verdict == verdict


# Reducing


@often
@given(pairs(), st.data())
def test_a_reduced_policy_allows_what_both_allow(both: tuple[Policy, Policy], data: st.DataObject) -> None:
    one, by = both
    try:
        made = reduce(one, by)
    except ValueError:
        return
    assert compare(one, made).verdict not in (Verdict.WIDER, Verdict.INCOMPARABLE)
    event = data.draw(strategies.events(data.draw(st.sampled_from(both))))
    arch = Arch.from_audit(event.arch)
    before, other, after = (evaluate(policy, event) for policy in (one, by, made))
    if arch is None or event.number not in by.entries.get(arch, {}):
        assert after == before
    elif before.may_allow and other.may_allow:
        assert after == strictest((before, other))
    else:
        assert not after.may_allow


@pytest.mark.parametrize(
    ("one", "by", "entry"),
    [
        ("mmap: allow", "sys_mmap: 0", "mmap: deny"),
        ("read: allow", "read: fd == 1", "read: fd == 1"),
        ("read: fd <= 9", "read: fd <= 5", "read: fd <= 5"),
        ("read: fd == 1 || fd == 2", "read: fd == 2 || fd == 3", "read: fd == 2"),
        ("read: fd == 1", "default errno EPERM", "read: fd == 1"),
        ("read: fd == 1", "read: allow", "read: fd == 1"),
        ("read: allow", "read: errno EPERM", "read: errno EPERM"),
        ("read: allow", "read: fd == 1 else errno EPERM", "read: fd == 1 else errno EPERM"),
        ("read: fd == 1 else errno EPERM", "read: fd == 2", "read: errno EPERM if !(fd == 1)"),
        ("kill: sig == SIGTERM", "kill: pid == 5", "kill: pid == 5 && sig == SIGTERM"),
        ("read: log", "read: fd == 1", "read: log if fd == 1"),
        ("default allow\nread: kill if fd == 9", "default errno EPERM\nread: fd <= 8", "read: fd <= 8 else kill"),
    ],
)
def test_reduced(one: str, by: str, entry: str) -> None:
    made = reduce(policy(one), policy(by))
    assert [format_entry(X86_64, number, entry) for number, entry in made.entries[X86_64].items()] == [entry]


def test_a_newer_call_that_the_table_lets_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="newer than the table"):
        reduce(policy("table 6.1\nunknown allow\n"), policy("cachestat: deny"))
