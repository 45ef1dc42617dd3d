"""Why a policy answers one call as it does: the nearest rule, and its conditions that fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.errors import did_you_mean
from policygen.evaluate import evaluate
from policygen.holds import holds
from policygen.language.document import PolicyError, parse
from policygen.language.operands import OperandError, parse_integer
from policygen.model import Always, Condition, alternatives, conjuncts
from policygen.values import frozen
from tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from policygen.model import Action, Entry, Expression, Policy

_CALL = re.compile(r"(\w+)\(([^()]*)\)")
_REGISTER = re.compile(r" \(register 0x[0-9a-f]+\)")
_POINTED = re.compile(r'=(?:unix:|text:)?"[^"]*"(?:\.\.\.)?|=\[(?:"[^"]*"(?:\.\.\.)?|, |\.\.\.)*\]')
"""What a pointer points to, in a call as a report shows it."""
_WORD = (1 << 64) - 1


@frozen
class Explanation:
    """A policy's answer to a call, and the reason."""

    action: Action
    entry: Entry | None
    """The call's entry, if it has one."""
    nearest: Expression | None
    """The alternative with the fewest failing conditions; None if the entry has no conditions."""
    failing: tuple[Expression, ...]
    """The conditions of `nearest` that fail; empty if it holds."""


def parse_call(text: str, arch: Arch) -> Event:
    """Return the call in a text, as `naming.format_call` writes it; other words around it (a report of `enforce`) are ignored.

    Arguments that are not given are 0.  Raises ValueError, whose text says what is wrong.
    """
    match = _CALL.search(_REGISTER.sub("", _POINTED.sub("=", text)))
    if match is None:
        raise ValueError(f"no call is in {text!r}: write it as `enforce` reports it, NAME(ARGUMENT=VALUE, ...)")
    name, given = match.groups()
    call = table(arch).by_name.get(name.removeprefix("sys_"))
    if call is None:
        hint = did_you_mean(name, table(arch).by_name)
        raise ValueError(f"{arch} has no syscall {name}{': ' if hint else ''}{hint}")
    index = {argument.name: number for number, argument in enumerate(call.arguments)}
    registers = [0] * 6
    conditions = []
    for part in filter(None, map(str.strip, given.split(","))):
        argument, _, value = (piece.strip() for piece in part.partition("="))
        if argument not in index:
            raise ValueError(f"{call.name} has no argument {argument}: they are {', '.join(index)}")
        if call.arguments[index[argument]].kind.is_pointer:
            registers[index[argument]] = _pointer(value)
        else:
            conditions.append(f"{argument} == {value}")
    if conditions:
        for condition in _conditions(f"arch {arch}\n{call.name}: {' && '.join(conditions)}\n", arch, call.number):
            registers[condition.index] = condition.value & call.arguments[condition.index].mask
    a, b, c, d, e, f = registers
    return Event(arch.audit, call.number, (a, b, c, d, e, f))


def _pointer(value: str) -> int:
    try:
        return parse_integer(value)[0] & _WORD
    except OperandError:
        return 0  # NULL, or not written out: no policy compares pointers


def _conditions(text: str, arch: Arch, number: int) -> list[Condition]:
    try:
        expression = parse(text).policy.entries[arch][number].expression
    except PolicyError as error:
        raise ValueError(f"{error.message}{': ' if error.hint else ''}{error.hint}") from None
    return [part for part in conjuncts(expression) if isinstance(part, Condition)]


def explain(policy: Policy, event: Event) -> Explanation:
    """Return the policy's answer to a call that the tables have, and the reason."""
    action = evaluate(policy, event)
    arch = Arch.from_audit(event.arch)
    entry = policy.entries.get(arch, {}).get(event.number) if arch else None
    if arch is None or entry is None or isinstance(entry.expression, Always):
        return Explanation(action, entry, None, ())
    arguments = table(arch).by_number[event.number].arguments
    found = [
        (alternative, tuple(part for part in conjuncts(alternative) if not holds(part, arguments, event.arguments)))
        for alternative in alternatives(entry.expression)
    ]
    nearest, failing = min(found, key=lambda pair: len(pair[1]))
    return Explanation(action, entry, nearest, failing)
