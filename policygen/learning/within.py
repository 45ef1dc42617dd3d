"""Learn within an upper bound: a committed policy, the baseline, that the learned policy must not exceed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from callfence.policygen.comparing.compare import Change, compare, compare_resolved
from callfence.policygen.comparing.reducing import reduce_resolved
from callfence.policygen.evaluate import unnamed
from callfence.policygen.implied.resolve import Resolved, narrowed, resolved, tidy
from callfence.policygen.language.document import Document
from callfence.policygen.language.normal import normal
from callfence.policygen.learning.extend import DEFAULTS, Options, sort_out
from callfence.policygen.learning.floor import OPAQUE
from callfence.policygen.learning.generate import Generated, New, generate
from callfence.policygen.model import ENOSYS, KILL, Action, ActionKind, Always, Arm, Entry, Policy, alternatives
from callfence.policygen.recording.fold import arguments_given_up
from callfence.policygen.recording.model import Observation
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, name_of, table, table_of

MAX_DENIALS = 16
"""The most calls that a policy with an implied set may have to deny because its baseline does.  Container profiles take 1 to 8,
depending on their age, and a baseline that was learned without a set takes 120."""


def generate_within(
    observations: Iterable[Observation],
    existing: Document | None,
    base: Policy,
    *,
    name: str,
    options: Options = DEFAULTS,
    arm: Arm | None = None,
) -> Generated:
    """Generate the policy, and remove what the baseline does not allow, from the new rules and from the existing ones.

    A call that was made, and that the baseline fails with an errno whatever its arguments, gets this errno in the policy too.
    The policy has an implied set only if the baseline `has_room` for it; otherwise the existing policy's set is replaced by
    entries.  Raises what `generate` does, and ValueError for a policy that cannot be reduced to the baseline."""
    ordered = sorted(observations, key=lambda observation: observation.order)
    denied = forbidden(ordered, base)
    against = set(denied)
    options = options._replace(implied=options.implied if has_room(base, options.implied) else 0)
    start = existing
    if existing is not None and not has_room(base, existing.policy.implied):
        start = existing.with_policy(within(existing.policy, base))
    learned = (observation for observation in ordered if observation not in against or _is_given_up(observation))
    generated = generate(learned, start, name=name, options=options, arm=arm)
    policy = within(generated.document.policy, base, against)
    document = generated.document if policy == generated.document.policy else generated.document.with_policy(policy)
    new = tuple(filter(None, (_new(observation, policy, existing) for observation in generated.new)))
    return generated._replace(document=document, new=new, forbidden=tuple(denied))


def _is_given_up(observation: Observation) -> bool:
    """Return whether an argument's values are no longer recorded; then all that the baseline allows of the call is allowed."""
    calls = table_of(observation.arch, observation.number)
    return calls is not None and bool(arguments_given_up(observation, calls))


def has_room(base: Policy, version: int) -> bool:
    """Return whether an implied set fits within a baseline: the baseline has one itself, or allows nearly all that the set
    would add.

    Otherwise a policy with the set would need more entries to deny calls than one without.  Only the baseline's first
    architecture is checked."""
    if not version or base.implied:
        return True
    key = f"room for implied {version}"
    if key not in base.memo:
        main = next(arch for arch in Arch if arch in base.entries)
        alone = replace(base, entries={main: base.entries[main]})
        differences = compare(alone, replace(alone, implied=version)).differences
        base.memo[key] = (
            len({difference.number for difference in differences if difference.change is Change.MORE}) <= MAX_DENIALS
        )
    return base.memo[key] is True


def forbidden(observations: Iterable[Observation], base: Policy) -> list[Observation]:
    """Return the observations of which the baseline does not allow every call; `observations` must be in their order."""
    result: list[Observation] = []
    limit = resolved(base)
    for (audit, number), group in groupby(observations, key=lambda observation: (observation.arch, observation.number)):
        calls, observed = table_of(audit, number), list(group)
        if calls is None:
            continue  # a gap, which no policy can allow
        arch = calls.arch
        entry = limit.entries.get(arch, {}).get(number)
        judged = sort_out(entry, _unnamed(limit, arch, number), [observation.fitted(calls) for observation in observed], calls)
        against = {observation.key for observation in (*judged.new, *judged.refused)}
        result += [observation for observation in observed if observation.fitted(calls).key in against]
    return result


