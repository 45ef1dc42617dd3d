"""The proof that a filter is equivalent to its policy."""

from __future__ import annotations

from policygen.evaluate import answer
from policygen.filter import bpf, symbolic
from policygen.filter.listener import may_install_filters
from policygen.filter.symbolic import decisions
from policygen.implied.resolve import Resolved, resolved
from policygen.model import KILL, Action, ActionKind, Policy
from policygen.phases import START
from policygen.sets import region
from policygen.values import replace
from tracer.abi import X32_BIT, Arch, Event, table
from tracer.linux import OPAQUE

NOTIFY = Action(ActionKind.NOTIFY)


def verify(program: bytes, policy: Policy, phase: str = START, *, report: bool = False, audit: bool = False) -> Event | None:
    """Return None if the filter answers as `evaluate` in a phase (with `report`: as `reported`) on every input; else an
    event on which they differ.

    The event may be one that no kernel produces, such as an i386 call with something in the upper half of a register:
    the filter is held to the policy there too.  InvalidProgramError, symbolic.UnsupportedError and
    algebra.TooComplexError if the filter cannot be loaded or followed: nothing is known then.
    """
    return verify_resolved(program, resolved(policy, phase), report=report, audit=audit)


def verify_resolved(program: bytes, policy: Resolved, *, report: bool = False, audit: bool = False) -> Event | None:
    """Return what `verify` does, for a policy in one phase.  Raises what that does."""
    meant, refused = meaning(policy, report=report, audit=audit)
    space = region.space()
    actual = symbolic.function(space, program)
    assignment = space.difference(actual, decisions(space, meant, refused))
    if assignment is None:
        return None
    event = region.event(assignment)
    if symbolic.meaning(bpf.run(program, event)) == bpf.ret(_answer(meant, event, refused)):
        raise AssertionError(f"the proof and the reference semantics disagree about {event}")
    return event


def _answer(policy: Resolved, event: Event, refused: Action) -> Action:
    arch = Arch.from_audit(event.arch)
    foreign = arch is None or arch not in policy.entries
    x32 = arch is Arch.X86_64 and X32_BIT <= event.number < 2 * X32_BIT
    return refused if foreign or x32 else answer(policy, event)


def meaning(policy: Resolved, *, report: bool, audit: bool = False) -> tuple[Resolved, Action]:
    """Return the policy that its filter answers by, and what the filter answers to calls of other architectures."""
    refused = NOTIFY if report and (audit or not kills_itself(policy)) else KILL
    return (reported(policy, audit=audit) if report else policy), refused


def kills_itself(policy: Resolved) -> bool:
    """Return whether the kernel kills for the policy's default even if a supervisor could explain it.

    A filter that the program installs itself outranks a notification if it fails the call, but not a kill (seccomp(2)).
    """
    return policy.default.kind is ActionKind.KILL and may_install_filters(policy)


def reported(policy: Resolved, *, audit: bool = False) -> Resolved:
    """Return the policy as a filter answers it whose denials a supervisor explains (with `audit`: and then lets run).

    What falls to a default that kills or fails the call is notified instead; what an entry writes stays.  With `audit` this
    also holds for what an implied set fails, but for the calls that learning fails as well.  A default
    that traps stays too, as no supervisor can raise that signal, and one that `kills_itself`.
    """
    stays = policy.default.kind is ActionKind.TRAP or (kills_itself(policy) and not audit)
    default = policy.default if stays else _notified(policy.default)
    if audit:
        policy = _asked_about(policy)
    return replace(policy, default=default)


def _asked_about(policy: Resolved) -> Resolved:
    """The policy that asks the supervisor about what its implied set fails, but for the calls that learning fails as well."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    for (arch, number), rows in policy.added.items():
        if rows[0].entry.action.kind is ActionKind.ERRNO and table(arch).by_number[number].name not in OPAQUE:
            entry = entries[arch][number]
            otherwise = _notified(entry.otherwise or policy.default)
            entries[arch][number] = replace(entry, action=_notified(entry.action), otherwise=otherwise)
    return replace(policy, entries=entries)


_DENIALS = (ActionKind.KILL, ActionKind.ERRNO, ActionKind.TRAP)


def _notified(action: Action) -> Action:
    return NOTIFY if action.kind in _DENIALS else action
