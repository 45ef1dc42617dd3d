"""Decide without compiling whether a policy's filter surely fits the kernel's limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from callfence.policygen.filter.bpf import MAX_INSTRUCTIONS
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import Always, And, Condition, Entry, Expression, Not, Operator, Or, Policy, mentioned
from callfence.tracer.abi import Arch, Argument, table

IMPLIED = 1200
"""An upper bound of the instructions for what an implied set adds to the calls of which a policy says nothing, in one
architecture, with every capability granted.  Computing it would parse the whole set."""


def surely_fits(policy: Policy) -> bool:
    """Return whether the policy's filter certainly fits the kernel's limit.  If False, only compiling it shows that."""
    return most_instructions(policy) <= MAX_INSTRUCTIONS * 3 // 4


def most_instructions(policy: Policy) -> int:
    """Return an upper bound of the instructions in the policy's filter: for learned policies, about three times as many."""
    return sum(_of_section(arch, section, policy.entries.get(arch, {})) for arch, section in resolved(policy).entries.items())


def _of_section(arch: Arch, section: Mapping[int, Entry], stated: Mapping[int, Entry]) -> int:
    """Return an upper bound of the instructions for the entries of one architecture, of which the policy states some."""
    own = sum(_instructions(section[number].expression, arch, number) for number in stated)
    return 20 + own + (IMPLIED if len(section) > len(stated) else 0)


def _instructions(expression: Expression, arch: Arch, number: int) -> int:
    """Return an upper bound of the instructions for one call: each conjunction loads, masks and compares both halves of each
    argument."""
    compared = mentioned(expression)
    arguments = table(arch).by_number[number].arguments if compared else ()
    once = sum(3 * -(-arguments[index].width // 32) for index in compared)
    return 5 + _conjunctions(expression, arguments, holds=True) * (once + 1)


def _conjunctions(expression: Expression, arguments: Sequence[Argument], *, holds: bool) -> int:
    """Return how many conjunctions of masked equalities express where the expression holds, or, without `holds`, does not."""
    match expression:
        case Always():
            return 1
        case Not(part):
            return _conjunctions(part, arguments, holds=not holds)
        case And(parts) | Or(parts):
            joined = prod if isinstance(expression, And) is holds else sum
            return joined(_conjunctions(part, arguments, holds=holds) for part in parts)
        case Condition(index, operator, value, mask, values):
            argument = arguments[index]
            bits = {Operator.IN: argument.mask & ~value, Operator.HAS: value, Operator.ANY: value, Operator.MASKED: mask}.get(
                operator, argument.mask
            )
            is_equality = operator not in (Operator.NE, Operator.ANY)
            if operator in (Operator.LT, Operator.LE, Operator.GT, Operator.GE):
                return argument.width
            return max(1, len(values)) * (1 if is_equality is holds else bits.bit_count())