def within(policy: Policy, base: Policy, observations: Iterable[Observation] = ()) -> Policy:
    """Return the policy without what the baseline does not allow.  A forbidden call gets the action that the baseline writes
    for it, else the policy's default; a forbidden call of `observations` gets the baseline's error.

    Unlike in `reduce`, calls that the baseline does not name are forbidden as well, if its default denies them.  Raises
    ValueError if the policy's default allows calls that the baseline's denies."""
    if not has_room(base, policy.implied):
        policy = tidy(resolved(policy).written())
    limit = resolved(base)
    meant = _with_errors(_cut(resolved(policy), limit), observations, limit)
    return normal(
        narrowed(policy, meant)
        if policy.implied
        else replace(policy, entries=meant.entries, unknown=meant.unknown, files=meant.files)
    )


def _cut(policy: Resolved, base: Resolved) -> Resolved:
    """Return what `within` does, for two resolved policies."""
    if policy.default.may_allow and not base.default.may_allow:
        raise ValueError("the policy's default allows calls that its baseline denies: write `default kill`")

    def limited(arch: Arch, number: int, entry: Entry) -> Entry | None:
        has_limit = number in base.entries.get(arch, {}) or _unnamed(base, arch, number).may_allow
        return entry if has_limit or not entry.may_run(policy.default) else None

    entries = {arch: section for arch, section in policy.changed(limited).entries.items() if arch in base.entries}
    unknown = policy.unknown if base.unknown.may_allow or not policy.unknown.may_allow else base.unknown
    return _reduced(replace(policy, entries=entries or {arch: {} for arch in policy.entries}, unknown=unknown), base)


def _with_errors(policy: Resolved, against: Iterable[Observation], base: Resolved) -> Resolved:
    """Return the policy with the baseline's error for each observed call that the baseline fails whatever its arguments and the
    policy has no entry for.  An opaque call fails with ENOSYS, the only error after which programs use another call."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    for observation in against:
        arch = Arch.from_audit(observation.arch)
        if (
            arch in entries
            and observation.number not in entries[arch]
            and not table(arch).is_newer(observation.number, policy.table)
        ):
            entry = base.entries.get(arch, {}).get(observation.number) or Entry(
                Always(True), _unnamed(base, arch, observation.number)
            )
            if entry.expression == Always(True) and entry.action.kind is ActionKind.ERRNO:
                hidden = name_of(arch, observation.number) in OPAQUE
                entries[arch][observation.number] = Entry(Always(True), ENOSYS) if hidden else entry
    return replace(policy, entries=entries)


def _reduced(policy: Resolved, base: Resolved) -> Resolved:
    """Return the policy reduced by the baseline's entries for the calls that the policy has entries for."""
    relevant: Mapping[Arch, Mapping[int, Entry]] = {
        arch: {n: entry for n, entry in section.items() if n in policy.entries.get(arch, {}) or policy.default.may_allow}
        for arch, section in base.entries.items()
    }
    reduced = reduce_resolved(policy, replace(base, entries=relevant))
    entries = {
        arch: {
            n: entry for n, entry in section.items() if entry != Entry(Always(False)) or policy.entries[arch].get(n) == entry
        }
        for arch, section in reduced.entries.items()
    }
    result = replace(reduced, entries=entries)
    if any(difference.change is Change.MORE for difference in compare_resolved(base, result).differences):
        raise AssertionError("the policy allows more than its baseline")
    return result


def _unnamed(base: Resolved, arch: Arch, number: int) -> Action:
    """Return the baseline's action for a call without an entry."""
    return unnamed(base, arch, number) if arch in base.entries else KILL


def _new(new: New, policy: Policy, existing: Document | None) -> New | None:
    """Return what the reduced policy still allows of a new entry; None if nothing."""
    entry = policy.entries.get(new.arch, {}).get(new.number)
    old = existing.policy.entries.get(new.arch, {}).get(new.number) if existing else None
    if entry is None or entry == old:
        return None
    before = alternatives(old.expression) if old else ()
    added = tuple(rule for rule in alternatives(entry.expression) if rule not in before)
    return new._replace(entry=entry, alternatives=added) if added else None
