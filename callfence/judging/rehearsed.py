"""What rehearsed runs did and the policy does not allow: learn leaves it for a person to decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.shared.text import plural, printable
from enforcer.reporting.advice import advise
from policygen.evaluate import evaluate
from policygen.language.naming import format_call
from policygen.review.risk import needs_a_person

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.model import Policy
    from policygen.recording.model import Recording


def held_back_lines(path: str, policy: Policy, recording: Recording) -> Iterator[str]:
    """What the catalogue warns of, with the command that allows it."""
    dangerous = [seen for seen in recording.observations if recording.rehearsed(seen) and needs_a_person(seen)]
    found = [seen for seen in dangerous if not evaluate(policy, seen.event).lets_run]
    if found:
        yield f"not added by learn, which saw {plural(len(found), 'call')} in rehearsals alone:"
    for seen in found:
        yield f"  {format_call(seen.event)}"
        yield f"    {printable(seen.executable)}, when {printable(recording.rehearsed(seen)[0])}"
        advice = advise(policy, path, seen.event)
        yield f"    {advice.what}"
