"""What `learn` has made of a run, as its summary tells it; and in words, how complete a policy is likely to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.model import Always
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from policygen.completeness import Estimate
    from policygen.language.document import Document
    from policygen.learning.generate import Generated
    from policygen.model import Policy
    from policygen.recording.model import Recording, Run

MANY = 4
"""The most calls that a line names."""


class Learned(NamedTuple):
    """A run that has been added to its recording and its policy."""

    policy: Path
    recording: Recording
    run: Run
    existing: Document | None
    generated: Generated
    exact_within: str = ""
    """The baseline that has no room for the implied set which the policy would have otherwise."""


def sureness(estimate: Estimate) -> str:
    """Return what the runs say about the next run, on one line."""
    if estimate.chance is None:
        return "one run says nothing about the next one: record more runs"
    if estimate.at_most is not None:
        text = (
            "none is known to need a rule that the others do not: one more needs something new in at most"
            f" {estimate.at_most * 100:.0f} of 100 cases (95% confidence)"
        )
    else:
        text = f"about {estimate.chance:.0%} that one more run needs something new"
    names = [call_name(*call) for call in estimate.single]
    single = f"; seen in one run only: {', '.join(names[:MANY])}{' ...' if len(names) > MANY else ''}" if names else ""
    return f"{estimate.runs} runs; {text}{single}"


def has_names_only(policy: Policy) -> bool:
    """Whether the policy has no conditions at all, as `learn --names` writes it."""
    return all(isinstance(entry.expression, Always) for section in policy.entries.values() for entry in section.values())


def call_name(audit: int, number: int) -> str:
    """`audit` is AUDIT_ARCH_*, as in an observation."""
    arch = Arch.from_audit(audit)
    call = table(arch).by_number.get(number) if arch else None
    return call.name if call else f"call {number}"
