"""The proof that a filter is equivalent to its policy."""

from __future__ import annotations

from callfence.policygen.evaluate import answer
from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.filter.listener import may_install_filters
from callfence.policygen.filter.symbolic import decisions
from callfence.policygen.implied.resolve import Resolved, resolved
from callfence.policygen.model import KILL, Action, ActionKind, Entry, Policy
from callfence.policygen.sets import region
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Event, name_of
from callfence.tracer.linux import OPAQUE

NOTIFY = Action(ActionKind.NOTIFY)


def verify(program: bytes, policy: Policy, *, report: bool = False, audit: bool = False) -> Event | None:
    """Return None if the filter takes the action of `evaluate` on every input; else an event for which the two
    differ.  With `report`, the filter must take the actions of `reported` instead, and `audit` is passed to that function.

    The event may be one that no kernel produces, such as an i386 call with a 1 bit in the upper half of a register: the filter
    has to equal the policy there too.  Raises InvalidProgramError if the kernel would not load the filter, and
    symbolic.UnsupportedError or algebra.TooComplexError if it cannot be followed: nothing is proved then."""
    return verify_resolved(program, resolved(policy), report=report, audit=audit)


def verify_resolved(program: bytes, policy: Resolved, *, report: bool = False, audit: bool = False) -> Event | None:
    """Verify the filter of one phase of a policy, as `verify` does."""
    meant, refused = meaning(policy, report=report, audit=audit)
    space = region.space()
    assignment = space.difference(symbolic.function(space, program), decisions(space, meant, refused))
    if assignment is None:
        return None
    event = region.event(assignment)
    if symbolic.meaning(bpf.run(program, event)) == bpf.ret(_answer(meant, event, refused)):
        raise AssertionError(f"the proof and the reference semantics disagree about {event}")
    return event


def _answer(policy: Resolved, event: Event, refused: Action) -> Action:
    arch = Arch.from_audit(event.arch)
    foreign = arch is None or arch not in policy.entries
    x32 = arch is not None and arch.is_x32(event.number)
    return refused if foreign or x32 else answer(policy, event)


def meaning(policy: Resolved, *, report: bool, audit: bool = False) -> tuple[Resolved, Action]:
    """Return the policy whose actions the filter must take, and the filter's action for calls of other architectures and x32
    calls.  The policy is `policy` itself, or with `report` the result of `reported`."""
    refused = NOTIFY if report and (audit or not kills_itself(policy)) else KILL
    return (reported(policy, audit=audit) if report else policy), refused


def kills_itself(policy: Resolved) -> bool:
    """Return whether denied calls kill the program in the kernel, without notifying a supervisor.

    That is so if the policy kills and the program may install filters: a filter that fails a call would take precedence over a
    notification, but not over a kill (seccomp(2))."""
    return any(action.kind is ActionKind.KILL for action in (policy.default, *policy.actions())) and may_install_filters(policy)


def reported(policy: Resolved, *, audit: bool = False) -> Resolved:
    """Return the policy with denials replaced by `notify`, so that a supervisor can report them, or with `audit` allow them.

    What kills becomes `notify`, unless the policy `kills_itself`, and a default that fails calls; entries that fail or trap
    calls are unchanged, since that is expected of the program, and a default that traps, because no supervisor can raise that
    signal.  With `audit` all of these become `notify`, and calls that the implied set fails; but not those that learning fails
    as well, as calls newer than the table."""
    kills = {ActionKind.KILL} if audit or not kills_itself(policy) else set[ActionKind]()
    of_entries = kills | ({ActionKind.ERRNO, ActionKind.TRAP} if audit else set())

    def changed(arch: Arch, number: int, entry: Entry) -> Entry:
        if (arch, number) in policy.added and name_of(arch, number) in OPAQUE:
            return entry
        otherwise = entry.otherwise and _notified(entry.otherwise, of_entries)
        return replace(entry, action=_notified(entry.action, of_entries), otherwise=otherwise)

    default = _notified(policy.default, of_entries | {ActionKind.ERRNO})
    unknown = _notified(policy.unknown, of_entries - {ActionKind.ERRNO})
    return replace(policy.changed(changed), default=default, unknown=unknown)


def _notified(action: Action, kinds: set[ActionKind]) -> Action:
    return NOTIFY if action.kind in kinds else action
