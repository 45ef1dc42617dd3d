"""What `learn` has made of a run, as its summary tells it; and in words, how complete a policy is likely to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.language.naming import format_value
from policygen.model import Always
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from policygen.completeness.confidence import Confidence
    from policygen.completeness.discovery import Discovery, Growing
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


def sureness(sure: Confidence, found: Discovery) -> str:
    """What the runs tell about the next run, on one line."""
    if sure.chance is None:
        return "one run says nothing about the next one: record more runs"
    text = f"{sure.runs} runs; "
    if sure.at_most is not None:
        text += "none is known to need a rule that the others do not: "
        text += at_most(sure.at_most)
    else:
        text += f"about {sure.chance:.0%} that one more run needs something new"
    if found.estimate is not None and found.estimate.once:
        text += f", {expected(found.estimate.expected)} on average"
    if sure.last_new is not None:
        text += f"; the last new rule came with run {sure.last_new.id[:8]}"
    if sure.single:
        text += f"; seen in one run only: {_some([call_name(*call) for call in sure.single])}"
    if found.growing:
        text += f"; still growing: {_some([f'{name_of(one)} {one.argument.name}' for one in found.growing])}"
    return text


def at_most(chance: float) -> str:
    """`one more needs something new in at most 5 of 100 cases (95% confidence)`."""
    return f"one more needs something new in at most {chance * 100:.0f} of 100 cases (95% confidence)"


def has_names_only(policy: Policy) -> bool:
    """Whether the policy has no conditions at all, as `learn --names` writes it."""
    return all(isinstance(entry.expression, Always) for section in policy.entries.values() for entry in section.values())


def expected(rules: float) -> str:
    """`2.5 new rules`."""
    text = f"{rules:.1f}".removesuffix(".0")
    return f"{text if rules >= 0.05 else 'under 0.1'} new rule{'' if text == '1' else 's'}"


def newest(one: Growing) -> str:
    """The newest value of a growing argument, by its constants."""
    return format_value(one.arch, one.argument, one.newest)


def name_of(one: Growing) -> str:
    return table(one.arch).by_number[one.number].name


def call_name(audit: int, number: int) -> str:
    """`audit` is AUDIT_ARCH_*, as in an observation."""
    arch = Arch.from_audit(audit)
    call = table(arch).by_number.get(number) if arch else None
    return call.name if call else f"call {number}"


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:MANY])}{' ...' if len(names) > MANY else ''}"
