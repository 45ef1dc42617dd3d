"""Narrow a policy to what its last runs used: rules for calls, rights to files, and ports.

A rule is used if an observed call matches it, or would be denied without it, since the implied set depends on the rules.  What
files and ports runs used is generalised first (`files.generalise`), as `learn` does for a new policy.  Kept, though not used:
what a `# why:` comment accepts, what only rehearsed runs used, notes of tools, included files, and whatever denies a call, or
has a supervisor asked about one, that would be allowed without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.algebra import PATHS, TREES, extended, intersected, line_kind
from callfence.policygen.files.calls import UDP_CONNECT
from callfence.policygen.files.generalise import Use, is_path, kind_of, learned
from callfence.policygen.files.generalise_hosts import connects_by_host, lacks
from callfence.policygen.grants import NONE, NOT_CONFINED, USES, Files, written
from callfence.policygen.holds import holds
from callfence.policygen.language.document import Document
from callfence.policygen.language.layout import Remarks, Section, note_of
from callfence.policygen.language.naming import format_entry
from callfence.policygen.learning.phases import by_role, is_late, waits_of
from callfence.policygen.learning.replay import ReplayError, events, replay
from callfence.policygen.lint.findings import WHY
from callfence.policygen.model import ALLOW, Always, Entry, Expression, Policy, alternatives
from callfence.policygen.phases import phase_policies, reached, with_phases
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Event, table, table_of
from callfence.tracer.abi.table import Table
from callfence.tracer.errors import InternalError
from callfence.tracer.named import NamedTuple

Call = tuple[Arch, int]
Rule = tuple[Arch, int, Expression]


class Unused(NamedTuple):
    """A rule, or a line about files or ports, that the runs did not use, or not all of it."""

    line: str
    """In the policy language, on one line."""
    kept: str = ""
    """Why it is not removed; "" if it is."""
    remains: str = ""
    """The line that remains of it; "" for none."""


class Narrowed(NamedTuple):
    policy: Policy
    """The policy without what can be removed."""
    unused: tuple[Unused, ...]
    """What was not used, in the order of the policy's text."""
    not_judged: tuple[str, ...]
    """What could not be judged, and why, each as a clause."""


def last_runs(recording: Recording, count: int) -> tuple[Run, ...]:
    """Return the last `count` runs that were observed from start to end and not rehearsed, or all if these are fewer."""
    return tuple(run for run in recording.runs if run.complete and not run.rehearsed)[-count:]


def narrowed(document: Document, recording: Recording, runs: Sequence[Run]) -> Narrowed:
    """Return the policy without what these runs of the recording did not use.  Raises InternalError if the result would deny
    what they did and the policy allows: a bug of ours."""
    policy = document.policy
    uses = [run.files for run in runs]
    # A later run does not record what it sends to name servers; and what rehearsed runs used is kept, as far as it is judged.
    judged = {"", *map(kind_of, uses[0])}
    rehearsed = [use for run in recording.runs if run.rehearsed for use in run.files if use[1] != NONE]
    asked = [use for run in recording.runs for use in run.files if use[0] == UDP_CONNECT]
    uses[0] = (*uses[0], *asked, *(use for use in rehearsed if kind_of(use) in judged))
    files, unused, not_judged = _narrowed_files(document, uses)
    warm = sum(run.warm for run in runs)
    if warm:
        not_judged.append(f"calls: {warm} of these runs recorded only new ones (`learn --every-call` records all)")
    elif policy.portable:
        not_judged.append("calls: a `portable` policy has what other C libraries call, which no run here uses")
    else:
        policy, rules = _narrowed_calls(document, recording, {run.id for run in runs})
        unused += rules
    return Narrowed(replace(policy, files=files), tuple(unused), tuple(not_judged))


# Calls


def users(policy: Policy, observations: Sequence[Observation]) -> dict[str, set[int]]:
    """Return each rule of the policy that allows calls, as a line, with the indexes of the observations that use it.

    An observation uses the rules that it matches.  One that matches none and is allowed uses each rule without which it would
    be denied.  Of rules that no observation uses so far, it uses each that would be enough to allow it."""
    used: defaultdict[Call, dict[int, set[Event]]] = defaultdict(dict)
    for at, observation in enumerate(observations):
        if calls := table_of(observation.arch, observation.number):
            used[calls.arch, observation.number][at] = {*events(observation.fitted(calls), calls)}
    rules = _rules(policy)
    result: dict[str, set[int]] = {}
    for line, same in rules.items():
        arch, number, _ = same[0]
        matching = used[arch, number].items()
        result[line] = {at for at, its in matching if any(_matches(rule[2], arch, number, {rule[:2]: its}) for rule in same)}
    others = {*range(len(observations))} - set().union(*result.values())
    implied = {at: observations[at].event for at in others if evaluate(policy, observations[at].event).allows}

    def denied(removed: Collection[Rule]) -> set[int]:
        remaining = with_phases(_each_without(policy, removed), policy.phases)
        return {at for at, event in implied.items() if not evaluate(remaining, event).allows}

    for line, same in rules.items():
        result[line] |= denied(same) if implied else set()
    unclaimed = implied.keys() - set().union(*result.values())
    unused = [line for line, by in result.items() if not by]
    shared = denied([rule for line in unused for rule in rules[line]]) & unclaimed if unclaimed else set()
    for line in unused if shared else ():
        result[line] |= shared - denied([rule for other in unused if other != line for rule in rules[other]])
    return result


