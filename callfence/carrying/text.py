"""What `callfence carry` prints: how each call was carried, what was proved, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from callfence.policygen.equivalents.carry import Carried
from callfence.policygen.equivalents.compare import Gap
from callfence.policygen.equivalents.section import Loss
from callfence.policygen.language.naming import format_call, format_expression
from callfence.shared.text import plural
from callfence.tracer.abi import name_of


def as_lines(place: str, done: Carried, gaps: Sequence[Gap]) -> Iterator[str]:
    """Yield the report on a carried policy, which was written to `place`."""
    source, target = done.source, done.target
    others = [(name, ends) for name, ends in done.ways if ends != (name,)]
    yield f"{place}: arch {target}: {plural(len(done.ways), 'call')} carried from {source}, {len(others)} as other calls"
    for name, ends in others:
        yield f"  {name} -> {', '.join(ends)}"
    yield f"proved: {target} allows no effect that {source} denies"
    missing = [gap for gap in gaps if gap.arch is source]
    lacking = {name_of(gap.arch, gap.number) for gap in missing} | {loss.name for loss in _needed(done)}
    proved = len({name for name, _ in done.ways} - lacking)
    yield f"proved: the same effects for {proved} of {plural(len(done.ways), 'call')}"
    for name, end, more in done.wider:
        yield f"wider: {name} -> {end}: {end} {more}"
    for loss in done.losses:
        if loss.needed:
            what = f": {loss.what}" if loss.what else ""
            yield f"{'narrower' if loss.partly else 'not carried'}: {loss.name}{what}: {loss.why}"
    known = {loss.name for loss in _needed(done)}
    yield from (f"not carried: {next(gap_lines([gap]))}" for gap in missing if name_of(gap.arch, gap.number) not in known)
    for loss in done.losses:
        if not loss.needed:
            yield f"needs no call there: {loss.name}: {loss.what}: {loss.why}"
    for phase, trigger in done.triggers:
        yield f"phase {phase}: begins after {trigger}, too"
    yield from (f"added: {entry}: {why}" for entry, why in done.special)
    for line, there, is_added in done.places:
        yield f"added: {there}" if is_added else f"not added, because it permits changes: {there}, beside {line}"
    if not done.is_whole or missing:
        yield f"next: on {target}, let `learn -o {place}` run what needs the calls that were not carried"


def as_object(name: str, done: Carried, gaps: Sequence[Gap]) -> dict[str, Any]:
    """Return the report as an object for JSON."""
    return {
        "policy": name,
        "from": str(done.source),
        "to": str(done.target),
        "carried": [{"call": call, "as": [*ends]} for call, ends in done.ways],
        "wider": [{"call": call, "as": end, "more": more} for call, end, more in done.wider],
        "not_carried": [
            {"call": loss.name, "rule": loss.what, "why": loss.why, "needed": loss.needed, "partly": loss.partly}
            for loss in done.losses
        ],
        "added": [{"entry": entry, "why": why} for entry, why in done.special],
        "triggers": [{"phase": phase, "call": call} for phase, call in done.triggers],
        "files": [{"line": line, "there": there, "added": is_added} for line, there, is_added in done.places],
        "differences": [gap_object(gap) for gap in gaps],
    }


def gap_lines(gaps: Sequence[Gap]) -> Iterator[str]:
    """Yield a line for each gap: what one architecture allows and the other does not."""
    for gap in gaps:
        phase = f", in phase {gap.phase}" if gap.phase else ""
        rules = " || ".join(_rules(gap)) or "some calls"
        yield f"{gap.arch} allows {name_of(gap.arch, gap.number)}: {rules}{phase}; {gap.other} allows nothing that does this"
        yield f"  for example {format_call(gap.example)}"


def gap_object(gap: Gap) -> dict[str, Any]:
    """Return a gap as an object for JSON."""
    return {
        "arch": str(gap.arch),
        "call": name_of(gap.arch, gap.number),
        "rules": _rules(gap),
        "missing_on": str(gap.other),
        "phase": gap.phase,
        "example": format_call(gap.example),
    }


def _rules(gap: Gap) -> list[str]:
    return [format_expression(gap.arch, gap.number, rule) for rule in gap.rules]


def _needed(done: Carried) -> list[Loss]:
    return [loss for loss in done.losses if loss.needed]
