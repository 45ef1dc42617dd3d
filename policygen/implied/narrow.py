"""A policy with an implied set that allows less than the set gives: what is to be denied is written explicitly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.implied.expand import expanded
from policygen.model import Always, Entry, Policy
from policygen.sets.algebra import FALSE
from policygen.sets.region import space, truth
from policygen.values import replace
from tracer.abi import table

if TYPE_CHECKING:
    from policygen.model import Action
    from tracer.abi import Arch


def narrowed(policy: Policy, meant: Policy) -> Policy:
    """Return the policy, with its implied set, changed as little as it takes to mean what `meant` says by its entries.

    `meant` has no implied set, the same defaults, and allows no call that `expanded(policy)` does not."""
    result = replace(meant, implied=policy.implied, entries={arch: dict(policy.entries[arch]) for arch in meant.entries})
    while different := _different(expanded(result), meant):
        entries = {arch: dict(section) for arch, section in result.entries.items()}
        for arch, number in different:
            entry = meant.entries[arch].get(number)
            if entry is None:
                entries[arch][number] = Entry(Always(False))
            elif isinstance(entry.expression, Always):
                entries[arch][number] = entry
            else:
                entries[arch][number] = replace(entry, otherwise=entry.otherwise or meant.default)
        after = replace(result, entries=entries)
        if after == result:
            raise AssertionError("an entry that denies explicitly is not what it says")
        result = after
    return result


def _different(one: Policy, other: Policy) -> list[tuple[Arch, int]]:
    """Return the calls that two policies without implied sets and with the same defaults answer differently."""
    found = []
    for arch, section in other.entries.items():
        for number in dict.fromkeys((*one.entries[arch], *section)):
            a, b = one.entries[arch].get(number), section.get(number)
            if a != b and not _same(arch, number, a, b, other):
                found.append((arch, number))
    return found


def _same(arch: Arch, number: int, a: Entry | None, b: Entry | None, policy: Policy) -> bool:
    """Return whether two entries, None for none, answer every call alike."""
    sets, arguments = space(), table(arch).by_number[number].arguments
    answers: list[dict[Action, int]] = []
    for entry in (a or Entry(Always(False)), b or Entry(Always(False))):
        holds = truth(sets, entry.expression, arguments)
        found: dict[Action, int] = {}
        for where, action in ((holds, entry.action), (sets.invert(holds), entry.otherwise or policy.default)):
            if where != FALSE:
                found[action] = sets.either(where, found.get(action, FALSE))
        answers.append(found)
    return answers[0] == answers[1]