def _rules(policy: Policy) -> dict[str, list[Rule]]:
    """Return the rules that allow calls by their lines; several that are written alike are of several phases."""
    rules: defaultdict[str, list[Rule]] = defaultdict(list)
    for _, of_phase in phase_policies(policy):
        for arch, number, entry in of_phase.each():
            for rule in alternatives(entry.expression) if entry.action.may_allow else ():
                rules[_line(arch, number, rule, entry)].append((arch, number, rule))
    return dict(rules)


def _narrowed_calls(document: Document, recording: Recording, ids: set[str]) -> tuple[Policy, list[Unused]]:
    columns = {index for index, run in enumerate(recording.runs) if run.id in ids}
    rehearsed = {index for index, run in enumerate(recording.runs) if run.rehearsed}
    observed = [*_observed(recording, columns)]
    used, elsewhere = _events(observed), _events(_observed(recording, rehearsed))
    before = document.policy
    allowed = [*_allowed(before, observed, recording)]

    def without(rules: Collection[Rule]) -> Policy:
        policies = _each_without(before, rules)
        for policy, pairs in zip(policies, allowed, strict=True):
            replay(policy, pairs)
        return with_phases(policies, before.phases)

    unused, removable = _unused(document, used, elsewhere)
    try:
        return without({*removable}), unused
    except ReplayError:  # one of these rules brings what runs used into the implied set: it is used
        removed: set[Rule] = set()
        for rule in removable:
            with suppress(ReplayError):
                without({*removed, rule})
                removed.add(rule)
        lines = {_line(*rule, before.entries[rule[0]][rule[1]]) for rule in removable if rule not in removed}
        return without(removed), [rule for rule in unused if rule.line not in lines]


def _allowed(
    policy: Policy, observed: Sequence[tuple[Table, Observation]], recording: Recording
) -> Iterator[list[tuple[Table, Observation]]]:
    """Yield the observations that each phase of a policy allows, the start's first, of those that may have been made in it."""
    timed = by_role([observation for _, observation in observed], recording)
    for number, (_, of_phase) in enumerate(phase_policies(policy)):
        after = waits_of(policy.phases[number - 1 :]) if number else 0
        yield [
            pair
            for pair, observation in zip(observed, timed, strict=True)
            if (not after or is_late(observation, after))
            and all(evaluate(of_phase, event).allows for event in events(pair[1], pair[0]))
        ]


def _unused(
    document: Document, used: Mapping[Call, set[Event]], elsewhere: Mapping[Call, set[Event]]
) -> tuple[list[Unused], list[Rule]]:
    """Return the rules that no event of `used` matches, and those of them that can be removed: not those that an event of
    `elsewhere` matches, which rehearsed runs made."""
    unused: dict[str, Unused] = {}
    removable: dict[Rule, None] = {}
    for _, policy in phase_policies(document.policy):
        for arch, number, entry in policy.each():
            reason = _reason(document, arch, number, entry)
            for rule in alternatives(entry.expression) if reason != _DENIES else ():
                if not _matches(rule, arch, number, used):
                    kept = reason or _accepted(document, arch, number, rule)
                    kept = kept or "rehearsed runs use it" * _matches(rule, arch, number, elsewhere)
                    line = _line(arch, number, rule, entry)
                    unused.setdefault(line, Unused(line, kept))
                    if not kept:
                        removable[arch, number, rule] = None
    return [*unused.values()], [*removable]


def _each_without(policy: Policy, rules: Collection[Rule]) -> list[Policy]:
    """Return the policy of each phase without these rules."""

    def narrow(arch: Arch, number: int, entry: Entry) -> Entry | None:
        parts = alternatives(entry.expression)
        remaining = [part for part in parts if (arch, number, part) not in rules]
        return entry if len(remaining) == len(parts) else reached(entry, remaining)

    return [of_phase.changed(narrow) for _, of_phase in phase_policies(policy)]


def _line(arch: Arch, number: int, rule: Expression, entry: Entry) -> str:
    """Return one rule of an entry as a line of its own, with the entry's action."""
    return " ".join(format_entry(arch, number, Entry(rule, entry.action)).split())


_DENIES = "it denies calls"


def _reason(document: Document, arch: Arch, number: int, entry: Entry) -> str:
    """Return why an entry is kept whatever runs did; '' for one that is not."""
    is_implied = document.policy.implied and entry.action != ALLOW  # without the entry, the implied set may allow the call
    if is_implied or not entry.grants(document.policy.default):
        return _DENIES
    section = document.layout.sections.get(arch, Section())
    if any(number in include.entries.get(arch, {}) for include in section.includes):
        return "an included file has it"
    note = note_of(document.layout, arch, number)
    if note and not note.startswith("many: "):
        return note
    return _why(section.entries.get(number, Remarks()).entry.all())


