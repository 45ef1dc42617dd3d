"""All that a reviewer is to know of a change from one policy to another."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING

from policygen.comparing.compare import Comparison, compare
from policygen.lint.catalogue import TOO_COMPLEX, Level
from policygen.lint.combined import Combined, completed, listed
from policygen.lint.files import judged
from policygen.lint.findings import Finding, lint
from policygen.review.risk import Ranked, ranked
from policygen.review.settings import Setting, settings
from policygen.sets.region import Budget
from policygen.values import frozen
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.language.document import Document
    from tracer.abi import Arch


@frozen
class Headline:
    """What is told before all else: a setting that differs, or a combination that is complete now."""

    level: Level
    rule: str
    """Stable id."""
    arch: Arch | None
    """None for a setting."""
    name: str
    """Word of the setting, or the first call that completes the combination."""
    subject: str
    """What differs; `says` follows after a colon."""
    says: str
    why: str = ""
    safer: str = ""
    completing: tuple[str, ...] = ()
    """The calls that complete a combination."""


@frozen
class Reason:
    """Why a finding is accepted, as a `# why:` comment says."""

    text: str
    is_new: bool
    """Whether the reason comes with the change that it excuses."""

    def __str__(self) -> str:
        return f"accepted {'in this change' if self.is_new else 'before'}, by this reason: {self.text}"


@frozen
class Judgement:
    comparison: Comparison
    headlines: tuple[Headline, ...]
    """The most dangerous first; of equal ones settings first."""
    differences: tuple[Ranked, ...]
    """By architecture, the most dangerous first."""
    reasons: Mapping[tuple[Arch | None, str, str], Reason]
    """By architecture, name and rule of what is accepted in the new policy."""

    def reason(self, headline: Headline) -> Reason | None:
        """Return why a headline is accepted.  A combination may be accepted on any call that takes part."""
        named = ((key, reason) for key, reason in self.reasons.items() if key[2] == headline.rule)
        return next((reason for (arch, name, _), reason in named if arch or name == headline.name), None)

    @property
    def told(self) -> tuple[Ranked, ...]:
        """The differences that grant something, or no longer do."""
        return tuple(one for one in self.differences if not one.idle)

    @property
    def idle(self) -> tuple[Ranked, ...]:
        """The differences that grant nothing beyond the rest of the policy, and no longer allowing such."""
        return tuple(one for one in self.differences if one.idle)


def judge(old: Document, new: Document, budget: Budget | None = None) -> Judgement:
    """Judge the change from one policy to another.  What takes more work than `budget` is a danger that is told first."""
    budget = budget or Budget()
    comparison = compare(old.policy, new.policy, budget)
    differences = ranked(old.policy, new.policy, comparison, budget)
    unjudged = {(one.difference.arch, one.difference.example.number) for one in differences if TOO_COMPLEX in one.dangers}
    headlines = [
        *starmap(_of_unjudged, sorted({*comparison.unjudged, *unjudged})),
        *map(_of_setting, settings(old.policy, new.policy)),
        *map(_of_combination, completed(old.policy, new.policy, budget.space)),
        *(Headline(Level(one.level), one.rule, None, *one[2:]) for one in judged(old.policy.files, new.policy.files)),
    ]
    headlines.sort(key=lambda one: -one.level.rank)
    reasons = {
        (one.arch, one.name, one.rule): Reason(one.accepted, one.accepted != before)
        for one, before in with_reasons_before(old, new, budget)
        if one.accepted
    }
    return Judgement(comparison, tuple(headlines), differences, reasons)


def with_reasons_before(old: Document, new: Document, budget: Budget | None = None) -> list[tuple[Finding, str]]:
    """Return the findings of the new policy, each with the reason for which the old one accepted it; ''."""
    before = {(one.arch, one.name, one.rule): one.accepted for one in lint(old, budget)}
    return [(one, before.get((one.arch, one.name, one.rule), "")) for one in lint(new, budget)]


def _of_unjudged(arch: Arch, number: int) -> Headline:
    name, row = table(arch).by_number[number].name, TOO_COMPLEX
    return Headline(row.level, row.id, arch, name, name, f"it {row.grants}", row.why, row.safer)


def _of_setting(one: Setting) -> Headline:
    return Headline(one.level, one.rule, None, one.word, one.what, one.says)


def _of_combination(one: Combined) -> Headline:
    """Completing a chain is a danger, also of one that a policy may well have: a reviewer decides it here, or never."""
    new, others = one.calls[: one.new], one.calls[one.new :]
    subject = f"{listed(new)}, with {listed(others)}" if others else listed(new)
    row = one.row
    return Headline(Level.DANGER, row.id, one.arch, new[0], subject, f"it {row.grants}", row.why, row.safer, new)
