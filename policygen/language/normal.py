"""Bring policies into normal form: one spelling for all expressions of the same structure.

Nested `&&` and `||` are flattened, alternatives and conditions are sorted without repetition, parts that always or never hold
are removed, and `in` no bits becomes `== 0`.  Everything else is left as written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from callfence.policygen.language.naming import Known, determined, first_argument, format_expression
from callfence.policygen.language.operands import trivial
from callfence.policygen.model import ALLOW, Always, And, Condition, Entry, Expression, Not, Operator, Or, Phase, Policy
from callfence.policygen.phases import covering
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Argument, table


def normal(policy: Policy) -> Policy:
    """Return the policy with every entry in normal form, and with architectures and entries in the order of the canonical text.

    The entries before a phase are extended to allow everything that the phase allows.  Raises ValueError if one entry cannot
    express that for some call."""
    if not policy.phases:
        return replace(policy, entries=normal_entries(policy.entries))
    phases: list[Phase] = []
    for phase in reversed((Phase("", (), policy.entries), *policy.phases)):
        entries = covering(phase.entries, phases[0]) if phases else phase.entries
        phases.insert(0, replace(phase, entries=normal_entries(entries)))
    first, *later = phases
    return replace(policy, entries=first.entries, phases=tuple(later))


def normal_entries(given: Mapping[Arch, Mapping[int, Entry]]) -> dict[Arch, dict[int, Entry]]:
    """Return the entries in normal form, in the order of the canonical text."""
    entries = {}
    for arch in Arch:
        if arch in given:
            calls = table(arch).by_number
            numbers = sorted(given[arch], key=lambda number: calls[number].name)
            entries[arch] = {number: normal_entry(arch, number, given[arch][number]) for number in numbers}
    return entries


def normal_entry(arch: Arch, number: int, entry: Entry) -> Entry:
    expression = normal_expression(arch, number, entry.expression)
    if not isinstance(expression, Always):
        return replace(entry, expression=expression)
    if expression.value:
        return Entry(expression, entry.action)
    return Entry(expression, ALLOW) if entry.otherwise is None else Entry(Always(True), entry.otherwise)


def normal_expression(arch: Arch, number: int, expression: Expression) -> Expression:
    arguments = table(arch).by_number[number].arguments
    expression = _flatten(arguments, expression)
    while True:  # removing repeated parts can leave a single one, which is flattened again; each time it is smaller
        arranged = _arrange(arch, number, expression, ())
        flat = _flatten(arguments, arranged)
        if flat == arranged:
            return arranged
        expression = flat


def _flatten(arguments: tuple[Argument, ...], expression: Expression) -> Expression:
    match expression:
        case Always():
            return expression
        case Condition(index, operator, value):
            truth = trivial(arguments[index], expression)
            if truth is not None:
                return Always(truth)
            return Condition(index, Operator.EQ, 0) if operator is Operator.IN and value == 0 else expression
        case Not(part):
            inner = _flatten(arguments, part)
            return Always(not inner.value) if isinstance(inner, Always) else Not(inner)
        case And(parts) | Or(parts):
            kind = type(expression)
            decisive = Always(kind is Or)
            flat: list[Expression] = []
            for part in parts:
                inner = _flatten(arguments, part)
                if inner == decisive:
                    return decisive
                if not isinstance(inner, Always):
                    flat.extend(inner.parts if isinstance(inner, And | Or) and type(inner) is kind else (inner,))
            if len(flat) > 1:
                return kind(tuple(flat))
            return flat[0] if flat else Always(kind is And)


def _arrange(arch: Arch, number: int, expression: Expression, values: Known) -> Expression:
    """Return the expression with its parts sorted by text, numbers by value, and those of an `&&` first by argument."""
    match expression:
        case Not(part):
            return Not(_arrange(arch, number, part, values))
        case And(parts) | Or(parts):
            conjunction = isinstance(expression, And)
            inner = determined(parts, values) if conjunction else values
            keyed = []
            for part in dict.fromkeys(_arrange(arch, number, part, inner) for part in parts):
                text = format_expression(arch, number, part, inner)
                keyed.append((first_argument(part) if conjunction else 0, _natural(text), text, part))
            ordered = tuple(key[-1] for key in sorted(keyed, key=lambda key: key[:-1]))
            return type(expression)(ordered) if len(ordered) > 1 else ordered[0]
        case _:
            return expression


def _natural(text: str) -> tuple[str | int, ...]:
    """Return a sort key for a text that puts 9 before 10."""
    return tuple(int(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", text)))
