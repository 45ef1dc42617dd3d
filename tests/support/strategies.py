"""Random policies over the real tables, and events at which they may be wrong: near the values they compare with."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from callfence.policygen.language.operands import operands
from callfence.policygen.model import (
    ALLOW,
    BITWISE,
    Action,
    ActionKind,
    Always,
    And,
    Arm,
    Condition,
    Entry,
    Expression,
    Not,
    Operator,
    Or,
    Policy,
)
from callfence.tracer.abi import X32_BIT, Arch, Argument, Event, table

EXAMPLES = int(os.environ.get("CALLFENCE_EXAMPLES", "20"))
"""How many random policies and programs a test takes.  `CALLFENCE_EXAMPLES=2000` is the long run."""
WORD = (1 << 64) - 1
ARCHES = tuple(Arch)
TABLES = ((6, 1), (6, 12), (6, 18))


def actions() -> st.SearchStrategy[Action]:
    others = [Action(kind) for kind in ActionKind if kind is not ActionKind.ERRNO]
    return st.sampled_from(others) | st.integers(1, 4095).map(lambda number: Action(ActionKind.ERRNO, number))


def patterns(width: int) -> st.SearchStrategy[int]:
    """Unsigned values of so many bits, most of them where carries, signs and single bits are."""
    mask = (1 << width) - 1
    powers = [(1 << bit) + offset & mask for bit in (*range(width), width - 1) for offset in (-1, 0, 1)]
    return st.one_of(st.sampled_from(powers), st.integers(0, 64), st.integers(0, mask))


def values(arch: Arch, number: int, index: int) -> st.SearchStrategy[int]:
    """Unsigned values that an argument may be compared with, its constants among them."""
    known = operands(arch, number)
    argument = known.syscall.arguments[index]
    named = sorted({family.value(name) & argument.mask for family in known.families(index) for name in family.names})
    return st.sampled_from(named) | patterns(argument.width) if named else patterns(argument.width)


@st.composite
def conditions(draw: st.DrawFn, arch: Arch, number: int) -> Condition:
    known = operands(arch, number)
    indices = [index for index in range(len(known.syscall.arguments)) if not known.is_pointer(index)]
    index = draw(st.sampled_from(indices))
    argument = known.syscall.arguments[index]
    operator = draw(st.sampled_from(Operator))
    bits = values(arch, number, index)
    if operator is Operator.ONE_OF:
        chosen = draw(st.lists(bits.map(argument.value), min_size=1, max_size=4))
        return Condition(index, operator, values=tuple(sorted(set(chosen))))
    if operator is Operator.MASKED:
        mask = draw(bits)
        return Condition(index, operator, draw(bits) & mask, mask)
    value = draw(bits)
    return Condition(index, operator, value if operator in BITWISE else argument.value(value))


def expressions(arch: Arch, number: int) -> st.SearchStrategy[Expression]:
    """Of any shape, also such as no parser makes."""
    known = operands(arch, number)
    always: st.SearchStrategy[Expression] = st.booleans().map(Always)
    if not known.constrainable():
        return always
    return st.recursive(
        st.one_of(conditions(arch, number), conditions(arch, number), conditions(arch, number), always),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(lambda parts: And(tuple(parts))),
            st.lists(inner, max_size=4).map(lambda parts: Or(tuple(parts))),
            inner.map(Not),
        ),
        max_leaves=12,
    )


def entries(arch: Arch, number: int) -> st.SearchStrategy[Entry]:
    return st.builds(Entry, expressions(arch, number), st.just(ALLOW) | actions(), st.none() | actions())


@st.composite
def policies(draw: st.DrawFn, arches: tuple[Arch, ...] = ARCHES, max_entries: int = 5) -> Policy:
    """Policies for some of the architectures, at least one."""
    version = draw(st.sampled_from(TABLES))
    chosen = draw(st.lists(st.sampled_from(arches), min_size=1, unique=True))
    made = {}
    for arch in chosen:
        calls = table(arch)
        known = [number for number in sorted(calls.by_number) if not calls.is_newer(number, version)]
        numbers = draw(st.lists(st.sampled_from(known), max_size=max_entries, unique=True))
        made[arch] = {number: draw(entries(arch, number)) for number in numbers}
    return Policy(made, version, draw(st.sampled_from(Arm)), draw(actions()), draw(actions()))


def compared(expression: Expression) -> list[Condition]:
    """The conditions of an expression."""
    match expression:
        case Condition():
            return [expression]
        case And(parts) | Or(parts):
            return [condition for part in parts for condition in compared(part)]
        case Not(part):
            return compared(part)
        case _:
            return []


def registers(conditions_on: list[Condition], argument: Argument | None) -> st.SearchStrategy[int]:
    """64-bit registers: near the values that an argument is compared with, the upper half right or wrong."""
    if argument is None or not conditions_on:
        return patterns(64)
    edges = {0, argument.mask, 1 << argument.width - 1}
    for condition in conditions_on:
        for value in (condition.value, condition.mask, condition.value | condition.mask, *condition.values):
            edges |= {value + offset & argument.mask for offset in (-1, 0, 1)}
            edges |= {value & argument.mask ^ 1 << bit for bit in range(argument.width)}
    low = st.sampled_from(sorted(edges)) | patterns(argument.width)
    upper = st.sampled_from([0, 0, WORD, 1 << argument.width]) | patterns(64)
    return st.builds(lambda value, rest: (value | rest & ~argument.mask) & WORD, low, upper)


@st.composite
def events(draw: st.DrawFn, policy: Policy) -> Event:
    """Calls on which the policy, or something that claims to equal it, may be wrong."""
    arch = draw(st.sampled_from(list(policy.entries)))
    foreign = [*(other.audit for other in Arch), 0, 0xC00000F3, 0xFFFFFFFF]
    audit = draw(st.one_of(*[st.just(arch.audit)] * 4, st.sampled_from(foreign)))
    newest = table(arch).newest(policy.table)
    odd = [*table(arch).private, 0xF0000, 0xF0007]
    odd += [0, newest, newest + 1, X32_BIT - 1, X32_BIT, X32_BIT + 1, 2 * X32_BIT - 1, 2 * X32_BIT, 0xFFFFFFFF]
    known = list(policy.entries[arch])
    near = [number + offset for number in known for offset in (-1, 1, X32_BIT, 1 << 31) if number + offset >= 0]
    strange = st.sampled_from(odd + near) | st.integers(0, 600)
    number = draw(st.one_of(*[st.sampled_from(known)] * 4, strange) if known else strange)
    entry = policy.entries[arch].get(number)
    words = []
    for index in range(6):
        arguments = table(arch).by_number[number].arguments if entry else ()
        on = [c for c in compared(entry.expression) if c.index == index] if entry else []
        word = draw(registers(on, arguments[index] if index < len(arguments) else None))
        words.append(word & 0xFFFFFFFF if arch.bits == 32 else word)
    return Event(audit, number, (words[0], words[1], words[2], words[3], words[4], words[5]))
