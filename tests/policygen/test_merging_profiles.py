"""Intersections of container profiles: against two simple ways to merge, which are wrong in the cases of docs/kubernetes.md."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import event, format_options, parse_file
from container_profiles import PUBLISHED, SAMPLES, profile, read

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.comparing.reducing import intersect
from callfence.policygen.evaluate import evaluate
from callfence.policygen.formats import exported
from callfence.policygen.implied.resolve import resolved
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.model import Policy

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
X86 = {"architectures": ["SCMP_ARCH_X86_64"]}
VALUES = (0, 1, 2, 3, 8, 9, 10, 16, 17, 40, 1 << 31, (1 << 32) - 1)
CALLS = ("socket", "personality", "clone", "prctl", "keyctl", "mseal")
EVENTS = [event(name, a, 0, c) for name, a, c in product(CALLS, VALUES, (0, 9))]


def rule(name: str, *arguments: tuple[int, str, int] | tuple[int, str, int, int], action: str = "ALLOW") -> dict[str, Any]:
    """An entry of a profile; an argument is (index, operator, value) or, masked, (index, operator, mask, value)."""
    listed = [
        {"index": index, "op": f"SCMP_CMP_{op}", "value": values[0], "valueTwo": values[1] if len(values) > 1 else 0}
        for index, op, *values in arguments
    ]
    return {"names": [name], "action": f"SCMP_ACT_{action}", **({"args": listed} if listed else {})}


def allows(*rules: dict[str, Any], default: str = "ERRNO") -> dict[str, Any]:
    return profile(*rules, default=f"SCMP_ACT_{default}", **X86)


SOCKETS = [rule("socket", (0, "EQ", family)) for family in (1, 2, 10)]
CASES = {
    "several entries against none": (allows(*SOCKETS), allows(rule("socket"))),
    "none against several entries": (allows(rule("socket")), allows(*SOCKETS)),
    "several entries on both sides": (allows(*SOCKETS), allows(rule("socket", (0, "EQ", 2)), rule("socket", (0, "EQ", 16)))),
    "different arguments": (allows(rule("socket", (0, "NE", 16))), allows(rule("socket", (2, "NE", 9)))),
    "ranges that overlap": (allows(rule("prctl", (0, "GE", 2))), allows(rule("prctl", (0, "LT", 10)))),
    "bits against values": (
        allows(rule("clone", (0, "MASKED_EQ", 1, 0))),
        allows(rule("clone", (0, "EQ", 2)), rule("clone", (0, "EQ", 3))),
    ),
    "a list of what is denied": (
        allows(rule("keyctl", action="ERRNO"), rule("socket", (0, "EQ", 16), action="ERRNO"), default="ALLOW"),
        allows(rule("keyctl"), rule("socket")),
    ),
    "a call that one does not name": (allows(rule("keyctl")), allows(rule("keyctl"), rule("personality"))),
    "conditions that exclude each other": (allows(rule("clone", (0, "EQ", 8))), allows(rule("clone", (0, "EQ", 0)))),
}


def by_name(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What a merge makes that keeps the second profile's entries of the calls that both name."""
    named = {name for each in base["syscalls"] for name in each["names"]}
    return {**other, "syscalls": [each for each in other["syscalls"] if named & {*each["names"]}]}


def by_entry(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What a merge makes that has one entry for a call, the last one, and joins the conditions of both profiles."""
    last, others = ({each["names"][0]: each for each in profile["syscalls"]} for profile in (base, other))
    both = [
        {**each, "args": [*last[name].get("args", ()), *each.get("args", ())]} for name, each in others.items() if name in last
    ]
    return {**other, "syscalls": both}


def verdict_of(merged: Policy, base: Policy, other: Policy) -> str:
    """How a merge answers the calls of EVENTS: `exact`, `unsound` if it allows one that an input denies, `too narrow`."""
    wrong = set()
    for one in EVENTS:
        found, right = (evaluate(merged, one).may_allow, all(evaluate(each, one).may_allow for each in (base, other)))
        if found != right:
            wrong.add("unsound" if found else "too narrow")
    return " and ".join(sorted(wrong, reverse=True)) or "exact"


def rows() -> dict[str, tuple[str, ...]]:
    table_ = {}
    for name, (base, other) in CASES.items():
        a, b = read(base).policy, read(other).policy
        ways = (read(by_name(base, other)).policy, read(by_entry(base, other)).policy, intersect(a, b))
        table_[name] = tuple(verdict_of(way, a, b) for way in ways)
    return table_


@pytest.mark.long
def test_the_page_says_what_simple_merges_do() -> None:
    found = rows()
    assert all(row[2] == "exact" for row in found.values())
    assert {word for row in found.values() for word in row} >= {"unsound", "too narrow", "exact"}
    lines = [f"| {name} | {' | '.join(row)} |" for name, row in found.items()]
    assert "\n".join(lines) in PAGE.read_text()


@pytest.mark.long
@pytest.mark.parametrize("base", PUBLISHED, ids=lambda file: file.stem)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda file: file.stem)
def test_with_the_profiles_that_runtimes_publish(base: Path, sample: Path) -> None:
    """Held against calls of each name with arguments drawn by chance, half of them from the conditions' own values."""
    first, second = read(base.read_bytes()).policy, parse_file(sample).policy
    both = intersect(first, second)
    assert compare(first, both).verdict in (Verdict.NARROWER, Verdict.EQUAL, Verdict.DIFFERENT)
    assert compare(second, both).verdict in (Verdict.NARROWER, Verdict.EQUAL, Verdict.DIFFERENT)
    chance = random.Random(f"{base.stem} {sample.stem}")
    allowed = 0
    for name in table(Arch.X86_64).by_name:
        for _ in range(4):
            one = event(name, *(chance.choice((*VALUES, chance.getrandbits(64))) for _ in range(6)))
            expected = evaluate(first, one).may_allow and evaluate(second, one).may_allow
            assert evaluate(both, one).may_allow == expected, one
            allowed += expected
    assert allowed > (5 if base.stem != "docker-conditional" else -1)  # whose conditions chance does not meet


@pytest.mark.long
@pytest.mark.parametrize("base", PUBLISHED, ids=lambda file: file.stem)
def test_a_profile_is_written_again(base: Path) -> None:
    """The way of a node: read both, intersect, write a profile; it allows no more than what was intersected."""
    first, second = read(base.read_bytes()).policy, parse_file(SAMPLES[0]).policy
    written = exported("oci", intersect(first, second), format_options(runtime="crun"), "start")
    again = read(json.loads(written.data)).policy
    named = {table(Arch.X86_64).by_name[addition.call].number for addition in written.additions}
    more = [
        difference
        for difference in compare(intersect(first, second), again).differences
        if difference.change == "+" and difference.number not in named and difference.arch is Arch.X86_64
    ]
    assert not more
    assert resolved(again).entries[Arch.X86_64]
