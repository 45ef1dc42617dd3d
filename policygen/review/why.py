"""Explain a policy: the observations that each rule comes from, and the rule nearest to a call, with the conditions that fail.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache

from callfence.policygen.errors import did_you_mean
from callfence.policygen.evaluate import evaluate
from callfence.policygen.holds import exact, holds, holds_at
from callfence.policygen.implied.resolve import granted, least, witnessed
from callfence.policygen.implied.tables import capabilities
from callfence.policygen.language.document import Document, PolicyError, newest_table, parse
from callfence.policygen.language.layout import note_of
from callfence.policygen.language.normal import normal_expression
from callfence.policygen.learning.generalise import Widening, generalise, literal, widenings_of
from callfence.policygen.learning.rule import expression, read
from callfence.policygen.model import (
    Action,
    Always,
    Condition,
    Entry,
    Expression,
    Operator,
    Policy,
    alternatives,
    conjuncts,
    mentioned,
)
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.sets.algebra import FALSE, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import frozen
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.abi.table import Table


class Origin(StrEnum):
    """How a rule came into the policy, as far as the recording shows."""

    LEARNED = "learned"
    CHANGED = "changed by hand: learning would write another rule for what was observed"
    EXTENDED = "learned, and extended for other C libraries or by hand"
    NOTED = "added by learn, whether observed or not"
    PORTABLE = "no recorded run needed it: added for other C libraries or by hand, or learned from runs that are not recorded"
    UNSEEN = "no recorded run needed it: written by hand, or learned from runs that are not recorded"


@frozen
class Provenance:
    """One rule, and the observations that it comes from."""

    arch: Arch
    number: int
    rule: Entry
    """The entry with only this alternative."""
    origin: Origin
    note: str
    """The note that learn wrote on the entry, without its `#`; '' if there is none."""
    observations: tuple[Observation, ...]
    """The observations that the rule covers, at least in part, in the recording's order."""
    widenings: Mapping[tuple[int, Widening], int]
    """How the rule allows more than was observed: (index of the argument, widening) -> number of observations, sorted by
    argument."""


def provenance(document: Document, recording: Recording, arch: Arch, number: int) -> tuple[Provenance, ...]:
    """Return the provenance of each rule in a call's entry, in the entry's order.  The policy must have the entry."""
    calls = table(arch)
    entry = document.policy.entries[arch][number]
    note = note_of(document.layout, arch, number)
    observations = tuple(
        observation.fitted(calls)
        for observation in recording.observations
        if (observation.arch, observation.number) == (arch.audit, number)
    )
    would_be = _would_be(arch, observations, calls)
    if document.policy.implied:
        would_be |= _would_grant(document.policy, recording, arch)
    rules = []
    parts = alternatives(entry.expression) or (entry.expression,)
    for alternative, covered in zip(parts, _covered(parts, observations, calls), strict=True):
        origins = covered or _behind(alternative, document.policy, recording, arch, number)
        if note and not origins:
            origin = Origin.NOTED
        elif not origins:
            origin = Origin.PORTABLE if document.policy.portable else Origin.UNSEEN
        else:
            changed = Origin.EXTENDED if document.policy.portable else Origin.CHANGED
            origin = Origin.LEARNED if alternative in would_be or note else changed
        rule = Entry(alternative, entry.action, entry.otherwise)
        rules.append(Provenance(arch, number, rule, origin, note, origins, _widenings(alternative, number, origins, calls)))
    return tuple(rules)


def _would_be(arch: Arch, observations: Sequence[Observation], calls: Table) -> set[Expression]:
    """Return the alternatives that learning makes of the observations, with each of its options."""
    if not observations:
        return set()
    number = observations[0].number
    arguments = calls.by_number[number].arguments
    expressions: set[Expression] = set()
    for names_only, tight, loose in ((False, False, False), (False, True, False), (True, False, False), (False, False, True)):
        rules = generalise(observations, calls, names_only=names_only, tight=tight, loose=loose).rules
        whole = tuple(expression(rule, arguments) for rule in rules)
        expressions.update(normal_expression(arch, number, rule) for rule in (*whole, *minimise(whole, arguments)))
    return expressions


def _would_grant(policy: Policy, recording: Recording, arch: Arch) -> set[Expression]:
    """Return the alternatives with which learning grants the capabilities that the observations use."""
    events = [observation.event for observation in recording.observations if Arch.from_audit(observation.arch) is arch]
    names = {capability.name for event in events for capability in witnessed(event)} & granted(policy)
    return {part for name in names for capability in least(arch, name) for part in alternatives(capability.entry.expression)}


def _behind(alternative: Expression, policy: Policy, recording: Recording, arch: Arch, number: int) -> tuple[Observation, ...]:
    """Return the observations for which learning granted a capability by this alternative."""
    if not policy.implied:
        return ()
    names = {
        capability.name
        for capability in capabilities(arch)
        if capability.is_least and capability.number == number and alternative in alternatives(capability.entry.expression)
    }
    if not names:
        return ()
    observations = (observation for observation in recording.observations if Arch.from_audit(observation.arch) is arch)
    return tuple(observation for observation in observations if names & {used.name for used in witnessed(observation.event)})