def _accepted(document: Document, arch: Arch, number: int, rule: Expression) -> str:
    remarks = document.layout.sections.get(arch, Section()).entries.get(number, Remarks())
    return _why(remarks.alternatives[rule].all()) if rule in remarks.alternatives else ""


def _why(comments: Iterable[str]) -> str:
    return next((comment.removeprefix("# ") for comment in comments if comment.startswith(WHY)), "")


def _observed(recording: Recording, columns: set[int]) -> Iterator[tuple[Table, Observation]]:
    """Yield the observations of the runs with these indexes whose calls a policy can name, each with the table of its call."""
    for observation in recording.observations:
        calls = table_of(observation.arch, observation.number)
        if calls and any(observation.counts[at] for at in columns):
            yield calls, observation.fitted(calls)


def _events(observed: Iterable[tuple[Table, Observation]]) -> dict[Call, set[Event]]:
    result: dict[Call, set[Event]] = {}
    for calls, observation in observed:
        result.setdefault((calls.arch, observation.number), set()).update(events(observation, calls))
    return result


def _matches(rule: Expression, arch: Arch, number: int, used: Mapping[Call, set[Event]]) -> bool:
    arguments = table(arch).by_number[number].arguments
    return any(rule == Always(True) or holds(rule, arguments, event.arguments) for event in used.get((arch, number), ()))


# Files and ports


_KINDS = {
    "paths": "files",
    **{use: f"ports ({start})" for use, start in USES.items()},
    "unix": "unix sockets",
    "query": "names",
}
"""Words for `grants.KINDS`."""


def _narrowed_files(document: Document, runs: Sequence[Sequence[Use]]) -> tuple[Files, list[Unused], list[str]]:
    """Return the files without what these runs did not use, the lines that have more, and what could not be judged."""
    files, not_judged = document.policy.files, []
    by_host = connects_by_host(files)
    needed = learned(runs, exact=not document.policy.implied, hosts=by_host).files
    both = intersected(files, needed)
    judged = []
    for kind, what in _KINDS.items():
        if getattr(files, kind) is None:
            continue
        missing = sum(not any(kind_of(use) == kind for use in run) for run in runs)
        if missing:
            not_judged.append(f"{what}: {missing} of these runs did not record them")
        elif _loses(files, replace(files, **TREES[kind].copied(both)), runs):
            others = "other lines do not let the names be looked up" if kind == "query" else "and not the names"
            not_judged.append(f"{what}: addresses of names that these runs used are granted, {others}")
        elif getattr(needed, kind) is not None:
            judged.append(TREES[kind])
    bare = replace(files, **{name: value for kind in judged for name, value in kind.copied(both).items()})
    kept = _kept_lines(document)
    narrow = extended(bare, _only(files, kept))
    if narrow.asks_freely and not files.asks_freely:  # without a name, it could look up every name
        narrow = replace(narrow, query=files.query)
    _require_uses(files, narrow, runs)
    unused, before, after, without = [], files.lines(), narrow.lines(), bare.lines()
    for line, value in before.items():
        if line in kept:
            unused += [Unused(written(line, value), kept[line])] * (without.get(line) != value)
        elif after.get(line) != value:
            unused.append(Unused(written(line, value), remains=written(line, after[line]) if line in after else ""))
    unused += [Unused("", remains=written(line, value)) for line, value in after.items() if line not in before]
    return narrow, unused, not_judged


def _loses(before: Files, after: Files, runs: Iterable[Sequence[Use]]) -> bool:
    """Return whether `after` lacks a host, a unix socket or a name of a run that `before` grants."""
    return any(lacks(after, run) and not lacks(before, run) for run in runs)


def _kept_lines(document: Document) -> dict[str, str]:
    """Return the lines about files and ports that are kept whatever runs did, with the reason."""
    kept = {line: why for line, comments in document.layout.files.items() if (why := _why(comments.all()))}
    includes = [include for section in document.layout.sections.values() for include in section.includes]
    return kept | {line: "an included file has it" for include in includes for line in include.files.lines()}


def _only(files: Files, lines: Collection[str]) -> Files:
    """Return the files with nothing but these lines."""
    fields: dict[str, Any] = {}
    for kind in TREES.values():
        own = {place: bits for place, bits in kind.grants(files).items() if kind.line(place) in lines}
        if any(own.values()) and getattr(files, kind.name) is not None:
            fields |= kind.fields(own)
    return replace(NOT_CONFINED, **fields)


def _require_uses(before: Files, after: Files, runs: Iterable[Sequence[Use]]) -> None:
    """Raise InternalError if a use that `before` grants is not granted any more."""
    for name, words, _ in {use for run in runs for use in run}:
        kind = PATHS if is_path(name) else line_kind(name)
        is_by_host = name == USES["connect"] and connects_by_host(before)  # then its host is in another use
        if kind is not None and not is_by_host:
            place = name if kind is PATHS else kind.place(name)
            had, has = kind.granted(kind.grants(before), place), kind.granted(kind.grants(after), place)
            if kind.bits(words) & had & ~has:
                raise InternalError(f"nothing written: {name}: {words} was used, and the narrowed policy does not grant it")
