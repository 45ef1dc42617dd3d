"""Generate the policy that allows the observations and what the existing policy, if any, allows.

The steps: *sort* the observations by whether the policy allows them (`beyond`), *extend* the entries of calls that it does not
(`extend`, `generalise`), *grow* the policy by the equivalents of other C libraries (`portable`), *write* it with its notes
(`floor`), and *check* that it allows every observation (`replay`): a policy that does not is never written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import TypeVar

from callfence.policygen.evaluate import table_with
from callfence.policygen.files.algebra import Difference as FileDifference
from callfence.policygen.filter.room import surely_fits
from callfence.policygen.implied.resolve import Call
from callfence.policygen.language.document import Document, new_document
from callfence.policygen.language.layout import note_of
from callfence.policygen.learning.extend import DEFAULTS, Extended, Grown, Options, extend
from callfence.policygen.learning.floor import ARMED_BEFORE, FLOOR, OPAQUE, VISIBLE_NO_MORE
from callfence.policygen.learning.foreseen import WORD as LATER
from callfence.policygen.learning.generalise import Widened, Widening
from callfence.policygen.learning.replay import replay
from callfence.policygen.learning.sorting import Placed, Sorted, sort_by, without_covered
from callfence.policygen.learning.waits import note_on_waiting, with_waits
from callfence.policygen.model import ENOSYS, Always, Arm, Entry, Expression, Policy, alternatives
from callfence.policygen.recording.fold import arguments_given_up
from callfence.policygen.recording.model import Observation
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, X32_BIT, Arch, name_of, table, table_of
from callfence.tracer.abi.table import Table
from callfence.tracer.named import NamedTuple

_ALLOWED = Entry(Always(True))
_ARMING = "execve"
_Value = TypeVar("_Value")
_MANY_VALUES = "many: "
"""Begins the note on an entry that leaves an argument free because too many values were observed."""
_PORTABLE = "portable: "
"""Begins the note on an entry that has only equivalents (`learning.portable`)."""


class New(NamedTuple):
    """A call of which the policy now allows more."""

    arch: Arch
    number: int
    entry: Entry
    """The call's entry in the new policy."""
    alternatives: tuple[Expression, ...]
    """The alternatives that the entry did not have."""
    first: bool
    """Whether the call had no entry before."""
    phase: str = ""
    """The phase in which it was denied until now, though not before that; "" if it was denied everywhere."""


class Generated(NamedTuple):
    document: Document
    """The new policy; the existing document itself if nothing has changed."""
    new: tuple[New, ...]
    """The calls of which more is allowed, by architecture and name; without the floor."""
    widenings: Mapping[Widened, int]
    """Widening of a new rule -> number of observations that it was applied to; the floor is included."""
    refused: tuple[Observation, ...]
    """The observations that were not added because the policy denies them explicitly, or can have no entry for the call
    (`evaluate.opens_others`)."""
    gaps: tuple[str, ...]
    """The observed calls that no policy can allow, in words."""
    implied: int = 0
    """Number of observations that the existing policy, or the implied set, already allows."""
    files: tuple[FileDifference, ...] = ()
    """The files and ports that are newly granted."""
    phases: str = ""
    """What was decided about phases, and why."""
    forbidden: tuple[Observation, ...] = ()
    """The observations that were not added because the upper bound does not allow all of their calls, in their order."""
    given_up: Mapping[Call, tuple[str, ...]] = MappingProxyType({})
    """Call -> the names of its arguments that the policy does not restrict because too many values were observed."""


def generate(
    observations: Iterable[Observation],
    existing: Document | None,
    *,
    name: str,
    options: Options = DEFAULTS,
    arm: Arm | None = None,
) -> Generated:
    """Return the policy of a program, which allows what the existing policy does and what was observed; `name` is the
    program's.

    `arm` None keeps that of the existing policy, and is `exec` for a new one.  Counts of observations matter only for `tight`,
    and only whether they are zero: the same behaviour gives the same text.  Raises CompileError if the policy cannot be
    compiled, and ReplayError, a bug of ours, if it denies what was observed."""
    old = existing.policy if existing else Policy({}, implied=options.implied)
    options = options._replace(implied=old.implied)
    placed, gaps, many = _by_call(observations)
    start = _start(old, placed, options, arm)
    if not start.implied:
        placed = _in_order(with_waits(placed, start, options))
    sorting = sort_by(start, placed, options.allow_opaque, names_only=options.names_only)
    equivalents = _noted(existing, _PORTABLE)
    extended = _extended(sorting, options, equivalents)
    grown = _grown(old, without_covered(_with_entries(sorting.policy, extended), old), extended, options)
    if existing is not None and grown.policy == old:
        document = existing
    else:
        document = _written(existing, name, grown, _still_equivalents(equivalents, extended), many)
    _check(document, existing, _allowed(sorting, extended))
    return Generated(
        document,
        tuple(_new(old, grown, extended)),
        _widenings(old, start, extended, grown),
        tuple(observation for extension in extended.values() for observation in extension.refused),
        gaps,
        len(sorting.allowed),
        given_up=many,
    )


