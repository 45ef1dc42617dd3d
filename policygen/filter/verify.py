"""The proof that a filter is equivalent to its policy."""

from __future__ import annotations

from dataclasses import replace

from policygen.evaluate import evaluate
from policygen.filter import bpf, symbolic
from policygen.implied.expand import expanded
from policygen.model import KILL, Action, ActionKind, Always, Entry, Policy
from policygen.sets import region
from policygen.sets.decisions import decisions
from tracer.abi import X32_BIT, Arch, Event, table

NOTIFY = Action(ActionKind.NOTIFY)


def verify(program: bytes, policy: Policy, report: bool = False) -> Event | None:
    """Return None if the filter answers as `evaluate` (with `report`: as `reported`) on every input; else an event on which
    they differ.

    The event may be one that no kernel produces, such as an i386 call with bits in the upper half of a register: the
    filter must equal the policy there, too.  Raises InvalidProgramError,
    symbolic.UnsupportedError or algebra.TooComplexError if the filter cannot be loaded or followed.
    """
    meant, refused = (reported(policy), NOTIFY) if report else (policy, KILL)
    space = region.space()
    actual = symbolic.function(space, program)
    point = space.difference(actual, decisions(space, meant, refused))
    if point is None:
        return None
    event = region.event(point)
    if symbolic.meaning(bpf.run(program, event)) == bpf.ret(_answer(meant, event, refused)):
        raise AssertionError(f"the proof and the reference semantics disagree about {event}")
    return event


def _answer(policy: Policy, event: Event, refused: Action) -> Action:
    arch = Arch.from_audit(event.arch)
    foreign = arch is None or arch not in policy.entries
    x32 = arch is Arch.X86_64 and X32_BIT <= event.number < 2 * X32_BIT
    return refused if foreign or x32 else evaluate(policy, event)


def reported(policy: Policy) -> Policy:
    """Return the policy whose denials a supervisor explains.

    A default that kills or fails the call is replaced by `notify`; actions that an entry writes stay.  A default that
    traps stays, too, because a supervisor cannot raise that signal.  `close` is never denied without the supervisor,
    because it removes the listener from the program.
    """
    policy = expanded(policy)
    default = _notified(policy.default) if policy.default.kind is not ActionKind.TRAP else policy.default
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    for arch, section in entries.items():
        close = table(arch).by_name["close"].number
        entry = section.get(close, Entry(Always(False)))
        otherwise = _notified(entry.otherwise or policy.default)
        section[close] = replace(entry, action=_notified(entry.action), otherwise=otherwise)
    return replace(policy, entries=entries, default=default)


_DENIALS = (ActionKind.KILL, ActionKind.ERRNO, ActionKind.TRAP)


def _notified(action: Action) -> Action:
    return NOTIFY if action.kind in _DENIALS else action
