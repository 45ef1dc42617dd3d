"""`learn --within BASE`: the baseline, and what a run did that it forbids."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from callfence.shared.inputs import document
from callfence.shared.text import plural, printable
from policygen.evaluate import evaluate
from policygen.language.naming import format_action, format_call
from policygen.language.normal import normal
from policygen.learning.within import within
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from policygen.language.document import Document
    from policygen.model import Policy
    from policygen.recording.model import Observation

MANY = 40
"""Lines of forbidden calls that are shown; the recording has all of them."""


def read(name: str) -> Policy:
    """A policy, or a container profile (JSON).  Raises UserError."""
    return document(name).policy


def is_within(document: Document, policy: Path, base: Policy) -> bool:
    """Whether a policy allows nothing that the baseline does not.  Raises UserError if it cannot be reduced to it, and
    PolicyError."""
    existing = document.policy
    try:
        return within(existing, base) == normal(existing)
    except ValueError as error:
        raise UserError(f"{policy}: {error}") from error


def print_forbidden(name: str, base: Policy, forbidden: Sequence[Observation], file: TextIO) -> None:
    """For each call: how often, an example, by what program, and what the baseline answers."""
    if not forbidden:
        return
    made = plural(sum(one.calls for one in forbidden), "call")
    print(f"{name} forbids what the program did, in {made}; it is not added to the policy:", file=file)
    rows = [_row(base, list(those)) for _, those in groupby(forbidden, key=lambda one: (one.arch, one.number))]
    width = max(len(count) for count, _ in rows)
    for count, text in rows[:MANY]:
        print(f"  {count:>{width}} x {text}", file=file)
    if len(rows) > MANY:
        print(f"  ... and {plural(len(rows) - MANY, 'call')} more", file=file)
    file.flush()


def _row(base: Policy, those: Sequence[Observation]) -> tuple[str, str]:
    """One line about the observations of one call."""
    first = those[0]
    answers = {format_action(evaluate(base, one.event)) for one in those} - {"allow", "log"}
    answer = ", ".join(sorted(answers)) or "allowed in part"
    return f"{sum(one.calls for one in those):,}", f"{format_call(first.event)} by {printable(first.executable)}: {answer}"