def _by_call(observations: Iterable[Observation]) -> tuple[Placed, tuple[str, ...], dict[Call, tuple[str, ...]]]:
    """Return the observations of each call that a policy can name, in the order of architecture and name; the calls that none
    can name, in words; and call -> the names of its arguments of which too many values were observed."""
    placed: Placed = {}
    gaps = []
    many = {}
    ordered = sorted(observations, key=lambda observation: observation.order)
    for (audit, number), group in groupby(ordered, key=lambda observation: (observation.arch, observation.number)):
        if calls := table_of(audit, number):
            of_call = tuple(group)
            placed[calls.arch, number] = tuple(observation.fitted(calls) for observation in of_call)
            if indexes := sorted({index for observation in of_call for index in arguments_given_up(observation, calls)}):
                many[calls.arch, number] = tuple(calls.by_number[number].arguments[index].name for index in indexes)
        else:
            gaps.append(_gap(audit, number))
    return _in_order(placed), tuple(gaps), many


def _in_order(calls: Mapping[Call, _Value]) -> dict[Call, _Value]:
    """Return the calls by architecture and name."""
    order = list(Arch)
    return dict(sorted(calls.items(), key=lambda item: (order.index(item[0][0]), name_of(*item[0]))))


def _gap(audit: int, number: int) -> str:
    arch = Arch.from_audit(audit)
    if arch is None:
        return f"call {number} of architecture {audit:#x}, which callfence does not know: it will be killed"
    if arch.is_x32(number):
        return f"x32 call {number - X32_BIT}: it will be killed"
    newest = table(arch).versions()[-1]
    if table(arch).is_newer(number, newest):
        return f"call {number} of {arch}, newer than the table of {'.'.join(map(str, newest))}: as `unknown` says"
    return f"number {number} of {arch}, which is no call: as `default` says"


def _start(old: Policy, placed: Placed, options: Options, arm: Arm | None) -> Policy:
    """Return the policy that the observations are compared with: the old policy with the settings of the options, and with the
    floor in each architecture that has no entries; what a person has removed is not added again.

    Without observations no architecture is added to those that the old policy has.  A policy with an implied set gets no
    entries: the set contains the floor."""
    arches = [arch for arch, _ in placed] or [next(iter(old.entries), NATIVE)]
    arm = arm or old.arm
    entries = {}
    for arch in Arch:
        if arch not in arches and arch not in old.entries:
            continue
        section = dict(old.entries.get(arch, {}))
        calls = table(arch).by_name
        if arch in arches and not section and not old.implied:
            section = {calls[name].number: _ALLOWED for name in FLOOR if name in calls}
        if arm is Arm.NOW and arch.bits == 64:  # that of the Python which execs
            section.setdefault(calls[_ARMING].number, _ALLOWED)
        entries[arch] = section
    return replace(old, entries=entries, arm=arm, default=options.default or old.default)


def _extended(sorting: Sorted, options: Options, equivalents: Collection[Call]) -> dict[Call, Extended]:
    """Return the entries extended by the observations that the policy does not allow, with the rules that grant capabilities
    counted as added; entries in `equivalents` were not written by hand."""
    entries = sorting.policy.entries
    extended = {
        (arch, number): extend(
            entries[arch].get(number), observed, table(arch), options, by_hand=(arch, number) not in equivalents
        )
        for (arch, number), observed in sorting.beyond.items()
    }
    for (arch, number), parts in sorting.granted.items():
        extension = extended.get((arch, number), Extended(entries[arch][number]))
        extended[arch, number] = extension._replace(added=(*parts, *extension.added))
    return _in_order(extended)


def _written(
    existing: Document | None, name: str, grown: Grown, equivalents: Mapping[Call, str], many: Mapping[Call, tuple[str, ...]]
) -> Document:
    """Return the document of the new policy, with its notes."""
    policy = grown.policy
    earlier = {**_noted(existing, LATER), **_noted(existing, _MANY_VALUES)}
    notes = {**earlier, **equivalents, **grown.reasons, **_notes(policy), **_many_notes(many, policy)}
    return existing.with_policy(policy, notes) if existing else new_document(policy, name, notes)


