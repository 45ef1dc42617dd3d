"""What a policy already says about observations.

What it says in so many words stays as it is, be it a permission or a refusal; what falls to its default is learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.holds import exact, holds_at
from policygen.learning.generalise import literal
from policygen.learning.rule import expression
from policygen.model import Action, Always, Entry, alternatives, mentioned
from policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from policygen.sets.region import space, truth
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.learning.rule import Rule
    from policygen.model import Expression
    from policygen.recording.observation import Observation
    from tracer.abi import Argument
    from tracer.abi.table import Table

_MANY = 2000
"""Rules judged in one space, which has room for a million nodes: each takes up to 400."""


class Known(NamedTuple):
    """Observations of one call, by what the policy says of them.  One that it allows is in neither."""

    new: tuple[Observation, ...]
    """Some of the events folded into it fall to a default that does not allow them."""
    refused: tuple[Observation, ...]
    """All that the policy does not allow of it, an entry refuses in so many words."""


def sort_out(entry: Entry | None, default: Action, observations: Sequence[Observation], calls: Table) -> Known:
    """What an entry, or its absence, says of observations of its call.

    An observation of which nothing is known but an example counts as new unless the entry allows all that it may
    stand for: better a rule too many in the diff than a denial.
    """
    if entry is None:
        return Known(() if default.lets_run else tuple(observations), ())
    plain = calls.by_number[observations[0].number].arguments
    rules = [literal(observation, calls) for observation in observations]
    new: set[Rule] = set()
    against: set[Rule] = set()
    undecided = []
    for rule in dict.fromkeys(rules):
        holds = _plainly_holds(entry, expression(rule, plain), plain)
        action = entry.action if holds else entry.otherwise
        if holds is None:
            undecided.append(rule)
        elif not (action or default).lets_run:
            (new if action is None else against).add(rule)
    for first in range(0, len(undecided), _MANY):
        sets = space()
        allowed, refused = regions(sets, entry, default, plain)
        for rule in undecided[first : first + _MANY]:
            rest = sets.choose(allowed, FALSE, truth(sets, expression(rule, plain), plain))
            if rest != FALSE:
                (new if sets.choose(refused, FALSE, rest) != FALSE else against).add(rule)
    both = list(zip(observations, rules, strict=True))
    return Known(tuple(one for one, rule in both if rule in new), tuple(one for one, rule in both if rule in against))


def _plainly_holds(entry: Entry, wanted: Expression, arguments: Sequence[Argument]) -> bool | None:
    """Whether the entry's expression holds for all that is wanted, or for nothing of it, where it compares only arguments of
    which one value is wanted; also True if one of its alternatives is such and holds.  Else None.

    So it is with most observations; the algebra takes a hundred times as long."""
    if entry.expression == Always(False):
        return None  # `deny` is no absence: see `regions`
    registers = exact(wanted)
    parts = alternatives(entry.expression)
    decided = [part for part in parts if mentioned(part) <= registers.keys()]
    if any(holds_at(part, arguments, registers) for part in decided):
        return True
    return False if len(decided) == len(parts) else None


def regions(sets: Space, entry: Entry, default: Action, plain: Sequence[Argument]) -> tuple[int, int]:
    """Where the call is allowed, and where the entry itself refuses it."""
    if entry.expression == Always(False) and entry.otherwise is None:
        return FALSE, TRUE  # `deny`: written to say just that
    try:
        holds = truth(sets, entry.expression, plain)
    except TooComplexError:
        return FALSE, FALSE
    fails = sets.invert(holds)
    allowed = refused = FALSE
    for region, action in ((holds, entry.action), (fails, entry.otherwise)):
        if (action or default).lets_run:
            allowed = sets.either(region, allowed)
        elif action is not None:
            refused = sets.either(region, refused)
    return allowed, refused
