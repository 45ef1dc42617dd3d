"""What was seen of the calls that a change makes possible, as Markdown for a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.differences import call_name
from callfence.judging.sites import by_site, such_as
from callfence.judging.symbols import Site
from callfence.shared.markdown import code
from callfence.shared.text import plural
from policygen.comparing.compare import Change
from policygen.evaluate import evaluate
from policygen.review.companion import is_companion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policygen.model import Policy
    from policygen.recording.model import Observation, Recording
    from policygen.review.risk import Ranked

_MANY_CALLS, _MANY_SITES, _MANY_FACTS = 12, 3, 4
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
        if shown <= _MANY_CALLS:
            yield f"- {code(call_name(difference))}: {'; '.join(_sites(those, bare=bare))}"
    if shown > _MANY_CALLS:
        yield f"- ... and {plural(shown - _MANY_CALLS, 'call')} more: `callfence why` tells all of it"


def _sites(those: Sequence[Observation], *, bare: bool) -> Iterator[str]:
    found = by_site(those)
    for (executable, site), ones in found[:_MANY_SITES]:
        call, others = such_as(ones, bare=bare)
        more = others[:_MANY_FACTS] + ["..."] * (len(others) > _MANY_FACTS)
        facts = f", and {', '.join(map(code, more))}" if more else ""
        yield f"{code(executable)} at {code(site if bare else str(Site.parse(site) or site))}: {code(call)}{facts}"
    if len(found) > _MANY_SITES:
        yield f"and {plural(len(found) - _MANY_SITES, 'more place')}"

