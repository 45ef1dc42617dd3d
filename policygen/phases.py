"""Split a policy with phases into one policy without phases for each of them, and join these again.

Code that changes a policy with phases changes each of these policies and joins the results; `implied.resolve` says what each
means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from callfence.policygen.model import Always, Entries, Entry, Expression, Or, Phase, Policy, alternatives
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

START = "start"
"""The name of the time before the first phase."""

WAITS = frozenset(
    (
        "accept", "accept4", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "io_getevents", "io_pgetevents",
        "io_uring_enter", "msgrcv", "mq_timedreceive", "pause", "poll", "ppoll", "pselect6", "recvfrom", "recvmsg", "recvmmsg",
        "rt_sigsuspend", "rt_sigtimedwait", "select", "_newselect", "semop", "semtimedop", "sigsuspend", "wait4", "waitid",
        "waitpid",
    )
)  # fmt: skip
"""Calls in which a server waits for work; a trigger should be one of them."""


def phase_policies(policy: Policy) -> tuple[tuple[str, Policy], ...]:
    """Return the name and the policy, without phases, of each phase, START first; START alone without phases."""
    if not policy.phases:
        return ((START, policy),)
    policies = policy.memo.get("phases")
    if not isinstance(policies, tuple):
        later = ((phase.name, replace(policy, entries=phase.entries, phases=())) for phase in policy.phases)
        policies = policy.memo["phases"] = ((START, replace(policy, phases=())), *later)
    return policies


def in_phase(policy: Policy, name: str) -> Policy:
    """Return the policy, without phases, of the phase `name`.  Raises ValueError if there is no such phase."""
    for phase, written in phase_policies(policy):
        if phase == name:
            return written
    names = ", ".join(phase for phase, _ in phase_policies(policy))
    raise ValueError(f"no phase is named {name}; the phases are {names}")


def as_in(policy: Policy, name: str) -> Policy:
    """Return the policy, without phases, of the phase `name`, or that of START if there is no such phase."""
    policies = dict(phase_policies(policy))
    return policies.get(name, policies[START])


def names_of(*policies: Policy) -> tuple[str, ...]:
    """Return the names of the phases, without START, that any of the policies has, in the order of first appearance."""
    return tuple(dict.fromkeys(phase.name for policy in policies for phase in policy.phases))


def in_each(work: Callable[..., Policy], *policies: Policy, phases: Sequence[Phase] | None = None) -> Policy:
    """Apply `work` to the policies of each phase that at least one of `policies` has, and join the results into one policy with
    phases.

    `work` takes one policy without phases for each of `policies`.  `phases` are the phases of the result, by default those of
    the policies.  Exceptions of `work` are passed on."""
    phases_by_name = {phase.name: phase for policy in reversed(policies) for phase in policy.phases}
    whole = tuple(phases_by_name[name] for name in names_of(*policies)) if phases is None else tuple(phases)
    results = [work(*(as_in(policy, name) for policy in policies)) for name in (START, *(phase.name for phase in whole))]
    return with_phases(results, whole)


def in_each_reached(work: Callable[..., Policy], *policies: Policy) -> Policy:
    """Do the same for `work` that allows no more than each of the policies: in each phase it takes each policy as in the last
    phase that a process may have reached by then.

    A phase begins at the calls at which it begins in any of the policies; a call that begins several begins the last of them,
    which takes away what those before take away.  Exceptions of `work` are passed on."""
    names = names_of(*policies)
    each = [(phase.name, trigger) for name in names for policy in policies for phase in policy.phases if phase.name == name
            for trigger in phase.triggers]
    begins = {trigger: name for name, trigger in each}
    phases, results = [], [work(*(as_in(policy, START) for policy in policies))]
    for end, name in enumerate(names, 1):
        if triggers := tuple(sorted(trigger for trigger, begun in begins.items() if begun == name)):
            phases.append(Phase(name, triggers, {}))
            last = [next((each for each in reversed(names_of(policy)) if each in names[:end]), START) for policy in policies]
            results.append(work(*map(as_in, policies, last)))
    return with_phases(results, phases)


def with_phases(policies: Sequence[Policy], phases: Sequence[Phase]) -> Policy:
    """Join policies, one for each phase, into one policy with phases: `policies` has that of START first, then one for each of
    `phases`.

    The settings are those of the first policy.  A phase whose entries equal those of the phase before it is left out: that one
    begins at its calls, too."""
    first, *later = policies
    remaining, before = [], first.entries
    for phase, policy in zip(phases, later, strict=True):
        if policy.entries != before:
            remaining.append(replace(phase, entries=policy.entries))
            before = policy.entries
        elif remaining:
            remaining[-1] = replace(remaining[-1], triggers=tuple(sorted({*remaining[-1].triggers, *phase.triggers})))
    return replace(first, phases=tuple(remaining))


def within_start(policy: Policy) -> Policy:
    """Return the policy with each phase reduced to what the entries of START allow."""
    phases = []
    for phase in policy.phases:
        entries: dict[Arch, dict[int, Entry]] = {arch: {} for arch in policy.entries}
        for arch, number, entry in policy.each():
            now = phase.entries.get(arch, {}).get(number)
            if now in (None, entry, reached(entry, ())):
                reduced = now
            elif (now.action, now.otherwise) != (entry.action, entry.otherwise):
                reduced = entry
            else:
                parts = alternatives(now.expression)
                is_whole = entry.expression == Always(True)
                reduced = reached(entry, [part for part in parts if is_whole or part in alternatives(entry.expression)])
            if reduced is not None:
                entries[arch][number] = reduced
        phases.append(replace(phase, entries=entries))
    return replace(policy, phases=tuple(phases))


def reached(before: Entry | None, rules: Sequence[Expression]) -> Entry | None:
    """Return `before` with only the alternatives `rules`.  Without rules: an entry that gives every call `before.otherwise`, or
    None if `before` has none.  None if `before` is None."""
    if before is None:
        return None
    if rules:
        return replace(before, expression=Or.of(rules))
    return None if before.otherwise is None else Entry(Always(True), before.otherwise)


def marked(entries: Sequence[Entry | None]) -> tuple[tuple[Expression, int], ...]:
    """Return the alternatives of one call, each with the index of the first entry that lacks it, or the number of entries if
    none lacks it.  `entries` are the call's entries in all phases, START's first; None if a phase has no entry.

    In normal form, each entry has every alternative of the next entry, unless it always holds."""
    last: dict[Expression, int] = {}
    for number in range(len(entries), 0, -1):
        entry = entries[number - 1]
        first = entries[0]
        if entry is not None and (first is None or entry.action == first.action):  # else only the first one's `else` is left
            for part in alternatives(entry.expression):
                last.setdefault(part, number)
    order = dict.fromkeys(part for entry in entries if entry for part in alternatives(entry.expression))
    return tuple((part, last[part]) for part in order if part in last)


def covering(before: Entries, after: Phase) -> dict[Arch, dict[int, Entry]]:
    """Return the entries `before` a phase, extended to allow everything that the phase `after` allows.  Raises ValueError if
    one entry cannot express that for some call."""
    entries = {arch: dict(section) for arch, section in before.items()}
    for arch, number, entry in after.each():
        entries.setdefault(arch, {})[number] = _covering(entries[arch].get(number), entry)
    return entries


def _covering(before: Entry | None, after: Entry) -> Entry:
    if before is None or before == after:
        return after
    if after == Entry(Always(True), before.otherwise or after.action):
        return before if before.otherwise else after
    if (before.action, before.otherwise) != (after.action, after.otherwise):
        raise ValueError("a phase and the one before deny a call in different ways")
    return replace(before, expression=Or((before.expression, after.expression)))
