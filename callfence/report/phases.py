"""The phases of a policy: what each allows, where the trigger lies, and what falls away there."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from callfence.report.charts import Column, columns
from callfence.report.markup import Child, Html, code, element, items, join, lines, table
from callfence.report.overview import badge
from callfence.shared.text import plural
from policygen.implied.expand import expanded
from policygen.language.document import Document
from policygen.language.naming import format_entry
from policygen.lint.findings import grants
from policygen.model import Entry, alternatives
from policygen.phases import START, phase_policies
from policygen.sets.region import Budget
from tracer.abi import Arch
from tracer.abi import table as calls_of
from tracer.abi.waits import bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callfence.report.content import Report
    from policygen.model import Phase, Policy


def phases(report: Report) -> Html:
    """A drawing of the phases in their order, and for each what is gone in it."""
    policy = report.document.policy
    triggers = {phase.name: ", ".join(phase.triggers) for phase in policy.phases}
    shown = [Column(name, _count(one), triggers.get(name, "")) for name, one in phase_policies(policy)]
    said = "; ".join(f"{one.name}: {plural(one.value, 'call')}" for one in shown)
    parts = [
        element("p", "A process begins in ", code(START), ", and enters the next phase with its first call at the line."),
        columns("phases", "Calls that are allowed, by phase", said, shown),
    ]
    rows = zip(policy.phases, pairwise(phase_policies(policy)), strict=True)
    return lines(*parts, *(_gone(report, phase, before, after) for phase, ((_, before), (_, after)) in rows))


def _gone(report: Report, phase: Phase, before: Policy, after: Policy) -> Html:
    """What a phase ends, and what was seen before and after its trigger."""
    budget = Budget()
    levels = {(one.arch, one.name): one.level for one in grants(Document(before), budget)}
    still = {(one.arch, one.name) for one in grants(Document(after), budget)}
    rows: list[tuple[Child, ...]] = []
    for arch, number, entry in _ended(before, after):
        key = arch, calls_of(arch).by_number[number].name
        text = format_entry(arch, number, entry)
        danger: Child = "" if key not in levels else join(badge(levels[key]), " stays in part" if key in still else "")
        rows.append((code(text), danger))
    title = f"Gone in {phase.name}, after {', '.join(phase.triggers)}"
    kept = [code(name) for _, name in sorted(still, key=str)]
    stays = join("What is dangerous and stays: ", *_listed(kept), ".") if kept else join("Nothing that is dangerous stays.")
    gone = table(title, ("Allowed until then", "Risk"), rows)
    return join(element("h3", title), _seen(report, phase), gone, element("p", stays))


def _seen(report: Report, phase: Phase) -> Html:
    """How many kinds of calls the recorded runs made before and after the trigger."""
    after = bits(phase.triggers)
    sides = [{bool(one & after) for one in seen.after} for seen in report.recording.observations if seen.after]
    if not sides:
        return element("p", "No recorded run was followed through its phases.")
    counts = [sum(side == kind for side in sides) for kind in ({False}, {True, False}, {True})]
    words = ("before it only", "before and after it", "after it only")
    said = items(f"{plural(count, 'kind')} of call {word}" for count, word in zip(counts, words, strict=True))
    return join(element("p", "Seen in recorded runs:"), said)


def _ended(before: Policy, after: Policy) -> Iterator[tuple[Arch, int, Entry]]:
    """The alternatives that are gone, each as an entry, by architecture and name."""
    for arch, section in before.entries.items():
        for number in sorted(section, key=lambda one: calls_of(arch).by_number[one].name):
            entry, now = section[number], after.entries.get(arch, {}).get(number)
            left = alternatives(now.expression) if now and now.action == entry.action else ()
            for part in alternatives(entry.expression):
                if part not in left:
                    yield arch, number, Entry(part, entry.action)


def _count(policy: Policy) -> int:
    """How many calls are allowed in some way, with the implied set."""
    entries = (entry for section in expanded(policy).entries.values() for entry in section.values())
    return sum(entry.action.lets_run and bool(alternatives(entry.expression)) for entry in entries)


def _listed(parts: list[Html]) -> list[Child]:
    return [piece for part in parts for piece in (", ", part)][1:]
