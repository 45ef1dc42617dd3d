"""Extend the entry of one call by the observations of that call.

Calls that an entry explicitly allows or denies are left unchanged; calls that get the policy's default are learned.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from callfence.policygen.holds import exact, holds_at
from callfence.policygen.language.naming import format_entry
from callfence.policygen.learning.floor import OPAQUE
from callfence.policygen.learning.generalise import Widened, Widening, caller, generalise, learned, literal
from callfence.policygen.learning.rule import Rule, expression, join, key, meanings_in, read
from callfence.policygen.model import ENOSYS, Action, Always, Entry, Expression, Or, alternatives, constrained, mentioned
from callfence.policygen.recording.model import Observation, recorded_values
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Argument, Event, Kind, table_of
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from callfence.policygen.model import Policy
    from callfence.tracer.abi.table import Table

_BATCH = 2000
"""Number of rules judged in one space, which has room for a million nodes: a rule takes up to 400."""


class Judged(NamedTuple):
    """Observations of one call, sorted by whether the policy allows them; each group keeps their order."""

    new: tuple[Observation, ...]
    """Observations with events that get the default, which does not allow them."""
    refused: tuple[Observation, ...]
    """Observations of which the entry explicitly denies everything that the policy does not allow; or all of a call that can
    have no entry (`evaluate.opens_others`)."""
    allowed: tuple[Observation, ...]

    @property
    def is_beyond(self) -> bool:
        """Whether the policy denies some of the observations."""
        return bool(self.new or self.refused)


def sort_out(entry: Entry | None, default: Action, observations: Sequence[Observation], calls: Table) -> Judged:
    """Sort observations of a call by whether its entry, None if there is none, allows them.

    An observation counts as new unless the entry allows every call that may have been folded into it: an unneeded rule in the
    diff is better than a denial."""
    if entry is None:
        return Judged((), (), tuple(observations)) if default.allows else Judged(tuple(observations), (), ())
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
        elif not (action or default).allows:
            (new if action is None else against).add(rule)
    for first in range(0, len(undecided), _BATCH):
        sets = space()
        allowed, refused = regions(sets, entry, default, plain)
        for rule in undecided[first : first + _BATCH]:
            rest = sets.ite(allowed, FALSE, to_bdd(sets, expression(rule, plain), plain))
            if rest != FALSE:
                (new if sets.ite(refused, FALSE, rest) != FALSE else against).add(rule)
    by_rule = list(zip(observations, rules, strict=True))
    return Judged(
        tuple(observation for observation, rule in by_rule if rule in new),
        tuple(observation for observation, rule in by_rule if rule in against),
        tuple(observation for observation, rule in by_rule if rule not in new and rule not in against),
    )


def _plainly_holds(entry: Entry, wanted: Expression, arguments: Sequence[Argument]) -> bool | None:
    """Return whether the entry's expression holds (True) or fails (False) for all calls of `wanted`, if it compares only
    arguments for which `wanted` has a single value; also True if one such alternative holds.  None if this shortcut does not
    decide.

    It decides most observations, in a hundredth of the time of the algebra."""
    if entry.expression == Always(False):
        return None  # `deny` is no absence: see `regions`
    registers = exact(wanted)
    parts = alternatives(entry.expression)
    decided = [part for part in parts if mentioned(part) <= registers.keys()]
    if any(holds_at(part, arguments, registers) for part in decided):
        return True
    return False if len(decided) == len(parts) else None


def regions(sets: Space, entry: Entry, default: Action, plain: Sequence[Argument]) -> tuple[int, int]:
    """Return the set of calls that are allowed, and the set that the entry itself denies."""
    if entry.expression == Always(False) and entry.otherwise is None:
        return FALSE, TRUE  # `deny`: written to say just that
    try:
        holds = to_bdd(sets, entry.expression, plain)
    except TooComplexError:
        return FALSE, FALSE
    fails = sets.invert(holds)
    allowed = refused = FALSE
    for region, action in ((holds, entry.action), (fails, entry.otherwise)):
        if (action or default).allows:
            allowed = sets.or_(region, allowed)
        elif action is not None:
            refused = sets.or_(region, refused)
    return allowed, refused


class Options(NamedTuple):
    """The options of learning."""

    names_only: bool = False
    """Allow calls by name, with any arguments."""
    tight: bool = False
    """Restrict free arguments to the observed values, where enough runs agree."""
    allow_opaque: Collection[str] = ()
    """The calls with arguments behind pointers (`floor.OPAQUE`) to allow."""
    implied: int = 0
    """The version of the implied set that a new policy gets; 0 for none.  With a set, bits that can be set later are free."""
    portable: bool = False
    """Make the policy portable to other C libraries (`policygen.learning.portable`), if it is not."""
    default: Action | None = None
    """The policy's default action; None keeps the existing policy's, and is kill for a new policy."""


DEFAULTS = Options()


class Extended(NamedTuple):
    """An extended entry, the alternatives that were added, and the observations that it allows or denies."""

    entry: Entry | None
    """The extended entry; None if the call needs no entry."""
    added: tuple[Expression, ...] = ()
    """The alternatives that were added."""
    allowed: tuple[Observation, ...] = ()
    """The observations that the entry allows."""
    refused: tuple[Observation, ...] = ()
    """Those of `Judged.refused`; they are not added."""
    widenings: Mapping[Widened, int] = MappingProxyType({})


class Grown(NamedTuple):
    """A policy with the equivalents of what it allows (`learning.portable`)."""

    policy: Policy
    grown: tuple[tuple[Arch, int], ...] = ()
    """The calls of which the policy now allows more."""
    reasons: Mapping[tuple[Arch, int], str] = MappingProxyType({})
    """Call that had no entry before -> the note that says why it is allowed (`layout.NOTE_WORDS`)."""


def extend(entry: Entry | None, judged: Judged, calls: Table, options: Options, *, by_hand: bool = True) -> Extended:
    """Return the entry that allows what `entry` does and the observations of that call, as sorted by `sort_out`.

    Alternatives that a person wrote or narrowed stay.  If every alternative constrains an argument, and one of them where
    learning leaves it free, the added ones constrain it too where its values are recorded; unless `by_hand` is False: no person
    wrote any of the entry."""
    allowed = (*judged.allowed, *judged.new)
    number = (*allowed, *judged.refused)[0].number
    name = calls.by_number[number].name
    if entry is None and judged.refused:  # the policy can have no entry for it
        return Extended(None, (), allowed, judged.refused)
    if name in OPAQUE and entry in (None, Entry(Always(True), ENOSYS)):
        return _opaque(name, entry, (*allowed, *judged.refused), options)
    if not judged.new:
        return Extended(entry, (), allowed, judged.refused)
    generalised = generalise(
        judged.new,
        calls,
        names_only=options.names_only,
        tight=options.tight,
        by_hand=_by_hand(entry, calls, number) if entry and by_hand else (),
        loose=bool(options.implied),
        narrowed=constrained(entry.expression) if entry and by_hand else (),
    )
    before = alternatives(entry.expression) if entry else ()
    after = minimise(_joined(before, generalised.rules, calls, number), calls.by_number[number].arguments)
    whole = Or.of(after)
    added = tuple(alternative for alternative in after if alternative not in before)
    extended = Entry(whole) if entry is None else replace(entry, expression=whole)
    return Extended(extended, added, allowed, judged.refused, generalised.widenings)


def _by_hand(entry: Entry, calls: Table, number: int) -> frozenset[int]:
    """Return the arguments that every alternative constrains, and that one of them constrains where learning leaves them free:
    a person has narrowed them.

    What an argument means depends on others: `arg` of `fcntl: cmd == F_SETSIG && arg == SIGIO` was learned."""
    every = constrained(entry.expression)
    return frozenset().union(*(_unlearned(part, calls, number) for part in alternatives(entry.expression))) & every


def _unlearned(alternative: Expression, calls: Table, number: int) -> frozenset[int]:
    """Return the arguments that an alternative compares where learning leaves them free."""
    rule, meanings = read(alternative, calls, number), meanings_in(alternative, calls, number)
    if rule is None:
        return mentioned(alternative)
    return frozenset(
        index
        for index, (element, meaning) in enumerate(zip(rule, meanings, strict=True))
        if element is not None
        and not (meaning.kind.is_constrained and (meaning.kind is not Kind.TASK or element == caller(meaning, index, 0)))
    )


def allowing_line(event: Event) -> str | None:
    """Return the entry that learning would write for this call, to be added to the section of the event's architecture; None if
    no policy can allow the call (another architecture, an x32 call, a number that no table has)."""
    calls = table_of(event.arch, event.number)
    if calls is None:
        return None
    observation = Observation(event.arch, event.number, recorded_values(calls, event), "", (1,), "", event.arguments)
    rule = learned(observation, calls)
    return format_entry(calls.arch, event.number, Entry(expression(rule, calls.by_number[event.number].arguments)))


def _opaque(name: str, entry: Entry | None, observations: Sequence[Observation], options: Options) -> Extended:
    if name not in options.allow_opaque:
        return Extended(Entry(Always(True), ENOSYS), () if entry else (Always(True),))
    first = observations[0]
    widened = Widened(first.arch, first.number, -1, Widening.NAMES)
    allowed = tuple(observations)
    return Extended(Entry(Always(True)), (Always(True),), allowed, widenings={widened: len(allowed)})


def _joined(alternatives: Sequence[Expression], rules: Sequence[Rule], calls: Table, number: int) -> tuple[Expression, ...]:
    """Return the alternatives and the rules as alternatives, with rules of the same key joined.  Learning never writes two
    alternatives with one key.  If there are two, a person has split them: they stay."""
    arguments = calls.by_number[number].arguments
    written = [read(alternative, calls, number) for alternative in alternatives]
    times = Counter(key(rule) for rule in written if rule is not None)
    new = {key(rule): rule for rule in rules}
    joined = []
    for alternative, rule in zip(alternatives, written, strict=True):
        if rule is not None and key(rule) in new and times[key(rule)] == 1:
            joined.append(expression(join(rule, new.pop(key(rule))), arguments))
        else:
            joined.append(alternative)
    return (*joined, *(expression(rule, arguments) for rule in new.values()))