def _still_equivalents(equivalents: Mapping[Call, str], extended: Mapping[Call, Extended]) -> dict[Call, str]:
    """Return the notes of the entries that still have only equivalents."""
    return {call: note for call, note in equivalents.items() if call not in extended or not extended[call].added}


def _allowed(sorting: Sorted, extended: Mapping[Call, Extended]) -> list[tuple[Table, Observation]]:
    """Return the observations that the policy has to allow, each with the table of its call."""
    new = [(table(arch), observation) for (arch, _), extension in extended.items() for observation in extension.allowed]
    return new + [(table(arch), observation) for (arch, _), observation in sorting.allowed]


def _check(document: Document, existing: Document | None, allowed: Sequence[tuple[Table, Observation]]) -> None:
    """Raise ReplayError if the policy denies an observation that it has to allow, and CompileError if it cannot be compiled."""
    if document is existing and not allowed:
        return  # there is nothing to write, and nothing to replay
    replay(document.policy, allowed)
    if not surely_fits(document.policy):
        from callfence.policygen.filter.compile import compile_policy  # loads libseccomp

        compile_policy(document.policy)


def _with_entries(policy: Policy, extended: Mapping[Call, Extended]) -> Policy:
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    version = policy.table
    for (arch, number), extension in extended.items():
        if extension.entry is not None:
            entries[arch][number] = extension.entry
            version = max(version, table_with(policy, arch, number))
    return replace(policy, entries=entries, table=version)


def _grown(old: Policy, policy: Policy, extended: Mapping[Call, Extended], options: Options) -> Grown:
    """Add the equivalents of the new rules; if the policy becomes portable only now, add those of all its rules.  Without
    portability, return it unchanged."""
    if not (old.portable or options.portable):
        return Grown(policy)
    from callfence.policygen.learning import portable  # whose tables take 8 ms to load

    if old.portable:
        return portable.with_equivalents(policy, {call: each.added for call, each in extended.items() if each.added})
    return portable.made_portable(policy)


def _noted(existing: Document | None, word: str) -> dict[Call, str]:
    """Return the notes on entries that begin with this word."""
    if existing is None:
        return {}
    layout, policy = existing.layout, existing.policy
    notes = {(arch, number): note_of(layout, arch, number) for arch, number, _ in policy.each()}
    return {call: note for call, note in notes.items() if note.startswith(word)}


def _many_notes(many: Mapping[Call, tuple[str, ...]], policy: Policy) -> dict[Call, str]:
    """Return the notes on entries that leave an argument free because too many values were observed."""
    return {
        (arch, number): f"{_MANY_VALUES}any {' and '.join(names)}, for too many values were seen to list them"
        for (arch, number), names in many.items()
        if number in policy.entries.get(arch, {})
    }


def _notes(policy: Policy) -> dict[Call, str]:
    """Return the notes on entries that come from `floor`."""
    notes = {}
    for arch, number, entry in policy.each():
        name = name_of(arch, number)
        if entry == _ALLOWED and policy.arm is Arm.NOW and name == _ARMING:
            notes[arch, number] = ARMED_BEFORE
        elif entry == _ALLOWED and (name in FLOOR or name in VISIBLE_NO_MORE):
            notes[arch, number] = FLOOR.get(name) or VISIBLE_NO_MORE[name]
        elif entry == Entry(Always(True), ENOSYS) and name in OPAQUE:
            notes[arch, number] = OPAQUE[name]
        elif note := note_on_waiting(policy, arch, number):
            notes[arch, number] = note
    return notes


def _new(old: Policy, grown: Grown, extended: Mapping[Call, Extended]) -> Iterator[New]:
    policy = grown.policy
    calls = [call for call, extension in extended.items() if extension.entry is not None and extension.added]
    for arch, number in _in_order(dict.fromkeys((*calls, *grown.grown), ())):
        entry, before = policy.entries[arch][number], old.entries.get(arch, {}).get(number)
        earlier = alternatives(before.expression) if before else ()
        added = tuple(rule for rule in alternatives(entry.expression) if rule not in earlier)
        yield New(arch, number, entry, added, before is None)


def _widenings(old: Policy, start: Policy, extended: Mapping[Call, Extended], grown: Grown) -> dict[Widened, int]:
    """Return the widenings of the new rules, each with the number of observations that it was applied to: 0 for the floor's new
    entries, and for equivalents."""
    observed = {widened: count for each in extended.values() for widened, count in each.widenings.items()}
    floor = {
        Widened(arch.audit, number, -1, Widening.FLOOR): 0
        for arch, number, _ in start.each()
        if number not in old.entries.get(arch, {})
    }
    return floor | observed | {Widened(arch.audit, number, -1, Widening.PORTABLE): 0 for arch, number in grown.grown}
