"""The calls that led to a rule, or that a change makes possible: who made them, from which call site first, and where the rule
allows more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.differences import call_name
from callfence.judging.symbols import Site
from callfence.shared.text import code, plural, printable
from policygen.comparing.compare import Change
from policygen.evaluate import evaluate
from policygen.evidence.facts import examples
from policygen.language.naming import format_call
from policygen.recording.model import joined
from policygen.review.companion import is_companion
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.judging.symbols import Symbols
    from policygen.learning.generalise import Widening
    from policygen.model import Policy
    from policygen.recording.model import Observation, Recording
    from policygen.review.risk import Ranked
    from policygen.review.why import Provenance
    from tracer.abi import Argument

MANY_FACTS = 8
"""Facts of one call site that are listed besides those in its example."""
MANY_SITES = 8
"""Call sites of one rule that are listed."""


def columns_of(observations: Sequence[Observation]) -> list[int]:
    return sorted({column for seen in observations for column, count in enumerate(seen.counts) if count})


def site_lines(observations: Sequence[Observation], recording: Recording, symbols: Symbols) -> Iterator[str]:
    """For each executable, its first call site and how many calls it made; of a companion all its call sites."""
    ordered, bare = by_site(observations), is_companion(recording)
    for (executable, site), those in ordered[:MANY_SITES]:
        if bare:
            yield f"  {printable(executable)}, at {printable(site)}, such as"
        else:
            count = plural(sum(seen.calls for seen in those), "call")
            place = symbols.describe(site, recording.runs[columns_of(those)[0]].started)
            yield f"  {printable(executable)}, first at {printable(place)}: {count}, such as"
        call, others = such_as(those, bare=bare)
        yield f"    {call}"
        yield from (f"      and {fact}" for fact in others)
    if len(ordered) > MANY_SITES:
        yield f"  ... and {len(ordered) - MANY_SITES} call sites more"


def such_as(those: Sequence[Observation], *, bare: bool = False) -> tuple[str, list[str]]:
    """A call of the first, with what its pointers may point to, and what else those of all were seen to point to.

    `bare`: they are of a companion, which does not know all arguments.
    """
    event = those[0].event
    unknown = [index for index, value in enumerate(those[0].arguments) if value is None] if bare else []
    first, others = examples(event, joined({fact for seen in those for fact in seen.evidence}))
    if len(others) > MANY_FACTS:
        others[MANY_FACTS:] = [f"{len(others) - MANY_FACTS} more"]
    return format_call(event, first, {*unknown} - first.keys()), others


def by_site(observations: Sequence[Observation]) -> list[tuple[tuple[str, str], list[Observation]]]:
    """Those of each executable and first call site, the most frequent first."""
    groups: dict[tuple[str, str], list[Observation]] = {}
    for seen in observations:
        groups.setdefault((seen.executable, seen.site), []).append(seen)
    return sorted(groups.items(), key=lambda item: (-sum(seen.calls for seen in item[1]), item[0]))


def widened(one: Provenance) -> str:
    """`dfd, mode: any value; flags: any combination of the bits seen`."""
    arguments = _meanings(one)
    by_way: dict[Widening, list[str]] = {}
    for index, way in one.widenings:
        by_way.setdefault(way, []).append(arguments[index].name)
    return "; ".join(f"{', '.join(names)}: {way}" for way, names in by_way.items())


def _meanings(one: Provenance) -> tuple[Argument, ...]:
    return table(one.arch).by_number[one.number].arguments


_COMMENT_CALLS, _COMMENT_SITES, _COMMENT_FACTS = 12, 3, 4
"""What a comment has room for."""


def behind_lines(old: Policy, new: Policy, told: Sequence[Ranked], recording: Recording) -> Iterator[str]:
    """A list with an item for each call that became possible and was seen; nothing if none was."""
    bare, shown = is_companion(recording), 0
    for one in told:
        difference = one.difference
        those = [
            seen
            for seen in recording.observations
            if (seen.arch, seen.number) == (difference.arch.audit, difference.number)
            and not evaluate(old, seen.event).lets_run
            and evaluate(new, seen.event).lets_run
        ]
        if difference.change is not Change.MORE or not those:
            continue
        if not shown:
            yield from ("", "Seen behind it:", "")
        shown += 1
        if shown <= _COMMENT_CALLS:
            yield f"- {code(call_name(difference))}: {'; '.join(_sites(those, bare=bare))}"
    if shown > _COMMENT_CALLS:
        yield f"- ... and {plural(shown - _COMMENT_CALLS, 'call')} more: `callfence why` tells all of it"


def _sites(those: Sequence[Observation], *, bare: bool) -> Iterator[str]:
    found = by_site(those)
    for (executable, site), ones in found[:_COMMENT_SITES]:
        call, others = such_as(ones, bare=bare)
        more = others[:_COMMENT_FACTS] + ["..."] * (len(others) > _COMMENT_FACTS)
        facts = f", and {', '.join(map(code, more))}" if more else ""
        yield f"{code(executable)} at {code(site if bare else str(Site.parse(site) or site))}: {code(call)}{facts}"
    if len(found) > _COMMENT_SITES:
        yield f"and {plural(len(found) - _COMMENT_SITES, 'more place')}"
