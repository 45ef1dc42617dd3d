"""Learning inside a baseline: a policy that others have committed, and that what is learned must not exceed."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from policygen.implied.expand import expanded
from policygen.implied.narrow import narrowed
from policygen.language.normal import normal
from policygen.learning.extend import DEFAULTS
from policygen.learning.generate import Generated, New, generate
from policygen.learning.known import sort_out
from policygen.model import KILL, Action, ActionKind, Always, Entry, Policy, alternatives
from policygen.sets.compare import Change, compare
from policygen.sets.reduce import reduce
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policygen.language.document import Document
    from policygen.learning.extend import Options
    from policygen.model import Arm
    from policygen.recording.observation import Observation


def generate_within(
    observations: Iterable[Observation],
    existing: Document | None,
    base: Policy,
    *,
    name: str,
    options: Options = DEFAULTS,
    arm: Arm | None = None,
) -> Generated:
    """`generate`, and then what the baseline does not allow taken out: of what is new, and of what was there.

    A call that was made, and that the baseline fails with an error whatever its arguments, fails so in the policy too.
    Raises what `generate` does, and ValueError for a policy that cannot be reduced to the baseline.
    """
    ordered = sorted(observations, key=lambda one: one.order)
    against = set(forbidden(ordered, base))
    generated = generate((one for one in ordered if one not in against), existing, name=name, options=options, arm=arm)
    policy = _with_errors(within(generated.document.policy, base), against, base)
    document = generated.document if policy == generated.document.policy else generated.document.with_policy(policy)
    new = tuple(filter(None, (_new(one, policy, existing) for one in generated.new)))
    return replace(generated, document=document, new=new)


def forbidden(observations: Iterable[Observation], base: Policy) -> list[Observation]:
    """The observations, which must be in their order, of which the baseline does not allow all that they stand for."""
    found: list[Observation] = []
    base = expanded(base)
    for (audit, number), group in groupby(observations, key=lambda one: (one.arch, one.number)):
        arch, seen = Arch.from_audit(audit), list(group)
        if arch is None or number not in table(arch).by_number:
            continue  # a gap, which no policy can allow
        calls = table(arch)
        entry = base.entries.get(arch, {}).get(number)
        known = sort_out(entry, _unnamed(base, arch, number), [one.fitted(calls) for one in seen], calls)
        against = {one.key for one in (*known.new, *known.refused)}
        found += [one for one in seen if one.fitted(calls).key in against]
    return found


def within(policy: Policy, base: Policy) -> Policy:
    """The policy, less what the baseline does not allow.  What it forbids meets the action that the baseline writes for
    the call, else the policy's default.

    Unlike `reduce`, calls that the baseline does not name are forbidden as well, if its default stops them.  Raises
    ValueError if the policy's own default lets run what the baseline's stops.
    """
    if policy.implied:
        return narrowed(policy, within(expanded(policy), base))
    base = expanded(base)
    if policy.default.may_run and not base.default.may_run:
        raise ValueError("its default lets calls run that the baseline's stops: write `default kill`, or `errno`")
    entries = {
        arch: {n: one for n, one in section.items() if n in base.entries.get(arch, {}) or _unnamed(base, arch, n).may_run}
        for arch, section in policy.entries.items()
        if arch in base.entries
    }
    unknown = policy.unknown if base.unknown.may_run or not policy.unknown.may_run else base.unknown
    return _reduced(replace(policy, entries=entries or {arch: {} for arch in policy.entries}, unknown=unknown), base)


def _with_errors(policy: Policy, against: Iterable[Observation], base: Policy) -> Policy:
    """With the error that the baseline answers all of a call with, where the policy says nothing of one that was made."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    for one in against:
        arch = Arch.from_audit(one.arch)
        if arch in entries and one.number not in entries[arch] and one.number <= table(arch).newest(policy.table):
            entry = base.entries.get(arch, {}).get(one.number) or Entry(Always(True), _unnamed(base, arch, one.number))
            if entry.expression == Always(True) and entry.action.kind is ActionKind.ERRNO:
                entries[arch][one.number] = entry
    return policy if entries == policy.entries else normal(replace(policy, entries=entries))


def _reduced(policy: Policy, base: Policy) -> Policy:
    """`reduce` by the baseline's entries for calls that the policy has something to say of."""
    relevant: Mapping[Arch, Mapping[int, Entry]] = {
        arch: {n: one for n, one in section.items() if n in policy.entries.get(arch, {}) or policy.default.may_run}
        for arch, section in base.entries.items()
    }
    reduced = reduce(policy, replace(base, entries=relevant))
    kept = {
        arch: {n: one for n, one in section.items() if one != Entry(Always(False)) or policy.entries[arch].get(n) == one}
        for arch, section in reduced.entries.items()
    }
    found = replace(reduced, entries=kept)
    if any(one.change is Change.MORE for one in compare(base, found).differences):
        raise AssertionError("the policy allows more than its baseline")
    return found


def _unnamed(base: Policy, arch: Arch, number: int) -> Action:
    """What the baseline does with a call of which no entry decides."""
    if arch not in base.entries:
        return KILL
    return base.unknown if number > table(arch).newest(base.table) else base.default


def _new(new: New, policy: Policy, existing: Document | None) -> New | None:
    """What is left of something new; None if nothing."""
    entry = policy.entries.get(new.arch, {}).get(new.number)
    old = existing.policy.entries.get(new.arch, {}).get(new.number) if existing else None
    if entry is None or entry == old:
        return None
    before = alternatives(old.expression) if old else ()
    added = tuple(one for one in alternatives(entry.expression) if one not in before)
    return replace(new, entry=entry, alternatives=added) if added else None
