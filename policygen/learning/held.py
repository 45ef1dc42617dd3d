"""What learned rules hold of each argument under an implied set, as reviewed by hand: held.tsv, read on first use."""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING

from policygen.model import Condition, Operator
from tracer.abi import Arch, constants
from tracer.abi.data import table_text
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from policygen.learning.rule import Element, Rule
    from policygen.recording.observation import Observation
    from tracer.abi.table import Table


class Held(NamedTuple):
    """What of an argument's values would stop an attacker."""

    bits: int | None
    """Only these bits, 0 for none; None for all."""
    groups: tuple[tuple[int, ...], ...]
    """Values that are allowed together, ascending."""
    why: str


@cache
def decisions(arch: Arch) -> Mapping[tuple[str, str, str], Held]:
    """The rows by call, argument, and family of constants ('' for none)."""
    lines = table_text(__spec__, "held.tsv").splitlines()
    found: dict[tuple[str, str, str], Held] = {}
    for line in [line for line in lines if not line.startswith("#")][1:]:
        calls, arguments, names, holds, why = line.split("\t")
        held = Held(_bits(holds, arch), _groups(holds, arch), why)
        for call in calls.split(","):
            for argument in arguments.split(","):
                for name in names.split(","):
                    found[call, argument, "" if name == "none" else name] = held
    return found


def loosened(rule: Rule, observation: Observation, calls: Table, narrowed: Collection[int]) -> Rule:
    """Return the rule of an observation, less what would not stop an attacker.

    `narrowed` are arguments that every alternative of the policy compares: where learning compares nothing, a person did."""
    meanings = calls.arguments(observation.number, observation.example)
    name = calls.by_number[observation.number].name
    found: list[Element] = []
    for index, (element, value, meaning) in enumerate(zip(rule, observation.arguments, meanings, strict=True)):
        held = decisions(calls.arch).get((name, meaning.name, meaning.constants))
        if element is None or held is None or value is None:
            found.append(element)
        elif group := next((values for values in held.groups if value in values), ()):
            found.append(Condition(index, Operator.ONE_OF, values=group))
        elif held.bits:
            found.append(Condition(index, Operator.MASKED, value & held.bits, held.bits))
        else:
            found.append(element if held.bits is None or index in narrowed else None)
    return tuple(found)


def _bits(holds: str, arch: Arch) -> int | None:
    """The bits of a cell; those that the architecture has."""
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
