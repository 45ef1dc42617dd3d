"""Generalise observations into rules: what a policy allows because of what was observed.

There is one function for each way of treating an argument; `TREATMENT` maps each kind of argument to its function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from functools import cache, reduce
from operator import or_

from callfence.policygen.learning.rule import Element, Flags, Rule, join, key
from callfence.policygen.model import Condition, Operator
from callfence.policygen.recording.fold import FREE_VALUES
from callfence.policygen.recording.model import Observation
from callfence.policygen.values import frozen
from callfence.tracer.abi import NATIVE, Arch, Argument, Kind, constants
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.abi.table import Table
from callfence.tracer.named import NamedTuple


class Held(NamedTuple):
    """Which values of an argument are worth restricting, because the restriction would stop an attacker."""

    bits: int | None
    """The bits that are worth restricting, 0 for none; None for all."""
    groups: tuple[tuple[int, ...], ...]
    """Values that are allowed together, ascending."""
    why: str


@cache
def held_rows(arch: Arch) -> Mapping[tuple[str, str, str], Held]:
    """Return the rows of held.tsv by call, argument, and family of constants ('' for none)."""
    result: dict[tuple[str, str, str], Held] = {}
    for calls, arguments, names, holds, why in table_rows(__spec__, "held.tsv"):
        held = Held(_bits(holds, arch), _groups(holds, arch), why)
        for call in calls.split(","):
            for argument in arguments.split(","):
                for name in names.split(","):
                    result[call, argument, "" if name == "none" else name] = held
    return result


def loosened(rule: Rule, observation: Observation, calls: Table, narrowed: Collection[int]) -> Rule:
    """Return the rule of an observation without the conditions that would not stop an attacker.  `narrowed` are the arguments
    that every alternative of the policy compares; conditions on them stay, because a person wrote them."""
    meanings = calls.arguments(observation.number, observation.example)
    name = calls.by_number[observation.number].name
    rule_elements: list[Element] = []
    for index, (element, value, meaning) in enumerate(zip(rule, observation.arguments, meanings, strict=True)):
        held = held_rows(calls.arch).get((name, meaning.name, meaning.constants))
        if element is None or held is None or value is None:
            rule_elements.append(element)
        elif group := next((values for values in held.groups if value in values), ()):
            rule_elements.append(Condition(index, Operator.ONE_OF, values=group))
        elif held.bits:
            rule_elements.append(Condition(index, Operator.MASKED, value & held.bits, held.bits))
        else:
            rule_elements.append(element if held.bits is None or index in narrowed else None)
    return tuple(rule_elements)


def _bits(holds: str, arch: Arch) -> int | None:
    """Return the bits of a cell, as far as the architecture has their constants."""
    if holds == "all" or holds.startswith("{"):
        return None
    return reduce(or_, (_value(word, arch) or 0 for word in holds.split("|") if word != "-"), 0)


def _groups(holds: str, arch: Arch) -> tuple[tuple[int, ...], ...]:
    if not holds.startswith("{"):
        return ()
    groups = ([_value(name.strip(), arch) for name in group.strip("{} ").split(",")] for group in holds.split(";"))
    return tuple(tuple(sorted({value for value in group if value is not None})) for group in groups)


def _value(word: str, arch: Arch) -> int | None:
    return int(word, 16) if word.startswith("0x") else constants.value(word, arch)


def exact(argument: Argument, index: int, value: int) -> Element:
    """Return the condition for only this value: for selectors, signals, and bits that are dangerous together."""
    if argument.constants in _ELSE_INVALID:
        named = constants.family(argument.constants, NATIVE).names.values()  # the same on all architectures
        if value < min(named):
            return Condition(index, Operator.LT, min(named))
        if value > max(named):
            return Condition(index, Operator.GT, max(named))
    return Condition(index, Operator.EQ, value)


_ELSE_INVALID = frozenset(("priority_which", "ioprio_which"))
"""Families of consecutive constants of which every other value is an error (kernel/sys.c, block/ioprio.c).  A program that
passes its arguments in the wrong order, a pid here, has another value in every run."""


def clock(_: Argument, index: int, value: int) -> Element:
    """Return the condition for only this clock; for a negative one, all of these: they contain a pid or a descriptor."""
    return Condition(index, Operator.LT, 0) if value < 0 else Condition(index, Operator.EQ, value)


def caller(_: Argument, index: int, value: int) -> Element:
    """Return the condition for the caller if the call named it; else None, any task: IDs of others differ between runs."""
    return None if value else Condition(index, Operator.EQ, 0)


def union(argument: Argument, index: int, value: int) -> Element:
    """Return the observed bits, to be joined with those of other observations; but `Argument.exact` is one value."""
    return Flags(value & argument.mask, False, argument.exact)


def field(argument: Argument, index: int, value: int) -> Element:
    """Return the condition for the bits of `Argument.exact`; the other bits are free."""
    return Condition(index, Operator.MASKED, value, argument.exact)


def free(argument: Argument, index: int, value: int) -> Element:
    """Return None: any value is allowed."""
    return None


_NAMES_TASK = frozenset(("pid", "pid1", "pid2", "tgid", "pgid", "upid"))
"""The names of arguments of `Kind.ID` that are ids of tasks or of process groups."""


def lasts(argument: Argument, value: int) -> bool:
    """Return whether a later run can pass the same value: the kernel numbers tasks anew in each run.  0 is the caller itself,
    or its group; -1 is every task."""
    is_task = argument.kind is Kind.TASK or (argument.kind is Kind.ID and argument.name in _NAMES_TASK)
    return not is_task or argument.value(value) in (0, -1)


TIGHT_RUNS = 3
"""The fewest runs for which `--tight` restricts a free argument to the observed values."""

_TIGHT = frozenset((Kind.FD, Kind.DIRFD, Kind.SIZE, Kind.OFFSET, Kind.ID))
"""Kinds that `--tight` restricts.  Other kinds of numbers may depend on timing (futex's `val`), or be left over in a register
that the call does not read."""

TREATMENT: Mapping[Kind, Callable[[Argument, int, int], Element]] = {
    Kind.SELECTOR: exact,
    Kind.SIGNAL: exact,
    Kind.PROTECTION: exact,
    Kind.CLOCK: clock,
    Kind.FLAGS: union,
    Kind.FIELD: field,
    Kind.FD: free,
    Kind.DIRFD: free,
    Kind.POINTER: free,
    Kind.PATH: free,
    Kind.TEXT: free,
    Kind.WORDS: free,
    Kind.SOCKADDR: free,
    Kind.MESSAGE: free,
    Kind.ADDRESS: free,
    Kind.SIZE: free,
    Kind.OFFSET: free,
    Kind.ID: free,
    Kind.TASK: caller,
    Kind.MODE: free,
    Kind.NUMBER: free,
}


class Widening(StrEnum):
    """A way in which a rule allows more than was observed."""

    FLOOR = "allowed whether observed or not"
    PORTABLE = "what other C libraries do instead"
    NAMES = "any arguments"
    FREE = "any value"
    UNION = "any combination of the observed bits"
    REST = "any value of the other bits"
    NEGATIVE = "any negative value"
    INVALID = "any value that is an error"
    KIN = "any value that grants the same"


@frozen
class Widened:
    """A widening, and the call and argument that it was applied to."""

    arch: int
    number: int
    index: int
    """The index of the argument, 0-5; -1 for the whole call."""
    widening: Widening


@frozen
class Generalised:
    rules: tuple[Rule, ...]
    widenings: Mapping[Widened, int]
    """Widening -> number of observations that it was applied to."""


def generalise(
    observations: Sequence[Observation],
    calls: Table,
    *,
    names_only: bool = False,
    tight: bool = False,
    by_hand: Collection[int] = (),
    loose: bool = False,
    narrowed: Collection[int] = (),
) -> Generalised:
    """Return the rules for the observations of one call (one architecture, one number).

    `by_hand` are indexes of arguments that are restricted to their recorded values even if learning would leave them free, as a
    person wants; ids of tasks are not, because they differ from run to run.  With `loose`, a condition that would not stop an
    attacker (held.tsv) is left out, except on the arguments in `narrowed`; `names_only` and `tight` are those of `Options`."""
    if names_only:
        arity = len(calls.by_number[observations[0].number].arguments)
        widened = Widened(observations[0].arch, observations[0].number, -1, Widening.NAMES)
        return Generalised(((None,) * arity,), {widened: len(observations)})
    groups: dict[tuple[object, ...], list[Observation]] = {}
    joined: dict[tuple[object, ...], Rule] = {}
    for observation in observations:
        rule = learned(observation, calls, by_hand)
        rule = loosened(rule, observation, calls, narrowed) if loose else rule
        groups.setdefault(key(rule), []).append(observation)
        joined[key(rule)] = join(joined.get(key(rule), rule), rule)
    widenings: Counter[Widened] = Counter()
    rules = []
    for name, rule in joined.items():
        rule = _tightened(rule, groups[name], calls) if tight else rule
        rules.append(rule)
        for observation in groups[name]:
            widenings.update(widenings_of(rule, observation, calls))
    return Generalised(tuple(rules), widenings)


def learned(observation: Observation, calls: Table, by_hand: Collection[int] = ()) -> Rule:
    """Return the rule for one observation; `by_hand` as in `generalise`."""
    meanings = calls.arguments(observation.number, observation.example)
    rule: list[Element] = []
    for index, (meaning, value) in enumerate(zip(meanings, observation.arguments, strict=True)):
        element = None
        if value is not None and not _is_left_over(meaning, observation.example[index], calls.arch):
            element = TREATMENT[meaning.kind](meaning, index, value)
        if element is None and value is not None and index in by_hand and lasts(meaning, value):
            element = Condition(index, Operator.EQ, value)
        rule.append(element)
    return tuple(rule)


def _is_left_over(argument: Argument, register: int, arch: Arch) -> bool:
    """Return whether the caller passed no value for these flags, as `syscall(SYS_pidfd_open)` does to test whether the kernel
    has the call.

    The register then has an old address, whose lower half differs from run to run and has bits without a name.  Only flags are
    treated this way: no other argument, which may decide what a call does, becomes free by chance."""
    if argument.kind is not Kind.FLAGS or argument.width != 32 or not is_address(register, arch):
        return False
    names = constants.family(argument.constants, arch).names if argument.constants else {}
    return bool(register & argument.mask & ~reduce(or_, names.values(), 0))


_ADDRESS_BITS: Mapping[Arch | None, tuple[int, ...]] = {Arch.X86_64: (47,), Arch.AARCH64: (48, 47, 42, 39)}
"""The bits of an address of a program that asks for no more; of aarch64 by the kernel's page size and configuration
(Documentation/arch/arm64/memory.rst)."""


def is_address(register: int, arch: Arch | None) -> bool:
    """Return whether a register has the upper half of an address in the stack, a library, or a position-independent program and
    its heap, which no number has: these are above two thirds of the address space (ELF_ET_DYN_BASE, asm/elf.h)."""
    upper = register >> 32
    return upper > 0 and any((2 << bits - 32) // 3 <= upper < 1 << bits - 32 for bits in _ADDRESS_BITS.get(arch, ()))


def literal(observation: Observation, calls: Table) -> Rule:
    """Return the rule that allows exactly the calls of an observation: the recorded values, and any value of the arguments
    whose values are not recorded."""
    rule = learned(observation, calls)
    return tuple(
        Condition(index, Operator.EQ, value) if element is None and value is not None else element
        for index, (element, value) in enumerate(zip(rule, observation.arguments, strict=True))
    )


def _tightened(rule: Rule, observations: Sequence[Observation], calls: Table) -> Rule:
    """Return the rule with free arguments restricted to the observed values, where enough runs agree."""
    meanings = calls.arguments(observations[0].number, observations[0].example)  # one key, so one meaning
    return tuple(
        _few_values(index, meaning, observations) if element is None and meaning.kind in _TIGHT else element
        for index, (element, meaning) in enumerate(zip(rule, meanings, strict=True))
    )


def _few_values(index: int, meaning: Argument, observations: Sequence[Observation]) -> Element:
    """Return the values of an argument as a condition, if there are few and each occurs in several runs; else None."""
    runs: dict[int, set[int]] = {}
    for observation in observations:
        value = observation.arguments[index]
        if value is None or not lasts(meaning, value):
            return None
        runs.setdefault(value, set()).update(run for run, count in enumerate(observation.counts) if count)
    if len(set().union(*runs.values())) < TIGHT_RUNS or len(runs) > FREE_VALUES or min(map(len, runs.values())) < 2:
        return None
    if len(runs) == 1:
        return Condition(index, Operator.EQ, min(runs))
    return Condition(index, Operator.ONE_OF, values=tuple(sorted(runs)))


def widenings_of(rule: Rule, observation: Observation, calls: Table) -> list[Widened]:
    """Return how the rule allows more than the observation.  Pointers, which no policy can constrain, do not count."""
    result = []
    for index, (element, meaning) in enumerate(
        zip(rule, calls.arguments(observation.number, observation.example), strict=True)
    ):
        widening = None
        if element is None and not meaning.kind.is_pointer:
            widening = Widening.FREE
        elif isinstance(element, Flags) and element.several:
            widening = Widening.UNION
        elif isinstance(element, Condition) and element.operator is Operator.MASKED:
            widening = Widening.REST
        elif isinstance(element, Condition) and element.operator in (Operator.LT, Operator.GT):
            widening = Widening.NEGATIVE if meaning.kind is Kind.CLOCK else Widening.INVALID
        elif isinstance(element, Condition) and element.operator is Operator.ONE_OF and meaning.kind.is_constrained:
            widening = Widening.KIN
        if widening is not None:
            result.append(Widened(observation.arch, observation.number, index, widening))
    return result