def _covered(
    parts: Sequence[Expression], observations: Sequence[Observation], calls: Table
) -> Iterator[tuple[Observation, ...]]:
    """Yield, for each alternative, the observations with an event for which the alternative holds."""
    if not observations:
        yield from [()] * len(parts)
        return
    arguments = calls.by_number[observations[0].number].arguments
    literals = [expression(literal(observed, calls), arguments) for observed in observations]
    values = [exact(observed) for observed in literals]
    sets = space()

    @cache
    def region(expression: Expression) -> int:
        return to_bdd(sets, expression, arguments)

    def meet(part: Expression, compared: frozenset[int], place: int) -> bool:
        if compared <= values[place].keys():
            return holds_at(part, arguments, values[place])  # the algebra takes a hundred times as long
        return sets.and_(region(part), region(literals[place])) != FALSE

    for part in parts:
        try:
            compared = mentioned(part)
            group = tuple(observation for place, observation in enumerate(observations) if meet(part, compared, place))
        except TooComplexError:
            group = tuple(observations)  # too many are better than too few
        yield group


def _widenings(
    alternative: Expression, number: int, observations: Sequence[Observation], calls: Table
) -> dict[tuple[int, Widening], int]:
    """Return how an alternative allows more than its own call's observations (a capability may come from another's)."""
    own = [observation for observation in observations if observation.number == number]
    if not own or (rule := read(alternative, calls, number)) is None:
        return {}
    widened = (each for observation in own for each in widenings_of(rule, observation, calls))
    return dict(sorted(Counter((each.index, each.widening) for each in widened).items()))


_CALL = re.compile(r"(\w+)\(([^()]*)\)")
_REGISTER = re.compile(r" \(register 0x[0-9a-f]+\)")
_POINTED = re.compile(r'=(?:unix:|text:)?"[^"]*"(?:\.\.\.)?|=\[(?:"[^"]*"(?:\.\.\.)?|, |\.\.\.)*\]')
"""Pattern of what a pointer points to, in a call as a report shows it."""


@frozen
class Explanation:
    """A policy's answer to a call, and the reason."""

    action: Action
    entry: Entry | None
    """The call's entry; None if it has none."""
    nearest: Expression | None
    """The alternative with the fewest failing conditions; None if the entry has no conditions."""
    failing: tuple[Expression, ...]
    """The conditions of `nearest` that fail; empty if it holds."""


def parse_call(text: str, arch: Arch) -> Event:
    """Return the call in a text, as `naming.format_call` writes it; other words around it (a report of `enforce`) are ignored.
    Arguments that are not given are 0, and so are pointers, which no policy compares.  Raises ValueError, whose text says what
    is wrong."""
    match = _CALL.search(_REGISTER.sub("", _POINTED.sub("=", text)))
    if match is None:
        raise ValueError(f"{text!r} has no call: write one as `enforce` reports it, NAME(ARGUMENT=VALUE, ...)")
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
            raise ValueError(f"{call.name} has no argument {argument}: its arguments are {', '.join(index)}")
        if not call.arguments[index[argument]].kind.is_pointer:
            conditions.append(f"{argument} == {value}")
    if conditions:
        entry = f"{call.name}: {' && '.join(conditions)}\n"
        for condition in _conditions(f"arch {arch}\n{newest_table()}{entry}", arch, call.number):
            registers[condition.index] = condition.value & call.arguments[condition.index].mask
    a, b, c, d, e, f = registers
    return Event(arch.audit, call.number, (a, b, c, d, e, f))


def _conditions(text: str, arch: Arch, number: int) -> list[Condition]:
    try:
        expression = parse(text).policy.entries[arch][number].expression
    except PolicyError as error:
        raise ValueError(f"{error.message}{': ' if error.hint else ''}{error.hint}") from None
    conditions = [part for part in conjuncts(expression) if isinstance(part, Condition) and part.operator is Operator.EQ]
    if len(conditions) < len(conjuncts(expression)):
        raise ValueError("an argument has one value here: NAME(ARGUMENT=VALUE, ...)")
    return conditions


def explain(policy: Policy, event: Event) -> Explanation:
    """Return the policy's answer to a call, which the tables must have, and the reason."""
    action = evaluate(policy, event)
    arch = Arch.from_audit(event.arch)
    entry = policy.entries.get(arch, {}).get(event.number) if arch else None
    if arch is None or entry is None or isinstance(entry.expression, Always):
        return Explanation(action, entry, None, ())
    arguments = table(arch).by_number[event.number].arguments
    rules = [
        (alternative, tuple(part for part in conjuncts(alternative) if not holds(part, arguments, event.arguments)))
        for alternative in alternatives(entry.expression)
    ]
    nearest, failing = min(rules, key=lambda pair: len(pair[1]))
    return Explanation(action, entry, nearest, failing)
