"""Decide whether a policy's program has a seccomp listener of its own: a process can have only one (seccomp(2), EBUSY)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from callfence.policygen.evaluate import answers
from callfence.policygen.implied.resolve import Resolved, resolved
from callfence.policygen.model import Always, And, Condition, Expression, Operator, Or, Policy
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.region import space, to_bdd
from callfence.tracer.abi import Arch, constants, table
from callfence.tracer.linux import PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_SET_MODE_FILTER

_NEW_LISTENER: Final = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_RECEIVE: Final = "SECCOMP_IOCTL_NOTIF_RECV"
_COMMANDS: Final = ("RECV", "SEND", "ID_VALID", "ADDFD", "SET_FLAGS")


def expects_listener(policy: Policy) -> bool:
    """Return whether the policy's program has a seccomp listener of its own: conditions allow SECCOMP_FILTER_FLAG_NEW_LISTENER,
    and an entry names the command that receives notifications.

    The flag alone is not enough: libseccomp passes it, without a filter, to find out what the kernel supports.  Nor is an
    unconditional seccomp(2): many programs install filters, and few of them listen.  Unless the policy names the receiving
    command, `enforce` denies it (`names_listener`)."""
    for arch, entries in policy.entries.items():
        entry = entries.get(table(arch).by_name["seccomp"].number)
        if entry is None or isinstance(entry.expression, Always):
            continue
        receives = _command(_RECEIVE, arch) in _named(policy, arch)
        if receives and _allows(resolved(policy), arch, "seccomp", {0: SECCOMP_SET_MODE_FILTER}, flags=_NEW_LISTENER):
            return True
    return False


def names_listener(policy: Policy) -> bool:
    """Return whether an entry of the policy names, and allows, an ioctl command that receives or answers notifications.

    An entry that allows all commands (`ioctl: allow`) does not name them, since a process that answers notifications decides
    which denied calls run: that permission must be explicit."""
    return any(
        _command(f"SECCOMP_IOCTL_NOTIF_{name}", arch) in _named(policy, arch) for arch in policy.entries for name in _COMMANDS
    )


def _named(policy: Policy, arch: Arch) -> frozenset[int]:
    """Return the values with which the allowing ioctl entries compare the command."""
    number = table(arch).by_name["ioctl"].number
    sections = (policy.entries, *(phase.entries for phase in policy.phases))
    entries = (section[arch].get(number) for section in sections if arch in section)
    return frozenset(value for entry in entries if entry and entry.action.allows for value in _values(entry.expression))


def _values(expression: Expression) -> Iterator[int]:
    """Yield the values with which an expression compares the second argument."""
    if isinstance(expression, Condition):
        if expression.index == 1 and expression.operator in (Operator.EQ, Operator.ONE_OF):
            yield from expression.values or (expression.value,)
    elif isinstance(expression, And | Or):
        for part in expression.parts:
            yield from _values(part)


def _command(name: str, arch: Arch) -> int:
    value = constants.value(name, arch)
    assert value is not None, name
    return value


def may_install_filters(policy: Resolved) -> bool:
    """Return whether the policy lets the program install its own filters, by seccomp(2) or by prctl(2)."""
    return any(
        _allows(policy, arch, "seccomp", {0: SECCOMP_SET_MODE_FILTER})
        or _allows(policy, arch, "prctl", {0: PR_SET_SECCOMP, 1: SECCOMP_MODE_FILTER})
        for arch in policy.entries
    )


def _allows(policy: Resolved, arch: Arch, name: str, values: Mapping[int, int], flags: int = 0) -> bool:
    """Return whether a policy allows a call in which the arguments have `values`, by index, and the second has all of `flags`;
    the kernel ignores the others, or they are addresses."""
    call, sets = table(arch).by_name[name], space()
    parts = [Condition(index, Operator.EQ, value) for index, value in values.items()]
    wanted = to_bdd(sets, And((*parts, Condition(1, Operator.HAS, flags))), call.arguments)
    allowed = (where for where, action in answers(sets, policy, arch, call.number) if action.allows)
    return any(sets.and_(where, wanted) != FALSE for where in allowed)
